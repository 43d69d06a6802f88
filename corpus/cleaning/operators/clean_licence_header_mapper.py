"""Licence headers out of source files, and nothing else.

Data-Juicer's `clean_copyright_mapper` looks at the first `/* */` comment anywhere in a file; where
there is none, it takes away all leading lines that begin with `#`, `//` or `--`: `#include`, the
line that names the interpreter, Markdown headings, documentation. Here only the comments that open
a file are looked at, and in them only the paragraphs go that speak of copyright or a licence: what
the file is for, and what it tells other tools (`coding: utf-8`, `clang-format off`), stays.
"""

import re

from data_juicer.ops.base_op import OPERATORS, Mapper

LICENCE = re.compile(
    r"copyright|©|\(c\)\s*[12][0-9]{3}|all rights reserved|spdx-license|licen[sc]ed (?:under|to)"
    r"|licen[sc]e[,:]? *v(?:ersion)?|(?:gnu|mit|bsd|apache|public|mozilla)[\w -]{0,30}licen[sc]e"
    r"|licen[sc]e\.txt|open source licen[sc]e|permission is hereby granted|under the terms of"
    r"|版权|著作权|许可证",
    re.I,
)
KEPT = re.compile(r"#!.*|#.*?(?:coding[:=]|vim?:|-\*-).*|<\?.*|package [\w.]+;\s*")
"""First lines that tell a program how to read the file."""
DIRECTIVE = re.compile(r"#\s*(?:include|if|ifdef|ifndef|define|undef|pragma|import|error|line)\b")
BOILERPLATE = re.compile(
    r"warrant|liabilit|liable|redistribut|hereby|as[- ]is\b|hope that it will be useful|"
    r"you should have received|obtain a copy|licen[sc]es?/|endorse or promote|following conditions|"
    r"applicable law|free software|franklin st|see the licen|disclaimer|in compliance with",
    re.I,
)
"""Words of the further paragraphs of a licence."""
ABOUT = re.compile(
    r"[@\\](?:file|brief|details|author|date)\b|\b(?:file|contents|description|purpose|notes?|summary|usage|"
    r"history|module|synopsis|abstract)\s*:",
    re.I,
)
"""Words of a paragraph that says what a file is for."""
FOR_TOOLS = re.compile(
    r"coding[:=]|-\*-|\b(?:vim?|ex):|\b(?:pylint|flake8|noqa|mypy|isort|pyright|ruff)\b"
    r"|type: ignore|fmt: |clang-format|NOLINT|\b[ejt]s?(?:lint|hint)\b|@ts-|\+build|go:build",
    re.I,
)
"""Lines that tell other tools how to read the file."""
SAID = re.compile(r"[\w©]")
"""A line that says something."""
LINE_COMMENT = re.compile(r"[ \t]*(//|#|--|;|%)")
BLOCKS = (("/*", "*/"), ("<!--", "-->"))


@OPERATORS.register_module("clean_licence_header_mapper")
class CleanLicenceHeaderMapper(Mapper):
    """Removes the comments at a file's start that state a copyright or a licence."""

    _batched_op = True

    def clean(self, text: str) -> str:
        """One file without its licence header."""
        if not LICENCE.search(text):
            return text
        lines = text.split("\n")
        kept: list[str] = []
        at, removed, gone = 0, False, False
        while at < len(lines):
            line = lines[at].lstrip("\ufeff")
            end = _comment_end(lines, at)
            if not line.strip():
                # The blank lines behind what goes go with it.
                if not gone or (kept and kept[-1].strip()):
                    kept.append(lines[at])
                at += 1
            elif KEPT.match(line):
                kept.append(lines[at])
                at, gone = at + 1, False
            elif end is None:
                break
            else:
                block = lines[at:end]
                left = block
                if LICENCE.search("\n".join(block)):
                    removed, left = True, _without_licence(block)
                kept += left
                at, gone = end, not left
        if not removed:
            return text
        if not any(line.strip() for line in kept):
            kept = []
        return "\n".join(kept + lines[at:])

    def process_batched(self, samples: dict[str, list[str]]) -> dict[str, list[str]]:
        """Clean every file of a batch."""
        samples[self.text_key] = [self.clean(text) for text in samples[self.text_key]]
        return samples


