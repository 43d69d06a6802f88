import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, DataError
from model.data import Append, PackedDataset, PackedManifest, SampleOrder, StepLoader
from model.data import dataset as dataset_module
from model.data.dataset import IGNORED
from model.data.held_out import is_held_out
from model.data.shards import open_tokens
from tests.model.conftest import END
from tests.model.data.blocks import digest_of_ids, locate

Simulate = Callable[..., PackedManifest]
Pack = Callable[..., PackedManifest]


def dataset_of(packed: PackedManifest, **arguments: object) -> PackedDataset:
    defaults: dict[str, object] = {"sequence_length": 6, "seed": 3}
    order = SampleOrder(packed, **defaults | arguments)  # type: ignore[arg-type]
    assert packed.folder
    return PackedDataset(packed.folder, order)


def test_samples_are_the_tokens_the_order_names(packed: PackedManifest) -> None:
    dataset = dataset_of(packed)
    assert packed.folder and len(dataset) == dataset.order.num_samples > 30
    for number in range(len(dataset)):
        block, sample = locate(dataset.order, number), dataset[number]
        whole = np.asarray(open_tokens(packed.folder, packed.shards[block.shard]), dtype=np.int64)
        expected = whole[block.start : block.start + 7]
        assert sample["tokens"].dtype == torch.int64
        assert sample["tokens"].tolist() == expected.tolist()
        assert dataset.order.sources[sample["source"]] == block.source


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_token_but_a_documents_first_is_a_target_once_an_epoch(
    pack: Pack, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Over random shards, minus what is too short for a block at the end of each."""
    lengths = st.lists(st.integers(1, 9), min_size=1, max_size=12)
    sources = data.draw(st.dictionaries(st.sampled_from(["en", "zh"]), lengths, min_size=1))
    length = data.draw(st.integers(1, 9))
    ids = iter(range(1, 1000))
    documents = {
        name: [[next(ids) for _ in range(number)] for number in each]
        for name, each in sources.items()
    }
    documents["en"] = [[next(ids) for _ in range(11)], *documents.get("en", [])]
    packed = pack(
        tmp_path_factory.mktemp("targets"), documents, shard_tokens=data.draw(st.integers(1, 60))
    )
    dataset = dataset_of(packed, sequence_length=length, weights=dict.fromkeys(documents, 2))
    separate = data.draw(st.booleans())
    size = data.draw(st.integers(1, 4))
    found: Counter[tuple[int, int]] = Counter()
    for first in range(0, len(dataset), size):
        numbers = list(range(first, min(first + size, len(dataset))))
        batch = dataset.batch(numbers, separate_documents=separate)
        for number, labels in zip(numbers, batch["labels"].tolist(), strict=True):
            block = locate(dataset.order, number)
            tokens = dataset[number]["tokens"].tolist()
            for place, label in enumerate(labels, start=1):
                if label != IGNORED:
                    assert label == tokens[place]
                    found[block.shard, block.start + place] += 1
    expected = set()
    for number, shard in enumerate(packed.shards):
        assert packed.folder
        tokens = open_tokens(packed.folder, shard).tolist()
        left_over = (len(tokens) - 1) % length
        expected |= {
            (number, place)
            for place in range(1, len(tokens) - left_over)
            if tokens[place - 1] != packed.end_of_document
        }
    assert found == dict.fromkeys(expected, 2)


def test_validation_and_training_share_no_document(pack: Pack, tmp_path: Path) -> None:
    """Every token of the folder is another number, so one that is shown tells its document."""
    ids = iter(range(1, 1000))
    documents = [[next(ids) for _ in range(3 + number % 7)] for number in range(80)]
    packed = pack(tmp_path, {"en": documents[::2], "zh": documents[1::2]}, validation_fraction=0.2)
    training = dataset_of(packed)
    validation = PackedDataset(training.folder, training.order, split="validation")
    assert len(validation) >= 10

    def shown(dataset: PackedDataset) -> set[int]:
        tokens = {t for i in range(len(dataset)) for t in dataset[i]["tokens"].tolist()} - {END}
        return {n for n, document in enumerate(documents) if tokens & set(document)}

    assert shown(validation) and not shown(validation) & shown(training)
    assert shown(validation) <= {
        number
        for number, document in enumerate(documents)
        if is_held_out(digest_of_ids([*document, END]), 0.2)[0]
    }


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_steps_do_not_depend_on_ranks_and_micro_batches(
    simulate: Simulate, data: st.DataObject
) -> None:
    order = SampleOrder(simulate({"en": [400]}), sequence_length=2, seed=1)
    world_size = data.draw(st.integers(1, 8))
    micro_batch_size = data.draw(st.integers(1, 4))
    accumulation = data.draw(st.integers(1, 3))
    global_batch_size = world_size * micro_batch_size * accumulation
    step = data.draw(st.integers(0, 5))
    loaders = [
        StepLoader(
            PackedDataset(Path(), order),
            global_batch_size=global_batch_size,
            micro_batch_size=micro_batch_size,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    numbers = [n for loader in loaders for n in loader.samples(step).tolist()]
    assert numbers == list(range(step * global_batch_size, (step + 1) * global_batch_size))


def test_micro_batches_carry_shifted_labels(packed: PackedManifest) -> None:
    dataset = dataset_of(packed)
    straight = StepLoader(dataset, global_batch_size=8, micro_batch_size=8, rank=0, world_size=1)
    whole = straight.step(2)[0]
    assert straight.num_steps == len(dataset) // 8
    assert whole["samples"].tolist() == list(range(16, 24))
    for row, number in enumerate(range(16, 24)):
        tokens = dataset[number]["tokens"]
        assert torch.equal(whole["input_ids"][row], tokens[:-1])
        begins = tokens[:-1] == packed.end_of_document
        assert torch.equal(whole["labels"][row], tokens[1:].masked_fill(begins, IGNORED))
        assert int(whole["source"][row]) == dataset[number]["source"]
    shares = [
        StepLoader(dataset, global_batch_size=8, micro_batch_size=2, rank=rank, world_size=2).step(
            2
        )
        for rank in range(2)
    ]
    assert [len(share) for share in shares] == [2, 2]
    for name in ("input_ids", "labels", "source", "samples"):
        pieces = [micro[name] for share in shares for micro in share]  # type: ignore[literal-required]
        assert all(piece.is_contiguous() for piece in pieces)
        assert torch.equal(torch.cat(pieces), whole[name])  # type: ignore[literal-required]


def test_refuses_uneven_splits_and_steps_without_data(packed: PackedManifest) -> None:
    dataset = dataset_of(packed)
    for global_batch_size, micro_batch_size, world_size in (
        (8, 3, 1),
        (8, 2, 3),
        (0, 1, 1),
        (4, 4, 2),
    ):
        with pytest.raises(ConfigError, match=f"global_batch_size {global_batch_size}"):
            StepLoader(
                dataset,
                global_batch_size=global_batch_size,
                micro_batch_size=micro_batch_size,
                rank=0,
                world_size=world_size,
            )
    steps = StepLoader(dataset, global_batch_size=8, micro_batch_size=8, rank=0, world_size=1)
    steps.step(steps.num_steps - 1)
    for step in (-1, steps.num_steps):
        with pytest.raises(DataError, match=f"step {step} asked for"):
            steps.step(step)


def test_appended_shards_are_read_from_their_own_folder(
    packed: PackedManifest, pack: Pack, tmp_path: Path
) -> None:
    new = pack(tmp_path / "more", {"zh": [[900 + i] * 9 for i in range(20)]})
    dataset = dataset_of(packed, appends=[Append(at=10, manifest=new, seed=4)])
    old = dataset_of(packed)
    for number in range(10):
        assert torch.equal(dataset[number]["tokens"], old[number]["tokens"])
    later = torch.stack([dataset[i]["tokens"] for i in range(10, len(dataset))])
    fresh = int((later >= 900).any(dim=1).sum())
    assert fresh == sum((shard.num_tokens - 1) // 6 for shard in new.shards)
    assert len(dataset) == len(old) + fresh


def test_survives_pickling_and_many_shards(
    packed: PackedManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "MAX_OPEN_SHARDS", 2)
    assert len(packed.shards) > 4
    dataset = dataset_of(packed)
    first = [dataset[i]["tokens"].tolist() for i in range(len(dataset))]
    copy: PackedDataset = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    assert [copy[i]["tokens"].tolist() for i in range(len(copy))] == first


def test_reads_the_same_where_the_kernel_refuses_private_maps(
    packed: PackedManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [dataset_of(packed)[i]["tokens"].tolist() for i in range(20)]

    def refused(*arguments: object, **keywords: object) -> None:
        raise RuntimeError("unable to mmap: Cannot allocate memory (12)")

    monkeypatch.setattr(torch, "from_file", refused)
    assert [dataset_of(packed)[i]["tokens"].tolist() for i in range(20)] == expected
