"""Partitions before and after Ray."""

import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from corpus.partitions import cut
from tests.corpus.cleaning.ray.documents import read_documents, write_documents


def test_partitions_are_written_in_order_with_one_trace_each(tmp_path: Path) -> None:
    from corpus.cleaning.ray import partition_files
    from corpus.cleaning.ray.recorded_operators import DUPLICATE, RaySinkMapper, _write_parts

    texts = [f"文章{i}" * (i + 1) for i in range(40)]
    path = write_documents(tmp_path / "a.jsonl", texts)
    parts = cut([("a", path)], 2000)
    files = [
        partition_files.PartitionFiles(
            index=i, partition=part, rows=tmp_path / f"{part.name}.parquet", output=tmp_path / "out"
        )
        for i, part in enumerate(parts)
    ]
    rows: list[dict[str, Any]] = []
    for one in files:
        partition_files.write_operator_rows(one)
        rows += pq.read_table(one.rows).to_pylist()
    assert [r["text"] for r in rows] == texts
    assert len(files) > 2
    uids = [r["__dj__uid"] for r in rows]
    assert uids == sorted(uids)

    for row in rows:
        i = texts.index(row["text"])
        row |= {
            "dropped_by": 2 if i % 5 == 1 else 0,
            "failed": i == 6,
            "size": 3,
            "edits": "1:3;" if i % 2 else "",
            "stats": '{"text_len": 7}',
            "text": f"新{i}",
        }
    random.Random(0).shuffle(rows)
    one, two = (
        {
            "records": str(tmp_path / f"{n}-records"),
            "texts": n == "s1",
            "survivors": str(tmp_path / f"{n}-survivors"),
        }
        for n in ("s1", "s2")
    )
    sink = RaySinkMapper(**one)
    for batch in (rows[:25], rows[25:], rows[:25], rows[10:30]):  # as retries might have it
        sink.process_batched({name: [row[name] for row in batch] for name in rows[0]})
    assert len(list((tmp_path / "s1-records").glob("*/*"))) <= 3 * len(files)
    copy, original = rows_of(rows, 30), rows_of(rows, 3)
    left = [r for r in rows if not r["dropped_by"] and r is not copy]
    columns = ("__dj__uid", "part", "id", "text", "meta")
    RaySinkMapper(**two).process_batched({name: [row[name] for row in left] for name in columns})
    _write_parts(
        {"__dj__uid": [copy["__dj__uid"]], "part": [copy["part"]], "of": [original["__dj__uid"]]},
        DUPLICATE,
        tmp_path / "duplicates",
    )
    outputs = [
        partition_files.ExecutorOutput(
            positions=(1, 2),
            records=tmp_path / "s1-records",
            survivors=tmp_path / "s1-survivors",
            duplicates=None,
        ),
        partition_files.ExecutorOutput(
            positions=(3,),
            records=None,
            survivors=tmp_path / "s2-survivors",
            duplicates=tmp_path / "duplicates",
        ),
    ]
    for one in files:
        partition_files.write_results(one, outputs, files)
    kept = read_documents([one.cleaned for one in files if one.cleaned.exists()])
    expected = [i for i in range(40) if i % 5 != 1 and i != 30]
    given = read_documents([path])
    assert kept == [given[i] | {"text": f"新{i}"} for i in expected]
    found = [row for one in files for row in pq.read_table(one.document_trace).to_pylist()]
    assert [row["id"] for row in found] == [d["id"] for d in given]
    assert [row["dropped_by"] for row in found] == [
        3 if i == 30 else 2 if i % 5 == 1 else 0 for i in range(40)
    ]
    assert found[30]["duplicate_of"] == given[3]["id"]
    assert sum(row["failed"] for row in found) == 1
    assert found[9]["edits"] == [{"operator": 1, "bytes": 3}]

    lost = next((tmp_path / "s1-records").glob("*/*.parquet")).parent
    shutil.rmtree(lost)
    with pytest.raises(AssertionError, match="records of"):
        for one in files:
            partition_files.write_results(one, outputs, files)


def rows_of(rows: list[dict[str, Any]], i: int) -> dict[str, Any]:
    return next(row for row in rows if row["text"] == f"新{i}")
