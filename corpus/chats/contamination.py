"""Benchmark questions in conversations and preference pairs."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.decontaminate import ContaminationConfig, Index, cached_index, match_row

MATCHES_FILE = "contamination.jsonl"
"""Written beside the data: a line for each row and each question that it contains."""


@dataclass(frozen=True)
class ContaminationFilter:
    """Finds benchmark questions in rows."""

    index: Index
    """The questions."""

    @classmethod
    def of(
        cls, config: ContaminationConfig, benchmarks: Path | None, cache: Path
    ) -> "ContaminationFilter | None":
        """Index the benchmarks of a folder; None without a folder or when the action is off.

        Args:
            config: what counts as contained.
            benchmarks: folder of the benchmarks.
            cache: folder in which the index is kept for the next time.

        Raises DataError when a configured benchmark is not there.
        """
        if benchmarks is None or config.action == "off":
            return None
        return cls(cached_index(benchmarks, (), config, cache)[0])

    @property
    def drops(self) -> bool:
        """True if a row that contains a question is left out."""
        return self.index.config.action == "drop"

    def matches(self, texts: Iterable[str], row: str) -> list[dict[str, Any]]:
        """Questions in the texts of a row, each as a line of the matches file."""
        return [match_row(match, row) for match in self.index.find("\n".join(texts))]
