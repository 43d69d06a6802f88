"""Texts of the documents that passed every filter, read one at a time from where they lie.

<partition>/kept.jsonl   a line for each survivor
<partition>/kept.ends    int64: where each line ends
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

LINES, ENDS = "kept.jsonl", "kept.ends"


def num_survivors(partition: Path) -> int:
    """Number of documents of a filtered partition that passed every filter."""
    counts: dict[str, int] = json.loads((partition / "counts.json").read_text("utf-8"))
    return counts["survivors"]


def write_ends(folder: Path, sizes: Sequence[int]) -> None:
    """Write where the lines of `kept.jsonl` end.

    Args:
        folder: the partition's.
        sizes: bytes of each line.
    """
    np.cumsum(sizes, dtype=np.int64).tofile(folder / ENDS)


class SurvivorTexts:
    """Texts by the documents' numbers in the order of the partitions."""

    def __init__(self, partitions: Sequence[Path]) -> None:
        """Take folders of filtered partitions."""
        self._partitions = partitions
        sizes = [num_survivors(partition) for partition in partitions]
        self._firsts: npt.NDArray[np.int64] = np.cumsum([0, *sizes], dtype=np.int64)

    def __getitem__(self, number: int) -> str:
        which = int(np.searchsorted(self._firsts, number, side="right")) - 1
        partition = self._partitions[which]
        row = number - int(self._firsts[which])
        with (partition / ENDS).open("rb") as ends:
            first = max(0, row - 1)
            found = np.frombuffer(os.pread(ends.fileno(), 8 * (row + 1 - first), 8 * first), "<i8")
        start, end = (0 if row == 0 else int(found[0])), int(found[-1])
        with (partition / LINES).open("rb") as lines:
            text: str = json.loads(os.pread(lines.fileno(), end - start, start))["text"]
        return text