def _comment_end(lines: list[str], at: int) -> int | None:
    """The line after the comment that begins at a line; None where none does."""
    line = lines[at].lstrip("\ufeff \t")
    for opening, closing in BLOCKS:
        if line.startswith(opening):
            return _block_end(lines, at, line, opening, closing)
    marker = LINE_COMMENT.match(line)
    if marker is None or DIRECTIVE.match(line):
        return None
    end = at + 1
    while end < len(lines):
        following = lines[end].lstrip(" \t")
        if not following.startswith(marker[1]) or DIRECTIVE.match(following):
            break
        end += 1
    return end


def _block_end(lines: list[str], at: int, line: str, opening: str, closing: str) -> int | None:
    rest = line[len(opening) :]
    end = at
    while closing not in rest:
        end += 1
        if end == len(lines):
            return None  # never closed: no comment
        rest = lines[end]
    # Code after a comment on its last line makes it no header.
    return end + 1 if not rest.split(closing, 1)[1].strip() else None


def _without_licence(block: list[str]) -> list[str]:
    """The lines of a comment without a licence's paragraphs; none where nothing else is said."""
    paragraphs = _paragraphs(block)
    stated = [i for i, lines in enumerate(paragraphs) if _states_licence(block, lines)]
    if not stated:  # a sign alone
        return []
    gone = {
        number
        for i in range(stated[0], stated[-1] + 1)
        # What stands between two paragraphs of a licence is one as well.
        if i in stated or not ABOUT.search("\n".join(block[n] for n in paragraphs[i]))
        for number in paragraphs[i]
        if not FOR_TOOLS.search(block[number])
    }
    left = [n for lines in paragraphs for n in lines if n not in gone]
    if not any(SAID.search(_content(block[n])) for n in left):
        return []
    opening, closing = _delimiters(block)
    result: list[str] = []
    for number, line in enumerate(block):
        if number in gone:
            if number == 0 and opening:
                result.append(opening)
            if number == len(block) - 1 and closing and number:
                result.append(closing)
        elif SAID.search(line) or not (gone and result and _is_blank(result[-1], line)):
            result.append(line)
    while not closing and not SAID.search(result[-1]) and len(result[-1].strip()) <= 3:
        result.pop()
    return result


def _is_blank(before: str, line: str) -> bool:
    """True for the second of two equal lines without a word."""
    return line.strip() == before.strip()


def _content(line: str) -> str:
    """A line of a comment without its marks."""
    return line.strip(" \t/*#;%!-=<>\ufeff")


def _paragraphs(block: list[str]) -> list[list[int]]:
    """Numbers of the lines of a comment's paragraphs, which empty lines and rules part."""
    result: list[list[int]] = [[]]
    for number, line in enumerate(block):
        if SAID.search(_content(line)):
            result[-1].append(number)
        elif result[-1]:
            result.append([])
    return [lines for lines in result if lines]


def _states_licence(block: list[str], lines: list[int]) -> bool:
    text = "\n".join(block[number] for number in lines)
    return bool(LICENCE.search(text) or BOILERPLATE.search(text))


def _delimiters(block: list[str]) -> tuple[str, str]:
    """The marks around a block comment; empty for a comment line by line."""
    for opening, closing in BLOCKS:
        if block[0].lstrip("\ufeff \t").startswith(opening):
            first = re.match(r"\ufeff?[ \t]*(?:/\*+!?|<!--)", block[0])
            assert first is not None
            return first.group(), f" {closing}" if opening == "/*" else closing
    return "", ""
