"""Document traces, and the ledger computed from them."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.names import is_name
from corpus.cleaning import document_trace, ledger
from corpus.partitions import Partition

OPERATORS = ["a_mapper", "b_filter", "c_mapper", "d_filter", "e_deduplicator"]


@st.composite
def trace(draw: st.DrawFn) -> dict[str, Any]:
    """A document on a random way through OPERATORS, followed step by step."""
    size = draw(st.integers(0, 50))
    edits = []
    dropped_by = draw(st.sampled_from([0, 1, 2, 3, 4, 5]))
    at = size
    for position in (1, 3):
        if (not dropped_by or position < dropped_by) and draw(st.booleans()):
            at = draw(st.integers(0, 60))
            edits.append({"operator": position, "bytes": at})
    failed = bool(dropped_by) and draw(st.booleans())
    return {
        "id": "x",
        "source": "s",
        "bytes_in": size,
        "bytes_out": at,
        "dropped_by": dropped_by,
        "failed": failed,
        "edits": edits,
        "stats": {},
    }


@given(st.lists(trace(), min_size=1, max_size=30))
def test_ledger_is_what_following_every_document_counts(rows: list[dict[str, Any]]) -> None:
    entries = document_trace.ledger_entries(document_trace.table_of(rows), OPERATORS)
    ledger.check(entries)
    for position, entry in enumerate(entries, start=1):
        reached = [r for r in rows if not r["dropped_by"] or r["dropped_by"] >= position]
        gone = [r for r in reached if r["dropped_by"] == position]

        def size(row: dict[str, Any], after: int) -> int:
            sizes = [e["bytes"] for e in row["edits"] if e["operator"] <= after]
            return int(sizes[-1]) if sizes else int(row["bytes_in"])

        assert entry.documents_in == len(reached)
        assert entry.documents_dropped == len(gone)
        assert entry.documents_failed == sum(r["failed"] for r in gone)
        assert entry.bytes_in == sum(size(r, position - 1) for r in reached)
        assert entry.bytes_kept == sum(size(r, position) for r in reached if r not in gone)
        assert entry.documents_changed == sum(
            any(e["operator"] == position for e in r["edits"]) for r in rows
        )


@given(st.lists(st.lists(trace(), min_size=1, max_size=8), min_size=1, max_size=4))
def test_partitions_add_up_to_the_whole(parts: list[list[dict[str, Any]]]) -> None:
    whole = document_trace.ledger_entries(
        document_trace.table_of([r for rows in parts for r in rows]), OPERATORS
    )
    merged = ledger.merge(
        e
        for rows in parts
        for e in document_trace.ledger_entries(document_trace.table_of(rows), OPERATORS)
    )
    assert merged == whole


@given(st.sets(st.text("ab-.01", min_size=1, max_size=9).filter(is_name), max_size=6))
@example({"web", "web-2", "web-00000", "web-2-00000", "2", "v1.5"})
def test_files_of_a_source_are_its_own(sources: set[str]) -> None:
    with TemporaryDirectory() as folder:
        written: dict[str, list[Path]] = {}
        for source in sources:
            for number in range(2):
                row = {"id": f"{source}/f#{number}", "source": source, "bytes_in": 1}
                row |= {"bytes_out": 1, "dropped_by": 0, "failed": False, "edits": [], "stats": {}}
                part = Partition(source=source, path="", number=number, count=2, start=0, end=1)
                path = Path(folder) / "documents" / f"{part.name}.parquet"
                document_trace.write(document_trace.table_of([row]), path)
                written.setdefault(source, []).append(path)
        for source, paths in written.items():
            assert document_trace.files(Path(folder), source) == paths
        assert set(document_trace.files(Path(folder))) == {p for ps in written.values() for p in ps}


def test_trace_that_does_not_fit_is_refused() -> None:
    row = {"id": "x", "source": "s", "bytes_in": 9, "dropped_by": 0, "failed": False, "stats": {}}
    wrong = row | {"bytes_out": 8, "edits": []}  # shorter, but nobody changed it
    with pytest.raises(AssertionError):
        document_trace.ledger_entries(document_trace.table_of([wrong]), OPERATORS)


def test_kept_document_is_found_by_its_id(tmp_path: Path) -> None:
    trace = {"source": "s", "bytes_in": 1, "bytes_out": 1, "failed": False, "edits": []}
    for number in (0, 1):
        rows = [
            trace | {"id": f"s/a#{n}", "dropped_by": int(n == 12), "stats": {"length": float(n)}}
            for n in (10 * number + 1, 10 * number + 2)
        ]
        (tmp_path / "documents").mkdir(exist_ok=True)
        (tmp_path / "s").mkdir(exist_ok=True)
        document_trace.write(
            document_trace.table_of(rows), tmp_path / "documents" / f"s-{number:05d}.parquet"
        )
        lines = [json.dumps({"id": r["id"], "text": str(r["id"])}) for r in rows[: 2 - number]]
        (tmp_path / "s" / f"{number:05d}.jsonl").write_text("\n".join(lines))
    found = document_trace.kept_document(tmp_path, "s/a#11")
    assert found is not None and found["text"] == "s/a#11"
    assert document_trace.kept_document(tmp_path, "s/a#12") is None
    row = document_trace.find(tmp_path, "s/a#12")
    assert row is not None and (row["dropped_by"], row["stats"]) == (1, {"length": 12.0})
    assert document_trace.find(tmp_path, "s/a#99") is None
