"""Document boundaries against plain loops over documents."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data import PackedDataset, PackedManifest, SampleOrder, StepLoader
from model.data.boundaries import boundaries

Pack = Callable[..., PackedManifest]


def by_hand(starts: list[int], first: int, length: int) -> list[int]:
    """Positions of one row: a document's tokens are counted from where it begins, or the row."""
    positions, count = [], 0
    for token in range(first, first + length):
        count = 0 if token == first or token in starts else count + 1
        positions.append(count)
    return positions


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_boundaries_equal_a_loop_over_tokens(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 12))
    shards = [
        [0, *sorted(data.draw(st.sets(st.integers(1, 59), max_size=20)))]
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    num_rows = data.draw(st.integers(1, 8))
    which = [data.draw(st.integers(0, len(shards) - 1)) for _ in range(num_rows)]
    firsts = [data.draw(st.integers(0, 60 - length)) for _ in range(num_rows)]
    found = boundaries(
        [np.asarray(starts, dtype=np.int64) for starts in shards],
        np.asarray(which),
        np.asarray(firsts),
        length,
    )
    expected = [by_hand(shards[w], first, length) for w, first in zip(which, firsts, strict=True)]
    assert found.positions().tolist() == expected
    assert sorted(found.first_labels.tolist()) == [
        row * length + place
        for row, (w, first) in enumerate(zip(which, firsts, strict=True))
        for place in range(length)
        if first + place + 1 in shards[w]
    ]
    begin = data.draw(st.integers(0, num_rows - 1))
    end = data.draw(st.integers(begin + 1, num_rows))
    flat = [position for row in expected[begin:end] for position in row]
    zeros = [i for i, position in enumerate(flat) if position == 0]
    assert found.of_rows(begin, end).tolist() == [*zeros, len(flat)]


@pytest.mark.parametrize(
    ("first", "expected", "first_labels"),
    [
        (0, [0, 1, 2, 0], [2]),  # ends inside of the second document
        (1, [0, 1, 0, 1], [1]),  # begins inside of the first
        (3, [0, 1, 2, 0], [2, 3]),  # begins with a document: no boundary beside the row's own
        (2, [0, 0, 1, 2], [0, 3]),  # one begins after the last input: it is the last label
        (4, [0, 1, 0, 0], [1, 2]),
    ],
)
def test_edges_by_hand(first: int, expected: list[int], first_labels: list[int]) -> None:
    index = np.asarray([0, 3, 6, 7], dtype=np.int64)
    found = boundaries([index], np.asarray([0]), np.asarray([first]), 4)
    assert found.positions().tolist() == [expected]
    assert found.first_labels.tolist() == first_labels


def loader_of(packed: PackedManifest, length: int, **arguments: int) -> StepLoader:
    assert packed.folder
    order = SampleOrder(packed, sequence_length=length, seed=2)
    return StepLoader(
        PackedDataset(packed.folder, order),
        separate_documents=True,
        prefetch=0,
        **{"global_batch_size": 6, "micro_batch_size": 3, "rank": 0, "world_size": 1} | arguments,
    )


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_documents_end_where_their_last_id_stands(packed: PackedManifest, length: int) -> None:
    """The index and the ids tell the same: another way to the same boundaries."""
    loader = loader_of(packed, length)
    for step in range(loader.num_steps):
        for batch in loader.step(step):
            ids, positions = batch["input_ids"], batch["position_ids"]
            assert positions.shape == ids.shape and positions.dtype == torch.int32
            assert positions.is_contiguous()
            assert (positions[:, 0] == 0).all()
            ended = ids[:, :-1] == packed.end_of_document
            assert torch.equal(positions[:, 1:] == 0, ended)
            assert torch.equal(positions[:, 1:][~ended], positions[:, :-1][~ended] + 1)
            offsets = batch["cu_seqlens"].tolist()
            assert batch["cu_seqlens"].dtype == torch.int32
            flat = positions.flatten().tolist()
            assert offsets == [*(i for i, p in enumerate(flat) if p == 0), len(flat)]
            assert batch["max_seqlen"] == max(end - begin for begin, end in pairwise(offsets))


def test_boundaries_come_only_when_asked_for(packed: PackedManifest) -> None:
    assert packed.folder
    order = SampleOrder(packed, sequence_length=6, seed=2)
    dataset = PackedDataset(packed.folder, order)
    loader = StepLoader(dataset, global_batch_size=4, micro_batch_size=4, rank=0, world_size=1)
    assert set(loader.step(0)[0]) == {"input_ids", "labels", "source", "samples"}
    loader.close()
    batch = dataset.batch([0, 1, 2, 3], separate_documents=True)
    with_documents = loader_of(packed, 6, global_batch_size=4, micro_batch_size=4).step(0)[0]
    for name in ("input_ids", "labels", "source", "position_ids", "cu_seqlens"):
        assert torch.equal(batch[name], with_documents[name])  # type: ignore[literal-required]
    assert batch["max_seqlen"] == with_documents["max_seqlen"]


def test_a_damaged_index_is_refused_before_use(pack: Pack, tmp_path: Path) -> None:
    packed = pack(tmp_path, {"zh": [[1, 2, 3, 4], [5, 6], [7, 8, 9, 10]]})
    index = tmp_path / packed.shards[0].index_name
    data = np.fromfile(index, dtype="<u8")
    data[1] -= 1  # another, still ascending, start
    data.tofile(index)
    with pytest.raises(Exception, match=r"index_md5 of .*zh-00000\.idx"):
        loader_of(packed, 4, global_batch_size=2, micro_batch_size=2).step(0)
