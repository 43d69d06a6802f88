"""Real loaders on real shards, walked through whole runs: what the ranks are given is one sequence.

World size, micro-batch, reading ahead, restarts through the JSON of the state, and appends: none of
them may change which tokens are trained on, or when.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.data import (
    Append,
    DataState,
    MicroBatch,
    PackedDataset,
    PackedManifest,
    SampleOrder,
    StepLoader,
)
from model.data.dataset import IGNORED
from model.data.shards import open_tokens
from tests.model.conftest import END

Pack = Callable[..., PackedManifest]
GLOBAL_BATCH = 8


@dataclass
class Phase:
    """A launch of a run: it begins with a restart, and data may join right then."""

    begin: int
    world_size: int
    micro_batch_size: int
    prefetch: int
    append: int | None
    """Number of the further manifest that joins; None: none does."""
    weights: dict[str, float]


@pytest.fixture(scope="session")
def corpora(pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> list[PackedManifest]:
    """A base and two more, of all different tokens."""
    folder = tmp_path_factory.mktemp("walk")
    ids = iter(range(1, 1000))

    def documents(number: int) -> list[list[int]]:
        return [[next(ids) for _ in range(1 + n % 9)] for n in range(number)]

    sizes: list[dict[str, int]] = [{"en": 30, "zh": 60}, {"zh": 25, "fr": 20}, {"code": 30}]
    return [
        pack(
            folder / str(i),
            {name: documents(n) for name, n in each.items()},
            shard_tokens=70,
            validation_fraction=0.1,
        )
        for i, each in enumerate(sizes)
    ]


@st.composite
def phases(draw: st.DrawFn) -> list[Phase]:
    found, begin, appends = [], 0, [1, 2]
    for number in range(draw(st.integers(1, 4))):
        begin += draw(st.integers(0, 12)) if number else 0
        world_size = draw(st.sampled_from([1, 2, 4, 8]))
        joins = bool(appends) and draw(st.booleans())
        found.append(
            Phase(
                begin=begin,
                world_size=world_size,
                micro_batch_size=draw(
                    st.sampled_from([b for b in (1, 2, 4, 8) if world_size * b <= GLOBAL_BATCH])
                ),
                prefetch=draw(st.sampled_from([0, 1, 3])),
                append=appends.pop(0) if joins else None,
                weights=draw(
                    st.dictionaries(
                        st.sampled_from(["zh", "fr"]), st.sampled_from([0, 0.5, 1.25]), max_size=2
                    )
                ),
            )
        )
    return found


def tokens_of(order: SampleOrder) -> list[list[int]]:
    """Every block of an order, read without any of the loader."""
    found = order.locate_many(range(order.num_samples))
    blocks = []
    for shard, start in zip(found.shard.tolist(), found.start.tolist(), strict=True):
        folder = order.manifests[shard].folder
        assert folder
        tokens = open_tokens(folder, order.shards[shard])
        block = np.asarray(tokens[start : start + order.sequence_length + 1]).tolist()
        if block[-2] == END:
            block[-1] = IGNORED
        blocks.append(block)
    return blocks


def given_out(batches: list[MicroBatch]) -> list[tuple[int, list[int]]]:
    rows = []
    for batch in batches:
        inputs, labels = batch["input_ids"], batch["labels"]
        # The label behind an end is the first of a document; the end itself is in the row.
        assert torch.equal(labels == IGNORED, inputs == END)
        assert torch.equal(
            labels[:, :-1], inputs[:, 1:].masked_fill(inputs[:, :-1] == END, IGNORED)
        )
        whole = torch.cat([inputs, labels[:, -1:]], dim=1)
        rows += list(zip(batch["samples"].tolist(), whole.tolist(), strict=True))
    return rows


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_one_sequence_whatever_happens(corpora: list[PackedManifest], data: st.DataObject) -> None:
    base = corpora[0]
    assert base.folder
    arguments: dict[str, Any] = {
        "sequence_length": data.draw(st.integers(1, 9)),
        "seed": data.draw(st.integers(0, 5)),
        "weights": data.draw(
            st.dictionaries(st.sampled_from(["en"]), st.sampled_from([0, 0.3, 1, 2.5]))
        ),
    }
    run = data.draw(phases())
    order = SampleOrder(base, **arguments)
    text = DataState.of(order, 0).to_json()
    appends: list[Append] = []
    found: list[tuple[int, list[int]]] = []
    step = 0
    for number, phase in enumerate(run):
        # All that a launch has: the appends, the state's text, and the shards.
        state = DataState.from_json(text)
        assert state.samples_consumed == len(found) == step * GLOBAL_BATCH
        if phase.append is not None:
            new = corpora[phase.append]
            weights = {k: v for k, v in phase.weights.items() if k in new.sources}
            appends.append(
                Append(at=state.samples_consumed, manifest=new, seed=number, weights=weights)
            )
        order = SampleOrder(base, **arguments, appends=appends)
        state.check_order(order)
        available = order.num_samples // GLOBAL_BATCH
        end = run[number + 1].begin if number + 1 < len(run) else available
        loaders = [
            StepLoader(
                PackedDataset(base.folder, order),
                global_batch_size=GLOBAL_BATCH,
                micro_batch_size=phase.micro_batch_size,
                rank=rank,
                world_size=phase.world_size,
                prefetch=phase.prefetch,
                separate_documents=True,
            )
            for rank in range(phase.world_size)
        ]
        for step in range(step, min(end, available)):  # noqa: B020
            for loader in loaders:
                batches = loader.step(step)
                assert len(batches) * phase.micro_batch_size * phase.world_size == GLOBAL_BATCH
                found += given_out(batches)
        for loader in loaders:
            loader.close()
        step = len(found) // GLOBAL_BATCH
        text = DataState.of(order, len(found)).to_json()
    # The last order knows all appends: what an uninterrupted run on one rank would have seen.
    expected = tokens_of(order)
    assert found == list(enumerate(expected[: len(found)]))
