"""Evaluation questions in conversations and preference pairs: found, listed, dropped or flagged."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import complete_file, read_json_lines
from corpus.decontaminate import ContaminationConfig, Index, build_index, describe_index, match_row
from tasks.core.stage import StageRun

FOUND = "contamination.jsonl"
"""Written beside the data: a line for each row and each question that it contains."""
SHOWN = 200
"""Rows of the table that people are shown; the file has all."""


@dataclass(frozen=True)
class Screen:
    """Looks for evaluation questions in rows."""

    index: Index
    """The questions."""

    @classmethod
    def of(cls, config: ContaminationConfig, benchmarks: Path | None) -> "Screen | None":
        """A screen for the benchmarks in a folder; None where there are none or nobody shall look.

        Raises DataError when a configured benchmark is not there.
        """
        if benchmarks is None or config.action == "off":
            return None
        return cls(build_index(benchmarks, (), config))

    @property
    def drop(self) -> bool:
        """Whether a row that contains a question is left out."""
        return self.index.config.action == "drop"

    def rows(self, texts: Iterable[str], row: str) -> list[dict[str, Any]]:
        """What of the benchmarks stands in a row's turns: one table row a question."""
        return [match_row(match, row) for match in self.index.find("\n".join(texts))]


def found_file(scratch: Path, name: str) -> Path:
    """Where what was found in one set waits until all sets are read."""
    return scratch / f"{name}.{FOUND}"


def report_found(
    run: StageRun, screen: Screen | None, title: str, contaminated: Mapping[str, int]
) -> None:
    """Write contamination.jsonl, count rows of each set, and show what was found.

    Args:
        run: the stage; what was found in each set waits in its scratch folder.
        screen: None says in the notes that nobody looked.
        title: names the table.
        contaminated: set -> rows that contain a question.
    """
    if screen is None:
        run.note(contamination={"action": "off"})
        return
    with complete_file(run.folder / FOUND) as file:
        for name in contaminated:
            with found_file(run.scratch, name).open("rb") as part:
                shutil.copyfileobj(part, file)
    total = sum(contaminated.values())
    action = "dropped" if screen.drop else "flagged"
    run.count(
        contaminated=total, **{f"contaminated.{name}": rows for name, rows in contaminated.items()}
    )
    run.note(
        contamination={
            "action": screen.index.config.action,
            "rows": dict(contaminated),
            "index": describe_index(screen.index),
        }
    )
    if total:
        found = sorted(read_json_lines(run.folder / FOUND), key=lambda row: -row["overlap"])
        table = [
            {
                "row": row["id"],
                "question": f"{row['benchmark']}/{row['question_id']}",
                "overlap": row["overlap"],
                "text": row["question"],
                "found": row["excerpt"],
            }
            for row in found[:SHOWN]
        ]
        run.table(f"contamination {title}", table, f"Rows {action}: evaluation questions in them")
    run.log.info(
        "%s: %d rows contain an evaluation question, %s; %d of %d questions can be checked",
        run.stage,
        total,
        action,
        screen.index.num_checkable,
        len(screen.index.questions),
    )
