"""The first items of a JSON array, cut out byte by byte."""

import io
import json
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
