"""The cleaning engine's parts: partitions, traces and ledger, near-duplicates, worker processes."""

import itertools
import json
import os
import signal
from pathlib import Path
from random import Random
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from data_juicer.ops.deduplicator.document_simhash_deduplicator import DocumentSimhashDeduplicator
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StageError
from corpus.cleaning import document_trace, ledger
from corpus.cleaning.deduplication import near_duplicates
from corpus.cleaning.deduplication.duplicates import (
    UNKNOWN,
    RecipeDeduplicator,
    find_duplicates,
    hash_table,
)
from corpus.cleaning.engine.partition_cleaner import PartitionCleaner
from corpus.cleaning.engine.workers import map_in_workers
from corpus.cleaning.recipe import Operator
from corpus.partitions import cut

# --- document traces and ledger --------------------------------------------------------------

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


def test_trace_that_does_not_fit_is_refused() -> None:
    row = {"id": "x", "source": "s", "bytes_in": 9, "dropped_by": 0, "failed": False, "stats": {}}
    wrong = row | {"bytes_out": 8, "edits": []}  # shorter, but nobody changed it
    with pytest.raises(AssertionError):
        document_trace.ledger_entries(document_trace.table_of([wrong]), OPERATORS)


def test_ledger_that_lost_a_document_does_not_add_up() -> None:
    first = ledger.LedgerEntry(
        position=1, operator="a", source="s", documents_in=3, documents_kept=3
    )
    second = ledger.LedgerEntry(
        position=2, operator="b", source="s", documents_in=2, documents_kept=2
    )
    with pytest.raises(AssertionError):
        ledger.check([first, second])


def test_examples_are_the_first_of_each_operator_and_source() -> None:
    def example(n: int, position: int, source: str) -> dict[str, Any]:
        return {"position": position, "operator": "o", "source": source, "id": str(n)}

    examples = ledger.Examples(most=2)
    for n in range(4):
        examples.take({"dropped": [example(n, 1, "s"), example(n, 2, "s")], "changed": []})
    examples.add("changed", example(9, 1, "s"))
    assert [(e["position"], e["id"]) for e in examples.dropped] == [
        (1, "0"),
        (2, "0"),
        (1, "1"),
        (2, "1"),
    ]
    assert [e["id"] for e in examples.changed] == ["9"]


# --- near-duplicates -------------------------------------------------------------------------


