"""The ledger: documents and bytes in, kept, changed, dropped, for each operator and source.

For every source, from operator to operator: in = kept + dropped, and what one keeps comes into the
next, in documents and in bytes. `check` proves it. The numbers come from the document traces
(document_trace.py), partition by partition, and are added up here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(kw_only=True)
class LedgerEntry:
    """One operator and one source."""

    position: int
    """Place of the operator in the ledger, from 1."""
    operator: str
    """Data-Juicer's name of it."""
    source: str
    """Corpus."""
    documents_in: int = 0
    """Documents that reached the operator."""
    documents_kept: int = 0
    """Documents that passed it."""
    documents_changed: int = 0
    """Documents whose text it changed; part of those kept."""
    documents_dropped: int = 0
    """Documents it removed, those it failed on included."""
    documents_failed: int = 0
    """Documents it raised an error on; part of those dropped."""
    bytes_in: int = 0
    """UTF-8 bytes that reached it."""
    bytes_kept: int = 0
    """UTF-8 bytes that passed it."""
    bytes_dropped: int = 0
    """UTF-8 bytes of the documents it removed."""
    bytes_edited: int = 0
    """UTF-8 bytes by which it shortened the documents it kept; below 0 where they grew."""


COUNTS = tuple(f.name for f in fields(LedgerEntry) if f.type == "int" or f.type is int)[1:]
"""The numbers of an entry; `position` is none of them."""


def merge(entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """Entries of many partitions, added up by source and operator, by source and position."""
    total: dict[tuple[str, int], LedgerEntry] = {}
    for entry in entries:
        key = entry.source, entry.position
        if key not in total:
            total[key] = LedgerEntry(
                position=entry.position, operator=entry.operator, source=entry.source
            )
        for name in COUNTS:
            setattr(total[key], name, getattr(total[key], name) + getattr(entry, name))
    return [total[key] for key in sorted(total)]


def check(entries: Iterable[LedgerEntry]) -> None:
    """Assert that the entries add up for every source."""
    previous: dict[str, LedgerEntry] = {}
    for entry in sorted(entries, key=lambda e: (e.source, e.position)):
        assert entry.documents_in == entry.documents_kept + entry.documents_dropped, entry
        assert entry.documents_changed <= entry.documents_kept, entry
        assert entry.documents_failed <= entry.documents_dropped, entry
        edited = entry.bytes_in - entry.bytes_dropped - entry.bytes_kept
        assert entry.bytes_edited == edited, entry
        if before := previous.get(entry.source):
            assert entry.position == before.position + 1, (before, entry)
            assert entry.documents_in == before.documents_kept, (before, entry)
            assert entry.bytes_in == before.bytes_kept, (before, entry)
        else:
            assert entry.position == 1, entry
        previous[entry.source] = entry


def rows(family_of: Mapping[str, str], entries: Iterable[LedgerEntry]) -> list[dict[str, Any]]:
    """Entries of many partitions as plain rows: added up, and proved to add up for every source.

    Args:
        family_of: source -> its family.
    """
    merged = merge(entries)
    check(merged)
    return [{"family": family_of[entry.source]} | asdict(entry) for entry in merged]
