"""Rows of data sets: the same from every container, and what is set aside or refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from common.errors import ConfigError, DataError
from corpus.chats.rows import LocatedRow, SkippedRow, matching_files, read_rows

WORD = st.text(max_size=3)
ALL = st.recursive(
    st.none() | st.booleans() | st.integers() | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=6,
)


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=5), ALL, max_size=4), max_size=6),
    indent=st.sampled_from([None, 1]),
)
def test_any_container_gives_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], indent: int | None
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "array.json").write_text(json.dumps(rows, ensure_ascii=False, indent=indent))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "lines.json").write_bytes(lines.encode())
    with gzip.open(folder / "lines.jsonl.gz", "wb") as file:
        file.write(lines.encode())
    for path in folder.iterdir():
        read = list(read_rows(folder, [path]))
        assert [item.row for item in read if isinstance(item, LocatedRow)] == rows
        assert len(read) == len(rows)


def test_a_large_array_is_read_across_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corpus.json_items.CHUNK", 7)
    rows = [{"n": n, "text": "字" * n} for n in range(30)]
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in sorted(tmp_path.iterdir()):
        items = [item for item in read_rows(tmp_path, [path]) if isinstance(item, LocatedRow)]
        assert [item.row for item in items] == rows
        assert [item.line for item in items] == list(range(1, 31))


def test_parquet_rows(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"question": ["a", "b"]}), tmp_path / "x.parquet")
    rows = list(read_rows(tmp_path, [tmp_path / "x.parquet"]))
    assert [item.row for item in rows if isinstance(item, LocatedRow)] == [
        {"question": "a"},
        {"question": "b"},
    ]


def test_broken_rows_are_set_aside_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": 2\n\n[3]\n{"a": 4}\n')
    read = list(read_rows(tmp_path, [tmp_path / "a.jsonl"]))
    broken = [(item.line, item.reason) for item in read if isinstance(item, SkippedRow)]
    assert [item.row for item in read if isinstance(item, LocatedRow)] == [{"a": 1}, {"a": 4}]
    assert [line for line, _ in broken] == [2, 4]
    assert broken[1][1] == "not an object"
    (tmp_path / "b.json").write_text('[{"a": 1}, {"a": ')
    read = list(read_rows(tmp_path, [tmp_path / "b.json"]))
    assert [type(item) for item in read] == [LocatedRow, SkippedRow]


def test_file_that_breaks_off_is_refused_by_name(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"a": 1}\n' * 5000)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-12])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: cannot read on"):
        list(read_rows(tmp_path, [tmp_path / "a.jsonl.gz"]))


def test_missing_files_and_test_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file that matches \*\.json"):
        matching_files(tmp_path, ("*.json",), where="recipe.yaml")
    (tmp_path / "test-00000.json").touch()
    (tmp_path / "latest.json").touch()
    with pytest.raises(ConfigError, match="test split"):
        matching_files(tmp_path, ("*.json",), where="recipe.yaml")
    assert matching_files(tmp_path, ("latest*",), where="recipe.yaml") == [tmp_path / "latest.json"]
