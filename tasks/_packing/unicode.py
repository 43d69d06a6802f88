"""The characters on which libraries' tables of Unicode may differ.

Each library carries the tables of the Unicode version it was built with: `tokenizers` normalises by
those of 2016 and classes characters by newer ones, Python's are as old as the Python. A character
that two versions both know keeps its normal form for ever (Unicode's stability policy,
https://www.unicode.org/policies/stability_policy.html), so only newcomers can make a difference:

    unassigned in Python's tables       perhaps a letter by now: words may be cut elsewhere
    newer than Unicode 3.2 (2002), and  perhaps unknown to an older table: marks may stay
    a mark, or part of a composition    unordered, pairs uncomposed

Some thousand characters in use and the void; of the 217,000 texts of the sample corpora, none has
one of them.
"""

import functools
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_UNICODE = 0x110000


@functools.cache
def unusual_table() -> npt.NDArray[np.bool_]:
    """Which code points tables may disagree about, bool [0x110000]. Takes a quarter of a second."""
    old = unicodedata.ucd_3_2_0
    table = np.zeros(_UNICODE, dtype=np.bool_)
    newer = np.zeros(_UNICODE, dtype=np.bool_)
    for code in range(_UNICODE):
        character = chr(code)
        if unicodedata.category(character) == "Cn":
            table[code] = True
        elif old.category(character) == "Cn":
            newer[code] = True
    for code in range(_UNICODE):
        character = chr(code)
        table[code] |= newer[code] and unicodedata.combining(character) != 0
        parts = unicodedata.decomposition(character)
        if parts and not parts.startswith("<"):
            table[code] |= newer[code]
            for part in (int(part, 16) for part in parts.split()):
                table[part] |= newer[part]
    return table


def unusual(texts: Sequence[str]) -> list[int]:
    """Numbers of the texts that have such a character."""
    table = unusual_table()
    candidates = [number for number, text in enumerate(texts) if not text.isascii()]
    together = "".join(texts[number] for number in candidates)
    if not table[_code_points(together)].any():
        return []
    return [number for number in candidates if table[_code_points(texts[number])].any()]


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
