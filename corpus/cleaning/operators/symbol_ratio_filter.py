"""`symbol_ratio_filter`: drop texts of which too much is neither letter nor digit.

    | 甲市 | 30320.51 |   **解：** $3x+7=24$   目录........5      words and numbers, some symbols
    !@#$%^&*()_+{}      ♩♫. ♪ ~ ♬..♩~        ▓▓░░▒▒┤┬╗╔         symbols

Blanks, the marks of Markdown (tables, headings, lists, quotes, emphasis) and the repetition of a
sign (`________` to fill in, `.....` in a table of contents) are layout and count for nothing; of
formulas and blocks of code only letters and digits count. Data-Juicer's special_characters_filter
counts all of these, digits and punctuation too, and so drops tables, arithmetic and forms.
"""

import re
import unicodedata
from typing import Any

import numpy as np
import numpy.typing as npt
from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields

# Blocks of code; formulas between dollars, of which neither has a blank beside it inside.
_CODE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1|\Z)", re.MULTILINE | re.DOTALL)
_FORMULA = re.compile(
    r"\$\$(?=[^$]*[A-Za-z0-9])[^$]+\$\$|\$(?=[^$\n]*[A-Za-z0-9])(?! )[^$\n]{1,500}(?<! )\$"
    r"|\\\(.{1,500}?\\\)|\\\[.{1,500}?\\\]"
)
_LAYOUT = re.compile(
    r"^[ \t]*(?:[#>][#> \t]*|[-*+][ \t])"  # headings, quotes, lists
    r"|^[ \t|:=+-]+$"  # rules, and the second row of a table
    r"|[|*`]|__|~~",
    re.MULTILINE,
)
_BLANK = re.compile(r"\s+")
_SIGNS = re.compile(r"[\W_]+")

LETTERS = ("L", "M", "N")
"""Unicode's categories of letters, accents and digits."""
PLANE = 1 << 16


def _table() -> npt.NDArray[np.bool_]:
    """True for letters and digits of Unicode's first plane. Shape [65536]."""
    return np.array([unicodedata.category(chr(code))[0] in LETTERS for code in range(PLANE)])


_IS_LETTER = _table()


def _words(found: re.Match[str]) -> str:
    """Letters and digits of a formula, or of a block of code."""
    return _SIGNS.sub("", found[0])


def symbol_ratio(text: str) -> float:
    """Share of symbols among the visible characters of a text, 0 to 1; 0 for a text of none.

    Layout, and symbols of formulas and code, are left out.
    """
    prose = _FORMULA.sub(_words, _CODE.sub(_words, text))
    plain = _BLANK.sub("", _LAYOUT.sub("", prose))
    if not plain:
        return 0.0
    codes = np.frombuffer(plain.encode("utf-32-le", "replace"), np.uint32)
    # Behind the first plane: rare Chinese characters from U+20000 on, before that mostly emoji.
    letter = np.where(codes < PLANE, _IS_LETTER[codes % PLANE], codes >= 0x20000)
    symbols = int(np.count_nonzero(~letter[1:] & (codes[1:] != codes[:-1]))) + (not letter[0])
    return symbols / max(1, symbols + int(np.count_nonzero(letter)))


@OPERATORS.register_module("symbol_ratio_filter")
class SymbolRatioFilter(Filter):
    """Keep texts whose share of symbols, layout left out, is at most a bound."""

    _batched_op = True

    def __init__(self, max_ratio: float = 0.81, *args: Any, **kwargs: Any) -> None:
        """
        Initialization method.

        :param max_ratio: largest share of symbols, 0 to 1.
        :param args: extra args
        :param kwargs: extra args
        """
        super().__init__(*args, **kwargs)
        self.max_ratio = max_ratio

    def compute_stats_batched(self, samples: dict[str, Any]) -> dict[str, Any]:
        """Measure every text."""
        for text, stats in zip(samples[self.text_key], samples[Fields.stats], strict=True):
            if "symbol_ratio" not in stats:
                stats["symbol_ratio"] = symbol_ratio(text)
        return samples

    def process_batched(self, samples: dict[str, Any]) -> list[bool]:
        """True for each text to keep."""
        return [stats["symbol_ratio"] <= self.max_ratio for stats in samples[Fields.stats]]
