"""Licence headers out of source files, and nothing else.

Data-Juicer's `clean_copyright_mapper` looks at the first `/* */` comment anywhere in a file; where
there is none, it takes away all leading lines that begin with `#`, `//` or `--`: `#include`, the
line that names the interpreter, Markdown headings, documentation. Here only the comments that open
a file are looked at, and only those go that speak of copyright or a licence.
"""

import re

from data_juicer.ops.base_op import OPERATORS, Mapper

LICENCE = re.compile(
    r"copyright|©|\(c\)\s*[12][0-9]{3}|all rights reserved|spdx-license|licen[sc]ed (?:under|to)"
    r"|licen[sc]e[,:]? *v(?:ersion)?|(?:gnu|mit|bsd|apache|public|mozilla)[\w -]{0,30}licen[sc]e"
    r"|licen[sc]e\.txt|permission is hereby granted|under the terms of|版权|著作权|许可证",
    re.I,
)
KEPT = re.compile(r"#!.*|#.*?(?:coding[:=]|vim?:|-\*-).*|<\?.*|package [\w.]+;\s*")
"""First lines that tell a program how to read the file."""
DIRECTIVE = re.compile(r"#\s*(?:include|if|ifdef|ifndef|define|undef|pragma|import|error|line)\b")
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
        at, removed = 0, False
        while at < len(lines):
            line = lines[at].lstrip("\ufeff")
            end = _comment_end(lines, at)
            if not line.strip() or KEPT.match(line):
                kept.append(lines[at])
                at += 1
            elif end is None:
                break
            else:
                block = lines[at:end]
                if LICENCE.search("\n".join(block)):
                    removed = True
                else:
                    kept += block
                at = end
        if not removed:
            return text
        head = "\n".join(kept).strip("\n")
        rest = "\n".join(lines[at:])
        return f"{head}\n\n{rest}" if head and rest else head or rest

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
