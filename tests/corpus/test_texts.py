import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError
from corpus.texts import Texts, data_files, strings

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def test_strings_by_hand() -> None:
    value = {"a": "one", "b": [{"c": ["two", 3, None]}, "", "three"], "d": b"bytes"}
    assert list(strings(value)) == ["one", "two", "three"]


@settings(deadline=None)
@given(value=JSON_VALUES)
def test_every_value_and_no_key(value: Any) -> None:
    found: list[str] = []

    def visit(thing: Any) -> Any:
        if isinstance(thing, str) and thing:
            found.append(thing)
        for inner in (
            thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list) else ()
        ):
            visit(inner)

    visit(value)
    assert list(strings(value)) == found


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of cleaned texts and one of raw data in five containers."""
    cleaned, raw = tmp_path / "cleaned", tmp_path / "raw"
    (raw / "deep").mkdir(parents=True)
    cleaned.mkdir()
    (cleaned / "zh.jsonl").write_text('{"text": "甲", "meta": {"title": "不读"}}\n{"text": "乙"}\n')
    (raw / "a.json").write_text(json.dumps([{"x": "array", "y": ["of", {"z": "rows"}]}]))
    (raw / "b.jsonl").write_text('{"x": "line"}\nbroken\n{"x": "half \\ud800 pair"}\n')
    with gzip.open(raw / "c.jsonl.gz", "wt") as file:
        file.write('{"x": "zipped"}\n')
    pq.write_table(
        pa.table({"x": ["column"], "y": [["list", "cells"]]}), raw / "deep" / "d.parquet"
    )
    (raw / "e.txt").write_text("a question\nan answer\n\nanother\n")
    (raw / "README.md").write_text("not data")
    (raw / ".hidden").mkdir()
    (raw / ".hidden" / "f.json").write_text('{"x": "hidden"}')
    return cleaned, raw


def test_reads_every_container_again_and_again(folders: tuple[Path, Path]) -> None:
    cleaned, raw = folders
    bytes_read: list[int] = []
    texts = Texts([cleaned / "zh.jsonl"], [raw], bytes_read.append)
    expected = [
        "甲",
        "乙",
        "array",
        "of",
        "rows",
        "line",
        "half ? pair",
        "zipped",
        "column",
        "list",
        "cells",
        "a question",
        "an answer",
        "another",
    ]
    assert sorted(texts) == sorted(texts) == sorted(expected)
    bytes_read.clear()
    list(texts)
    assert sum(bytes_read) == sum(path.stat().st_size for path in texts.files)
    names = ["a.json", "b.jsonl", "c.jsonl.gz", "d.parquet", "e.txt"]
    assert [path.name for path in data_files(raw)] == names


def test_a_cleaned_text_without_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zh.jsonl"
    path.write_text('{"text": "good"}\n{"text": "bad \\udc00"}\n')
    with pytest.raises(DataError, match=r"zh\.jsonl, line 2.*surrogate pair at character 4"):
        list(Texts([path], []))
