"""Bounds for source files, measured without their layout: a Data-Juicer filter of ours.

Indentation, blanks at the ends of lines and blank lines say how a file is laid out, not if it is
good: with tabs or twenty blanks before each line, Data-Juicer's own filters find repetition and
short or long lines in the best of files. Here every run of blanks counts as one, and what a line
begins and ends with not at all.
"""

import re
import zlib
from typing import Any

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields

WORDS, LINE, LONG, LETTERS, NEW = (
    "code_words",
    "code_line_length",
    "code_long_line_ratio",
    "code_letter_ratio",
    "code_compression",
)
"""Statistics: words; characters of a line on average; share of the characters on lines longer than
LONG_LINE; share of letters among the characters that are no blanks; compressed bytes by bytes."""

LONG_LINE = 1_000
_WORD = re.compile(r"[^\W\d_][^\W_]*")
_RULE = re.compile(r"([^\w\s])\1{3,}")
"""A rule of a comment (`// ======`), which counts as one character."""
SAMPLE = 200_000
"""Bytes that are compressed at most."""


@OPERATORS.register_module("code_measures_filter")
class CodeMeasuresFilter(Filter):
    """Keep source files within bounds, whatever their layout."""

    _batched_op = True

    def __init__(
        self,
        min_words: int = 10,
        max_line_length: float = 200.0,
        max_long_line_ratio: float = 0.5,
        min_letter_ratio: float = 0.25,
        min_compression: float = 0.03,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            min_words: words of the smallest file.
            max_line_length: characters of a line on average at most.
            max_long_line_ratio: share of characters on lines longer than LONG_LINE at most.
            min_letter_ratio: share of letters among the characters that are no blanks at least.
            min_compression: compressed bytes by bytes at least; below, a file repeats itself.
        """
        super().__init__(*args, **kwargs)
        self.least = {WORDS: min_words, LETTERS: min_letter_ratio, NEW: min_compression}
        self.most = {LINE: max_line_length, LONG: max_long_line_ratio}

    def compute_stats_batched(self, samples: dict[str, Any]) -> dict[str, Any]:
        """Add the statistics."""
        for text, stats in zip(samples[self.text_key], samples[Fields.stats], strict=True):
            if WORDS not in stats:
                stats.update(measured(text))
        return samples

    def process_batched(self, samples: dict[str, Any]) -> list[bool]:
        """Keep what is within all bounds."""
        return [
            all(stats[name] >= bound for name, bound in self.least.items())
            and all(stats[name] <= bound for name, bound in self.most.items())
            for stats in samples[Fields.stats]
        ]


def measured(text: str) -> dict[str, float]:
    """The statistics of one file."""
    lines = [" ".join(line.split()) for line in text.split("\n")]
    lines = [line for line in lines if line]
    bare = "\n".join(lines)
    plain = _RULE.sub(r"\1", bare)
    solid = len(plain) - plain.count(" ") - plain.count("\n")
    sample = bare.encode("utf-8", "replace")[:SAMPLE]
    return {
        WORDS: float(sum(1 for _ in _WORD.finditer(bare))),
        LINE: sum(map(len, lines)) / len(lines) if lines else 0.0,
        LONG: sum(len(line) for line in lines if len(line) > LONG_LINE) / (len(bare) or 1),
        LETTERS: sum(map(str.isalpha, plain)) / (solid or 1),
        NEW: len(zlib.compress(sample, 6)) / len(sample) if sample else 0.0,
    }
