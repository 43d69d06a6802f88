"""Benchmark questions in conversations and preference pairs."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from corpus.decontaminate import ContaminationConfig, Index, cached_index, match_row

MATCHES_FILE = "contamination.jsonl"
"""Written beside the data: a line for each row and each question that it contains."""


@dataclass(frozen=True)
class ContaminationFilter:
    """Finds benchmark questions in rows."""

    index: Index
    """The questions."""
    key: str
    """Hash of all that decides about what is found."""
    action: Literal["drop", "flag"]
    """drop: a row that contains a question is left out; flag: it is only listed."""

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
        # What is done with what is found does not belong to the search.
        index, path = cached_index(benchmarks, (), replace(config, action="flag"), cache)
        return cls(index=index, key=path.stem, action=config.action)

    @property
    def drops(self) -> bool:
        """True if a row that contains a question is left out."""
        return self.action == "drop"

    def matches(self, texts: Iterable[str], row: str) -> list[dict[str, Any]]:
        """Questions in the texts of a row, each as a line of the matches file."""
        return [match_row(match, row) for match in self.index.find("\n".join(texts))]
