"""Drop or flag documents that contain evaluation questions: a Data-Juicer filter of ours.

From a document much longer than the question the passage alone is cut: the filter changes the text
while it computes its statistics, so that one search serves both, here and under `dj-process`.

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
from corpus.decontaminate import Index, match_row, without_questions

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
        """Add the statistics OVERLAP and MATCHES; cut passages out of long documents."""
        index = _index(self.index)
        texts = list(samples[self.text_key])
        for k, (text, stats) in enumerate(zip(texts, samples[Fields.stats], strict=True)):
            if OVERLAP in stats:
                continue
            found = index.find(text)
            cut = None
            if found and self.action == "drop":
                cut = without_questions(text, found, index)
                texts[k] = text if cut is None else cut
            rows = [match_row(match, "", cut=cut is not None) for match in found]
            stats[OVERLAP] = max((match.overlap for match in found), default=0.0)
            # A string: the rows of a table all have this one, whatever was found.
            stats[MATCHES] = json.dumps(rows, ensure_ascii=False)
        return samples | {self.text_key: texts}

    def process_batched(self, samples: dict[str, Any]) -> list[bool]:
        """Keep what contains no question, or none any more; everything where they are flagged."""
        return [self.action == "flag" or _is_clean(stats) for stats in samples[Fields.stats]]


def _is_clean(stats: dict[str, Any]) -> bool:
    """True without any question, and where all passages were cut out."""
    return not stats[OVERLAP] or all(row["cut"] for row in json.loads(stats[MATCHES]))
