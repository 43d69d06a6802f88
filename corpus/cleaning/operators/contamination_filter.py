"""Drop or flag documents that contain evaluation questions: a Data-Juicer filter of ours.

The stage puts it into the recipe, after the other filters and before the deduplicators, so that a
copy without the question stays when the one that has it goes.
"""

import functools
import json
from pathlib import Path
from typing import Any

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields

from corpus.cleaning.contamination_matches import MATCHES
from corpus.decontaminate import Index, match_row

OVERLAP = "contamination"
"""Statistic: the largest share of a question that the document contains; 0 without any."""


@functools.cache
def _index(path: str) -> Index:
    """Read once in every process."""
    return Index.load(Path(path))


@OPERATORS.register_module("contamination_filter")
class ContaminationFilter(Filter):
    """Find evaluation questions in texts."""

    _batched_op = True

    def __init__(self, index: str = "", action: str = "drop", *args: Any, **kwargs: Any) -> None:
        """
        Args:
            index: folder of an index (corpus/decontaminate).
            action: `drop` or `flag`.
        """
        super().__init__(*args, **kwargs)
        self.index, self.action = index, action

    def compute_stats_batched(self, samples: dict[str, Any]) -> dict[str, Any]:
        """Add the statistics OVERLAP and MATCHES."""
        index = _index(self.index)
        for text, stats in zip(samples[self.text_key], samples[Fields.stats], strict=True):
            if OVERLAP not in stats:
                found = index.find(text)
                stats[OVERLAP] = max((match.overlap for match in found), default=0.0)
                # A string: the rows of a table all have this one, whatever was found.
                stats[MATCHES] = json.dumps([match_row(m, "") for m in found], ensure_ascii=False)
        return samples

    def process_batched(self, samples: dict[str, Any]) -> list[bool]:
        """Keep what contains no question; everything where questions are only flagged."""
        return [self.action == "flag" or not stats[OVERLAP] for stats in samples[Fields.stats]]
