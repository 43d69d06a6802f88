"""The recipe's deduplicators over filtered partitions."""

from pathlib import Path

import pyarrow as pa
from data_juicer.ops.deduplicator.document_simhash_deduplicator import DocumentSimhashDeduplicator

from corpus.cleaning import document_trace
from corpus.cleaning.deduplication.duplicates import (
    UNKNOWN,
    RecipeDeduplicator,
    find_duplicates,
    hash_table,
)
from corpus.cleaning.recipe import Operator


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