def kept_by_the_library(hashes: list[int], num_blocks: int, distance: int) -> list[int]:
    """Positions that Data-Juicer's own operator keeps."""
    operator = DocumentSimhashDeduplicator(num_blocks=num_blocks, hamming_distance=distance)
    rows = {"__dj__simhash": [str(h) for h in hashes], "row": list(range(len(hashes)))}
    unique, _ = operator.process(datasets.Dataset.from_dict(rows))
    return list(unique["row"])


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 120),
    bounds=st.sampled_from([(6, 4), (8, 6), (5, 1), (12, 10)]),
    piece=st.sampled_from([7, 64, 1 << 20]),
)
def test_clusters_are_the_librarys(
    seed: int,
    count: int,
    bounds: tuple[int, int],
    piece: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    random = Random(seed)
    base = [random.getrandbits(64) for _ in range(max(1, count // 4))]
    hashes = []
    for _ in range(count):
        value = random.choice(base)
        for bit in random.sample(range(64), random.randrange(0, 7)):
            value ^= 1 << bit
        hashes.append(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "best_num_blocks", lambda count, distance: bounds[0])
        # Many slices and chunks, as if the corpus did not fit into memory.
        patch.setattr(near_duplicates, "SLICE", piece)
        patch.setattr(near_duplicates, "CHUNK", piece)
        labels = near_duplicates.near_clusters(
            np.array(hashes, np.uint64), bounds[1], tmp_path_factory.mktemp("near")
        )
    kept = [i for i, label in enumerate(labels.tolist()) if label == i]
    assert kept == (kept_by_the_library(hashes, *bounds) if count else [])


@pytest.mark.parametrize("distance", [1, 4, 6, 10])
def test_more_hashes_want_more_blocks(distance: int) -> None:
    chosen = [near_duplicates.best_num_blocks(10**n, distance) for n in range(2, 10)]
    assert chosen == sorted(chosen)
    assert distance < chosen[0] <= chosen[-1] <= near_duplicates.MOST_BLOCKS
    assert distance == 1 or chosen[0] < chosen[-1]


def filtered(folder: Path, rows: list[tuple[str, int]], step: RecipeDeduplicator) -> Path:
    """A partition as the workers leave it: every document survived, with these hashes."""
    folder.mkdir(parents=True)
    trace = {"source": "s", "bytes_in": 1, "bytes_out": 1, "dropped_by": 0, "failed": False}
    table = document_trace.table_of([trace | {"id": i, "edits": [], "stats": {}} for i, _ in rows])
    document_trace.write(table, folder / "document_trace.parquet")
    hashes = hash_table([{"hash": h} for _, h in rows], step)
    pa.parquet.write_table(hashes, folder / f"hashes-{step.position:02d}.parquet")
    return folder


def test_duplicates_name_the_document_that_is_kept_instead(tmp_path: Path) -> None:
    operator = Operator(name="document_simhash_deduplicator", arguments={})
    step = RecipeDeduplicator(position=3, operator=operator, built=DocumentSimhashDeduplicator())
    far = 0xFFFF_0000_FFFF_0000
    parts = [
        filtered(tmp_path / "p0", [("s/a#1", 0), ("s/a#2", far)], step),
        filtered(tmp_path / "p1", [], step),
        filtered(tmp_path / "p2", [("s/a#3", 7), ("s/a#4", far), ("s/a#5", 0x7F)], step),
    ]
    duplicates = find_duplicates([step], parts, tmp_path / "duplicates")
    # #5 is 7 bits from #1, but 4 from #3, which is 3 from #1: one cluster.
    assert duplicates.dropped_by.tolist() == [0, 0, 3, 3, 3]
    assert [duplicates.ids[i] for i in duplicates.representative.tolist()] == [
        "s/a#1",
        "s/a#2",
        "s/a#1",
        "s/a#2",
        "s/a#1",
    ]
    assert duplicates.distance.tolist() == [0, 0, 3, 0, 7]
    again = find_duplicates([step], parts, tmp_path / "duplicates")
    assert again.dropped_by.tolist() == duplicates.dropped_by.tolist()


def test_two_deduplicators_and_one_the_library_runs_itself(tmp_path: Path) -> None:
    from data_juicer.ops.deduplicator.document_deduplicator import DocumentDeduplicator
    from data_juicer.ops.deduplicator.document_minhash_deduplicator import (
        DocumentMinhashDeduplicator,
    )

    steps = [
        RecipeDeduplicator(
            position=1,
            operator=Operator(name="document_deduplicator", arguments={}),
            built=DocumentDeduplicator(),
        ),
        RecipeDeduplicator(
            position=2,
            operator=Operator(name="document_minhash_deduplicator", arguments={}),
            built=DocumentMinhashDeduplicator(tokenization="character"),
        ),
    ]
    long = "山高水长,风和日丽,春暖花开,鸟语花香,清风徐来,水波不兴." * 8
    texts = ["甲乙丙丁子丑寅卯", long, "甲乙丙丁子丑寅卯", long + "完", "戊己庚辛午未申酉"]
    folder = tmp_path / "p"
    folder.mkdir()
    trace = {"source": "s", "bytes_in": 1, "bytes_out": 1, "dropped_by": 0, "failed": False}
    rows = [trace | {"id": f"s/a#{i}", "edits": [], "stats": {}} for i in range(len(texts))]
    document_trace.write(document_trace.table_of(rows), folder / "document_trace.parquet")
    for step in steps:
        table = hash_table(step.hashes(texts), step)
        pa.parquet.write_table(table, folder / f"hashes-{step.position:02d}.parquet")
    duplicates = find_duplicates(steps, [folder], tmp_path / "duplicates")
    assert duplicates.dropped_by.tolist() == [0, 0, 1, 2, 0]
    assert duplicates.representative.tolist() == [0, 1, 0, UNKNOWN, 4]


# --- processes -------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_work(workers: int) -> None:
    ticks: list[None] = []
    results = map_in_workers(lambda n: n * n, range(50), workers, lambda: ticks.append(None))
    assert list(results) == [n * n for n in range(50)]
    assert ticks


def test_killed_worker_is_one_clear_error(tmp_path: Path) -> None:
    def work(n: int) -> int:
        if n == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        (tmp_path / str(n)).touch()
        return n

    with pytest.raises(StageError, match=r"memory ran out.*clean\.workers"):
        list(map_in_workers(work, itertools.count(), 2, lambda: None))
    assert (tmp_path / "0").exists()


def test_error_in_a_worker_reaches_the_caller() -> None:
    def work(n: int) -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        list(map_in_workers(work, range(3), 2, lambda: None))


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


def test_finished_partition_is_not_done_again(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    lines = [{"id": f"a/f#{n}", "source": "a", "text": f"text {n}", "meta": {}} for n in range(9)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    cleaner = PartitionCleaner(
        operators=[],
        names=[],
        deduplicators=[],
        filtered=tmp_path / "filtered",
        output=tmp_path / "out",
        reports=tmp_path / "reports",
        examples=1,
    )
    parts = cut([("a", source)], 200)
    for partition in parts:
        cleaner.apply_operators(partition)
    # A partition that is filtered again would have `text 0` again; one written again, `marked`.
    spooled = tmp_path / "filtered" / parts[0].name / "kept.jsonl"
    spooled.write_text(spooled.read_text().replace("text 0", "marked"))
    for partition in parts:
        cleaner.apply_operators(partition)
        cleaner.write_kept((partition, 0))
    first = tmp_path / "out" / "a" / "00000.jsonl"
    assert json.loads(first.read_text().splitlines()[0])["text"] == "marked"
    first.write_text("kept as it is")
    cleaner.write_kept((parts[0], 0))
    assert first.read_text() == "kept as it is"
