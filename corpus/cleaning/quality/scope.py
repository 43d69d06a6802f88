"""Texts that a model of web pages says nothing about, so that none is dropped for its score.

It was trained on pages in prose. To it, source code, formulas, tables, classical Chinese and a few
words are pages without sentences, as lists of titles are: the Songs of Chu score 0.43. Of 1,241
labelled pages fourteen are of such a kind.
"""

import re

SHORT = 100
"""Characters; a shorter text has too little to be measured."""
SHARE = 0.35
"""Share of a text's characters, in lines of code, formulas and tables, from which on it is one."""

FENCE = re.compile(r"\s*(?:```|~~~)")
FORMULA = re.compile(r"\$[^$\n]+\$|\\[a-zA-Z]{2,}|\\[\[(]")
ROW = re.compile(r"\s*\|.*\|\s*\Z|[^\t]*\t[^\t]*\t|\s*\+[-+=]+\+\s*\Z")
SOURCE = re.compile(
    r".*[;{}]\s*\Z|\t|\s*(?://|#|\*|/\*|@\w|</?[a-z])|\s*[\w.-]+:\s*\Z|\s*\w+\(.*\)\s*\Z"
    r"|\s*[\w.\[\]]+\s*[-+*/|]?=\s*\S"
    r"|\s*(?:def|class|if|for|while|return|import|from|public|private|const|let|var|func|fn|struct"
    r"|typedef|SELECT|INSERT)\b"
)
"""A line of code, if it has ASCII only."""
HAN = re.compile(r"[\u3400-\u9fff]")
CLASSICAL = re.compile(r"[之也矣曰乎焉兮哉者其以而于於吾尔汝]")
MODERN = re.compile(r"[的了吗呢吧这那们]")


def is_judged(text: str) -> bool:
    """False for a text that is short, classical, or mostly code, formulas or tables."""
    if len(text) < SHORT or _is_classical(text):
        return False
    lines = text.split("\n")
    size, other, fenced = sum(map(len, lines)), 0, False
    for line in lines:
        fence = FENCE.match(line) is not None
        fenced ^= fence
        if fence or fenced or _is_other(line):
            other += len(line)
    return other < SHARE * size


def _is_other(line: str) -> bool:
    if FORMULA.search(line) or (len(line) > 4 and ROW.match(line)):
        return True
    return line.isascii() and SOURCE.match(line) is not None


def _is_classical(text: str) -> bool:
    han = len(HAN.findall(text))
    return (
        han >= 20
        and len(CLASSICAL.findall(text)) >= 0.07 * han
        and len(MODERN.findall(text)) <= 0.01 * han
    )
