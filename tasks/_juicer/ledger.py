"""What each operator did to each source: documents and bytes in, kept, changed, dropped.

For every source, from operator to operator: in = kept + dropped, and what one keeps comes into the
next, in documents and in bytes. `check()` proves it.
"""

import random
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

EXCERPT = 200
"""Characters of a text shown in an example."""

RESERVOIR = 5000
"""Values of a statistic kept per operator and source, drawn evenly."""

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(kw_only=True)
class Entry:
    """One operator and one source."""

    position: int
    """Place of the operator in the recipe, from 1."""
    operator: str
    """Data-Juicer's name of it."""
    source: str
    """Corpus."""
    documents_in: int = 0
    """Documents that reached the operator."""
    documents_kept: int = 0
    """Documents that left it."""
    documents_changed: int = 0
    """Documents it left with another text; part of those kept."""
    documents_dropped: int = 0
    """Documents it removed, those it failed on included."""
    documents_failed: int = 0
    """Documents it raised an error on; part of those dropped."""
    bytes_in: int = 0
    """UTF-8 bytes that reached it."""
    bytes_kept: int = 0
    """UTF-8 bytes that left it."""
    bytes_dropped: int = 0
    """UTF-8 bytes of the documents it removed."""
    bytes_edited: int = 0
    """UTF-8 bytes by which it shortened the documents it kept; below 0 where they grew."""


class Ledger:
    """Entries, examples and the distribution of what filters measure."""

    def __init__(self, kind: str, operators: list[str], sources: list[str], examples: int) -> None:
        self.kind = kind
        self.operators, self.sources, self.examples = operators, sources, examples
        self.entries = {
            (position, source): Entry(position=position + 1, operator=name, source=source)
            for position, name in enumerate(operators)
            for source in sources
        }
        self.dropped: list[dict[str, Any]] = []
        self.changed: list[dict[str, Any]] = []
        self._shown: dict[tuple[str, int, str], int] = defaultdict(int)
        self._values: dict[tuple[int, str, str], Reservoir] = defaultdict(Reservoir)

    def keep(
        self, position: int, source: str, before: int, after: int, *, changed: bool = False
    ) -> None:
        """A document went on; it had `before` bytes and has `after`."""
        entry = self.entries[position, source]
        entry.documents_in += 1
        entry.documents_kept += 1
        entry.documents_changed += changed
        entry.bytes_in += before
        entry.bytes_kept += after
        entry.bytes_edited += before - after

    def drop(self, position: int, source: str, size: int, *, failed: bool = False) -> None:
        """A document of `size` bytes was removed."""
        entry = self.entries[position, source]
        entry.documents_in += 1
        entry.documents_dropped += 1
        entry.documents_failed += failed
        entry.bytes_in += size
        entry.bytes_dropped += size

    def measure(self, position: int, source: str, statistic: str, value: float) -> None:
        """A filter measured a document."""
        self._values[position, source, statistic].add(value)

    def wants_example(self, what: str, position: int, source: str) -> bool:
        """Whether one more example of `what` (`dropped`, `changed`) is to be kept; counts it."""
        if self._shown[what, position, source] >= self.examples:
            return False
        self._shown[what, position, source] += 1
        return True

    def check(self) -> None:
        """Assert that the entries add up for every source."""
        for source in self.sources:
            previous: Entry | None = None
            for position in range(len(self.operators)):
                entry = self.entries[position, source]
                assert entry.documents_in == entry.documents_kept + entry.documents_dropped, entry
                assert entry.documents_changed <= entry.documents_kept, entry
                edited = entry.bytes_in - entry.bytes_dropped - entry.bytes_kept
                assert entry.bytes_edited == edited, entry
                if previous is not None:
                    assert entry.documents_in == previous.documents_kept, (previous, entry)
                    assert entry.bytes_in == previous.bytes_kept, (previous, entry)
                previous = entry

    def rows(self) -> list[dict[str, Any]]:
        """The entries as plain rows, by source and then by operator."""
        return [
            {"kind": self.kind} | asdict(self.entries[position, source])
            for source in self.sources
            for position in range(len(self.operators))
        ]

    def statistics(self) -> list[dict[str, Any]]:
        """Quantiles of what each filter measured, by source."""
        return [
            {"operator": self.operators[position], "source": source, "statistic": statistic,
             "documents": values.seen} | values.quantiles()
            for (position, source, statistic), values in sorted(self._values.items())
        ]  # fmt: skip


class Reservoir:
    """An even sample of a stream of numbers (algorithm R, Vitter 1985)."""

    def __init__(self) -> None:
        self.seen = 0
        self.values: list[float] = []
        self._random = random.Random(0)

    def add(self, value: float) -> None:
        """Take one more number into account."""
        self.seen += 1
        if len(self.values) < RESERVOIR:
            self.values.append(value)
        elif (place := self._random.randrange(self.seen)) < RESERVOIR:
            self.values[place] = value

    def quantiles(self) -> dict[str, float]:
        """`q05` and so on: QUANTILES of the sample, nearest rank."""
        ordered = sorted(self.values)
        return {
            f"q{round(100 * q):02d}": round(ordered[round(q * (len(ordered) - 1))], 4)
            for q in QUANTILES
        }
