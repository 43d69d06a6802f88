"""Partitions: every line of a file belongs to exactly one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.partitions import cut


@settings(deadline=None)
@given(
    lines=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b" ")), max_size=30),
    size=st.integers(1, 200),
    ended=st.booleans(),
)
def test_every_line_belongs_to_exactly_one_partition(
    lines: list[bytes], size: int, ended: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    data = b"\n".join(lines) + (b"\n" if ended else b"")
    path.write_bytes(data)
    partitions = cut([("a", path)], size)
    assert b"".join(line for p in partitions for _, line in p.lines()) == data
    assert [p.number for p in partitions] == list(range(len(partitions)))
    assert sum(p.size for p in partitions) == len(data)
    for partition in partitions:
        lines_of = list(partition.lines())
        assert all(partition.start <= at < partition.end for at, _ in lines_of)
        for number, (at, line) in enumerate(lines_of):
            assert list(partition.lines(at + len(line))) == lines_of[number + 1 :]
