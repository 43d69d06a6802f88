"""The first items of a JSON array, cut out byte by byte."""

import csv
import io
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DataError
from corpus.sources.first_records import RecordLimit, write_first_records


@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        max_size=8,
    ),
    st.integers(1, 9),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_any_array_is_cut_between_items(
    items: list[Any], quota: int, indent: int | None, ascii_only: bool
) -> None:
    data = json.dumps(items, indent=indent, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )
    out = io.BytesIO()
    limit = RecordLimit(num_bytes=len(data), num_records=quota)
    taken = write_first_records(io.BytesIO(data), len(data), "x.json", out, limit, "x")
    assert json.loads(out.getvalue().decode("utf-8", "surrogatepass")) == items[:quota]
    assert taken.num_records == min(len(items), quota)
    assert taken.has_more is (len(items) > quota)


@pytest.mark.parametrize("size", [65530, 65536, 65537, 200_000])
def test_items_across_the_edges_of_reads(size: int) -> None:
    items = [{"a": "\\" * size}, {"b": '"' * size}, {"c": "文" * size}, 12345]
    data = json.dumps(items, ensure_ascii=False).encode()
    out = io.BytesIO()
    write_first_records(
        io.BytesIO(data),
        len(data),
        "x.json",
        out,
        RecordLimit(num_bytes=len(data), num_records=4),
        "x",
    )
    assert json.loads(out.getvalue()) == items


def test_record_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corpus.json_items.MAX_RECORD", 100_000)
    data = b'[{"a": "' + b"x" * 300_000
    with pytest.raises(DataError, match=r"x\.json.*record"):
        write_first_records(
            io.BytesIO(data),
            len(data),
            "x.json",
            io.BytesIO(),
            RecordLimit(num_bytes=9e9, num_records=1),
            "x.json",
        )


@given(
    rows=st.lists(st.tuples(st.text(), st.text()), max_size=9),
    quota=st.integers(1, 9),
    codec=st.sampled_from(["utf-8", "utf-16-le", "utf-16-be"]),
    sign=st.sampled_from([",", "\t"]),
)
def test_tables_are_cut_between_rows_behind_their_names(
    rows: list[tuple[str, str]], quota: int, codec: str, sign: str
) -> None:
    rows = [tuple(re.sub("[\0\r\ud800-\udfff]", "x", f"{c}.") for c in row) for row in rows]  # type: ignore[misc]
    written = io.StringIO()
    csv.writer(written, delimiter=sign, lineterminator="\n").writerows([("a", "b"), *rows])
    data = ("\ufeff" + written.getvalue()).encode(codec)
    out = io.BytesIO()
    limit = RecordLimit(num_bytes=len(data), num_records=quota)
    name = "x.csv" if sign == "," else "x.tsv"
    taken = write_first_records(io.BytesIO(data), len(data), name, out, limit, "x")
    found = out.getvalue().decode(codec).removeprefix("\ufeff")
    read = list(csv.reader(io.StringIO(found, newline=""), delimiter=sign))
    assert [tuple(row) for row in read[1:]] == rows[:quota]
    assert read[0] == ["a", "b"]
    assert taken.num_records == min(len(rows), quota)
    assert taken.has_more is (len(rows) > quota)


def test_a_quote_that_is_never_closed_does_not_take_the_whole_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("corpus.sources.first_records.MAX_ROW_LINES", 5)
    data = b'a\n"open\n' + b"line\n" * 100
    out = io.BytesIO()
    limit = RecordLimit(num_bytes=len(data), num_records=3)
    write_first_records(io.BytesIO(data), len(data), "x.csv", out, limit, "x")
    assert out.getvalue().count(b"\n") < 10
