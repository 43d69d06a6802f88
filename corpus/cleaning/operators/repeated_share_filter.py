"""`repeated_share_filter`: drop texts that mostly say again what they have said.

    share = letters inside runs of `window` letters that occurred before / all letters

A text that says everything twice has 0.5, ten times 0.9. Songs with a chorus, texts beside their
corrected form and lists of equal phrases stay below 0.9; a model that talks in a loop and a page of
one repeated word lie above. Only letters and digits of prose count: the rules of a table, the lines
of a form, formulas and blocks of code, which repeat their words, do not. Data-Juicer's
word_repetition_filter counts the first occurrence too, so it gives 1 to what was said twice, and
character_repetition_filter counts the most frequent runs alone, so it gives 0.2 to a sentence of 20
letters said fifty times.
"""

import re
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
_OTHER = re.compile(r"[\W_]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def repeated_share(text: str, window: int) -> float:
    """Share of a text's letters that repeat earlier ones; 0 for a text without letters."""
    letters = _OTHER.sub("", _FORMULA.sub("", _CODE.sub("", text)))
    num = len(letters) - window + 1
    if num < 2:
        return 0.0
    codes = np.frombuffer(letters.encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    hashes: npt.NDArray[np.uint64] = np.zeros(num, np.uint64)
    for start in range(window):
        hashes = (hashes ^ (hashes >> np.uint64(29))) * _FACTOR + codes[start : start + num]
    _, first = np.unique(hashes, return_index=True)
    if len(first) == num:
        return 0.0
    # +1 where a repeated window begins, -1 behind its end: above 0, a letter is inside of one.
    change = np.zeros(len(letters) + 1, np.int64)
    repeated = np.ones(num, bool)
    repeated[first] = False
    change[:num] += repeated
    change[window:] -= repeated
    return float((np.cumsum(change[:-1]) > 0).mean())


@OPERATORS.register_module("repeated_share_filter")
class RepeatedShareFilter(Filter):
    """Keep texts of which at most a share repeats what they said before."""

    _batched_op = True

    def __init__(
        self, window: int = 12, max_ratio: float = 0.91, *args: Any, **kwargs: Any
    ) -> None:
        """
        Initialization method.

        :param window: letters in a row that count as repeated together; 1 or more.
        :param max_ratio: largest share of repeated letters, 0 to 1.
        :param args: extra args
        :param kwargs: extra args
        """
        super().__init__(*args, **kwargs)
        self.window = window
        self.max_ratio = max_ratio

    def compute_stats_batched(self, samples: dict[str, Any]) -> dict[str, Any]:
        """Measure every text."""
        for text, stats in zip(samples[self.text_key], samples[Fields.stats], strict=True):
            if "repeated_share" not in stats:
                stats["repeated_share"] = repeated_share(text, self.window)
        return samples

    def process_batched(self, samples: dict[str, Any]) -> list[bool]:
        """True for each text to keep."""
        return [stats["repeated_share"] <= self.max_ratio for stats in samples[Fields.stats]]
