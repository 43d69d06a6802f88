"""Records of raw files: JSON lines, arrays and parquet, whole and damaged."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus import json_items
from corpus.formats.records import Damaged, read_records
from tests.corpus.formats.json_values import JSON


def read(path: Path) -> list[Any]:
    return [
        r.value if not isinstance(r.value, Damaged) else r.value.reason.split(":")[0]
        for r in read_records(path)
    ]


def test_json_lines_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(
        b'\xef\xbb\xbf{"a": 1}\n\n{"a": "\xe2\x80\xa8"}\n{"a": \n\xff\xfe{}\n'
        + b"[" * 100_000
        + b'\n{"a": 4}'
    )
    assert read(path) == [
        {"a": 1},
        "empty line",
        {"a": "\u2028"},
        "malformed JSON",
        "not UTF-8 at byte 0",
        "malformed JSON",
        {"a": 4},
    ]
    assert [r.line for r in read_records(path)] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_json_array_item_by_item(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_items, "CHUNK", chunk)
    path = tmp_path / "x.json"
    path.write_bytes(
        '[\n  {"a": "]}\\"[{", "b": {"c": [1]}},\n  {"a": 一},\n {"a": "'.encode()
        + b"\xff"
        + '"},\n  {"a": "没有结尾},\n  {"a": "好"}, null, 3, "x"\n]\n'.encode()
    )
    assert read(path) == [
        {"a": ']}"[{', "b": {"c": [1]}},
        "malformed JSON",
        "not UTF-8",
        "malformed JSON",
        {"a": "好"},
        None,
        3,
        "x",
    ]


def test_array_that_ends_early_loses_only_its_last_item(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}, {"a": 2}, {"a": ')
    assert read(path) == [{"a": 1}, {"a": 2}, "malformed JSON"]


@given(values=st.lists(JSON, max_size=6), indent=st.sampled_from([None, 1]))
def test_array_reading_equals_the_json_module(
    values: list[Any], indent: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("array") / "x.json"
    text = json.dumps([{"v": v} for v in values], indent=indent)
    path.write_text(text, encoding="utf-8")
    read_back = [r.value for r in read_records(path)]
    assert json.dumps(read_back) == json.dumps(json.loads(text))


def test_gzip_and_a_cut_off_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"a": 1}\n' * 5000)
    (tmp_path / "x.jsonl.gz").write_bytes(whole)
    assert len(read(tmp_path / "x.jsonl.gz")) == 5000
    (tmp_path / "y.jsonl.gz").write_bytes(whole[:-12])
    assert read(tmp_path / "y.jsonl.gz")[-1] == "cannot read on"


def test_parquet_with_a_damaged_cell_and_a_damaged_file(tmp_path: Path) -> None:
    good = tmp_path / "x.parquet"
    strings = pa.array([b"one", b"\xff\xfe", None], type=pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": strings}), good)
    assert read(good) == [{"text": "one"}, "not UTF-8 at byte 0", {"text": None}]
    bad = tmp_path / "y.parquet"
    bad.write_bytes(good.read_bytes()[:40])
    assert read(bad) == ["cannot read on"]


def test_overlong_line_is_one_damage_and_reading_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_items, "MAX_RECORD", 16)
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n' + '{"a": "' + "y" * 50 + '"}\n{"a": 2}\n')
    assert read(path) == [{"a": 1}, "longer than a record may be", {"a": 2}]


def test_parquet_with_a_column_given_twice(tmp_path: Path) -> None:
    pq.write_table(pa.table([["a", "b"], ["c", "d"]], names=["text", "text"]), tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "x.parquet")
    records = list(read_records(tmp_path / "x.parquet"))
    assert [(r.line, r.value.reason) for r in records] == [
        (n, "a key is given twice: 'text'") for n in (1, 2)
    ]
