"""The order against an independent re-statement of it with plain lists."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, DataError
from model.data import Append, PackedManifest, SampleOrder
from model.data.epoch_index import Blocks
from model.data.permutation import Permutation
from tests.model.data.blocks import Block, locate, locate_all

Simulate = Callable[..., PackedManifest]


@dataclass
class Scenario:
    """Arguments of an order, drawn at random."""

    manifest: PackedManifest
    sequence_length: int
    seed: int
    weights: dict[str, float]
    appends: list[tuple[PackedManifest, int, dict[str, float]]] = field(default_factory=list)

    def order(self, num_appends: int | None = None) -> SampleOrder:
        appends = [
            Append(at=at, manifest=new, seed=self.seed + number, weights=weights)
            for number, (new, at, weights) in enumerate(self.appends[:num_appends])
        ]
        return SampleOrder(
            self.manifest,
            sequence_length=self.sequence_length,
            seed=self.seed,
            weights=self.weights,
            appends=appends,
        )


SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=4)
WEIGHTS = st.sampled_from([0, 0.25, 0.3, 0.5, 1, 1.5, 2, 2.75, 3])


@st.composite
def scenarios(draw: st.DrawFn, simulate: Simulate, max_appends: int = 3) -> Scenario:
    sources = draw(st.dictionaries(st.sampled_from(["en", "zh", "code"]), SIZES, min_size=1))
    held_out = draw(st.dictionaries(st.sampled_from(["en", "zh", "other"]), SIZES))
    manifest = simulate(
        {name: [size + 20 for size in sizes] for name, sizes in sources.items()},
        validation=held_out,
    )
    scenario = Scenario(
        manifest=manifest,
        sequence_length=draw(st.integers(1, 9)),
        seed=draw(st.integers(0, 100)),
        weights={name: draw(WEIGHTS) for name in sources},
    )
    # At least one source is trained on for a whole epoch: an order without a sample is an error.
    scenario.weights[draw(st.sampled_from(sorted(sources)))] = 1.0
    at = 0
    for number in range(draw(st.integers(0, max_appends))):
        at = draw(st.integers(at, scenario.order().num_samples))
        new = draw(st.dictionaries(st.sampled_from(["en", "zh", "new"]), SIZES, min_size=1))
        weights = draw(st.dictionaries(st.sampled_from(sorted(new)), WEIGHTS))
        more = draw(st.dictionaries(st.sampled_from(["en", "zh"]), SIZES))
        added = simulate(
            new,
            prefix=f"add{number}-",
            validation=more,
            fraction=manifest.validation_fraction or 0.1,
        )
        scenario.appends.append((added, at, weights))
    return scenario


def listed(scenario: Scenario) -> tuple[list[Block], list[Block]]:
    """Training and validation samples as lists, made the way one would without caring for size."""
    first_shard = 0

    def entries(
        manifest: PackedManifest, weights: dict[str, float], seed: int
    ) -> tuple[list[Block], list[Block]]:
        training: list[Block] = []
        validation: list[Block] = []
        for source in sorted({shard.source for shard in manifest.shards}):
            usable, held_out = (
                [
                    (first_shard + number, start)
                    for number, shard in enumerate(manifest.shards)
                    if (shard.source, shard.split) == (source, split)
                    for start in range(
                        0, shard.num_tokens - scenario.sequence_length, scenario.sequence_length
                    )
                ]
                for split in ("train", "validation")
            )
            validation += [Block(source, 0, *place) for place in held_out]
            weight = Fraction(str(weights.get(source, 1.0)))
            for epoch in range(math.floor(weight)):
                training += [Block(source, epoch, *place) for place in usable]
            part = math.floor((weight % 1) * len(usable) + Fraction(1, 2))
            chosen = Permutation(len(usable), "fraction", seed, source)(np.arange(part))
            training += [Block(source, math.floor(weight), *usable[i]) for i in chosen]
        return training, validation

    training, validation = entries(scenario.manifest, scenario.weights, scenario.seed)
    mix = Permutation(len(training), "order", scenario.seed, 0, scenario.manifest.digest)
    order = [training[i] for i in mix(range_of(training))]
    held_out = [
        validation[i] for i in Permutation(len(validation), "validation")(range_of(validation))
    ]
    first_shard = len(scenario.manifest.shards)
    for number, (new, at, weights) in enumerate(scenario.appends):
        seed = scenario.seed + number
        pool = order[at:] + entries(new, weights, seed)[0]
        mix = Permutation(len(pool), "order", seed, at, new.digest)
        order = order[:at] + [pool[i] for i in mix(range_of(pool))]
        first_shard += len(new.shards)
    return order, held_out


def range_of(things: list[Any]) -> Any:
    return np.arange(len(things))


def all_of(order: SampleOrder, *, validation: bool = False) -> list[Block]:
    size = order.num_validation_samples if validation else order.num_samples
    return locate_all(order, np.arange(size), validation=validation)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equals_the_order_made_with_lists(simulate: Simulate, data: st.DataObject) -> None:
    scenario = data.draw(scenarios(simulate))
    order = scenario.order()
    training, validation = listed(scenario)
    assert all_of(order) == training
    assert all_of(order, validation=True) == validation
    sample = data.draw(st.integers(0, order.num_samples - 1))
    assert locate(order, sample) == training[sample]
    if validation:
        number = data.draw(st.integers(0, len(validation) - 1))
        assert locate(order, number, validation=True) == validation[number]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_block_once_an_epoch_and_none_of_validation(
    simulate: Simulate, data: st.DataObject
) -> None:
    scenario = data.draw(scenarios(simulate, max_appends=0))
    order = scenario.order()
    seen = Counter(all_of(order))
    assert set(seen.values()) <= {1}
    held_out = {(block.shard, block.start) for block in all_of(order, validation=True)}
    assert not held_out & {(block.shard, block.start) for block in seen}
    assert {order.shards[shard].split for shard, _ in held_out} <= {"validation"}
    assert len(held_out) == sum(
        (shard.num_tokens - 1) // order.sequence_length
        for shard in scenario.manifest.of_split("validation")
    )
    for source, weight in scenario.weights.items():
        places = {
            (number, start)
            for number, shard in enumerate(order.shards)
            if (shard.source, shard.split) == (source, "train")
            for start in range(0, shard.num_tokens - order.sequence_length, order.sequence_length)
        }
        for epoch in range(math.floor(weight)):
            assert {
                (b.shard, b.start) for b in seen if (b.source, b.epoch) == (source, epoch)
            } == places
        part = [b for b in seen if (b.source, b.epoch) == (source, math.floor(weight))]
        assert abs(len(part) - (weight % 1) * len(places)) <= 0.5
        assert not [b for b in seen if b.source == source and b.epoch > weight]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_says_when_a_block_is_trained_on(simulate: Simulate, data: st.DataObject) -> None:
    """The inverse of the order, for every block there is, whether it is trained on or not."""
    order = data.draw(scenarios(simulate)).order()
    when = {block: sample for sample, block in enumerate(all_of(order))}
    every = [
        (order.sources.index(shard.source), epoch, number, start)
        for number, shard in enumerate(order.shards)
        for start in range(shard.num_tokens)
        for epoch in range(-1, 5)
    ]
    found = order.find_many(Blocks(*np.asarray(every, dtype=np.int64).T.copy()))
    expected = [when.get(Block(order.sources[source], *rest), -1) for source, *rest in every]
    assert found.tolist() == expected
    assert len(when) == np.count_nonzero(found >= 0)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_an_append_keeps_the_past_and_shows_each_unseen_block_once(
    simulate: Simulate, data: st.DataObject
) -> None:
    scenario = data.draw(scenarios(simulate))
    for number in range(len(scenario.appends)):
        before, after = scenario.order(number), scenario.order(number + 1)
        new, at, weights = scenario.appends[number]
        old, now = all_of(before), all_of(after)
        assert now[:at] == old[:at]
        added = [block for block in now[at:] if block.shard >= len(before.shards)]
        assert Counter(now[at:]) - Counter(added) == Counter(old[at:])
        assert max(Counter(now).values(), default=1) == 1
        for source in new.sources:
            blocks = sum(
                (shard.num_tokens - 1) // scenario.sequence_length
                for shard in new.shards
                if (shard.source, shard.split) == (source, "train")
            )
            # Halves are rounded up, as 0.5 of 3 blocks is 2.
            expected = math.floor(Fraction(str(weights.get(source, 1))) * blocks + Fraction(1, 2))
            assert sum(block.source == source for block in added) == expected
        assert after.num_validation_samples == before.num_validation_samples


def test_a_tiny_order_by_hand(simulate: Simulate) -> None:
    """Shards of 7 and 4 tokens at length 2: blocks at 0, 2, 4 and at 0; the last tokens are left.

    A block needs 3 tokens, so 7 tokens give (7 - 1) // 2 = 3 blocks and 4 give 1.
    """
    manifest = simulate({"en": [7], "zh": [4]})
    order = SampleOrder(manifest, sequence_length=2, seed=0, weights={"zh": 2})
    assert sorted(all_of(order), key=str) == [
        Block("en", 0, 0, 0),
        Block("en", 0, 0, 2),
        Block("en", 0, 0, 4),
        Block("zh", 0, 1, 0),
        Block("zh", 1, 1, 0),
    ]
    assert order.samples_by_source() == {"en": 3, "zh": 2}


def test_never_changes(simulate: Simulate) -> None:
    """Checkpoints rely on it: whoever changes this changes the order of every run."""
    manifest = simulate({"en": [30], "zh": [25, 13]}, validation={"en": [12], "zh": [6, 11]})
    new = simulate({"new": [16]}, prefix="x", validation={"new": [20]})
    append = Append(at=4, manifest=new, seed=3)
    order = SampleOrder(manifest, sequence_length=5, seed=1, weights={"zh": 1.5}, appends=[append])
    assert [(b.source, b.epoch, b.shard, b.start) for b in all_of(order)] == [
        ("en", 0, 0, 0),
        ("zh", 1, 1, 0),
        ("zh", 0, 1, 10),
        ("en", 0, 0, 5),
        ("en", 0, 0, 10),
        ("zh", 0, 1, 0),
        ("new", 0, 6, 0),
        ("zh", 1, 2, 0),
        ("en", 0, 0, 15),
        ("zh", 0, 1, 15),
        ("en", 0, 0, 20),
        ("new", 0, 6, 5),
        ("new", 0, 6, 10),
        ("zh", 1, 2, 5),
        ("zh", 0, 2, 5),
        ("zh", 0, 2, 0),
        ("zh", 0, 1, 5),
    ]
    held_out = all_of(order, validation=True)
    assert [(b.source, b.epoch, b.shard, b.start) for b in held_out] == [
        ("en", 0, 3, 0),
        ("zh", 0, 4, 5),
        ("zh", 0, 4, 0),
        ("zh", 0, 5, 0),
        ("en", 0, 3, 5),
    ]
    held_out = all_of(order, validation=True)
    assert [(b.source, b.epoch, b.shard, b.start) for b in held_out] == [
        ("en", 0, 3, 0),
        ("zh", 0, 4, 5),
        ("zh", 0, 4, 0),
        ("zh", 0, 5, 0),
        ("en", 0, 3, 5),
    ]


def test_validation_moves_with_neither_seed_nor_weights_nor_appends(simulate: Simulate) -> None:
    manifest = simulate({"en": [300], "zh": [200, 150]}, validation={"en": [32], "zh": [21, 5, 15]})

    def validation(**changes: Any) -> list[Block]:
        arguments = {"sequence_length": 5, "seed": 1} | changes
        order = SampleOrder(manifest, **arguments)
        return all_of(order, validation=True)

    first = validation()
    assert len(first) == 6 + 4 + 0 + 2
    new = simulate({"new": [90]}, prefix="x", validation={"en": [70], "new": [80]})
    append = Append(at=4, manifest=new, seed=3)
    assert validation(seed=2) == validation(weights={"en": 0.0}) == first
    assert validation(appends=[append]) == first
    assert validation(sequence_length=6) != first


def test_order_depends_on_content_and_not_on_names(simulate: Simulate) -> None:
    manifest = simulate({"en": [100], "zh": [80, 90, 70]})
    renamed = PackedManifest(
        vocab_size=manifest.vocab_size,
        end_of_document=manifest.end_of_document,
        tokenizer_digest=manifest.tokenizer_digest,
        shards=tuple(
            type(shard)(**{**shard.__dict__, "name": f"moved-{99 - number}.bin"})
            for number, shard in enumerate(reversed(manifest.shards))
        ),
    )
    assert renamed.digest == manifest.digest
    old = SampleOrder(manifest, sequence_length=7, seed=5)
    new = SampleOrder(renamed, sequence_length=7, seed=5)
    for sample in range(old.num_samples):
        before, after = locate(old, sample), locate(new, sample)
        assert old.shards[before.shard].md5 == new.shards[after.shard].md5
        assert before.start == after.start


def test_seeds_and_fractions_choose_differently(simulate: Simulate) -> None:
    manifest = simulate({"en": [2000]})
    halves = [
        SampleOrder(manifest, sequence_length=10, seed=seed, weights={"en": 0.5}) for seed in (1, 2)
    ]
    first, second = ({block.start for block in all_of(order)} for order in halves)
    assert len(first) == len(second) == 100  # 199 blocks, half rounded up
    assert 30 <= len(first & second) <= 70


def test_sources_mix_evenly_along_the_order(simulate: Simulate) -> None:
    order = SampleOrder(simulate({"en": [8001], "zh": [32001]}), sequence_length=4, seed=1)
    chinese = np.asarray(order.locate_many(np.arange(order.num_samples)).source == 1)
    assert order.num_samples == 10_000
    for tenth in chinese.reshape(10, -1):
        assert 0.75 < tenth.mean() < 0.85


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {"english": 1.0}}, "'english' is no source of the packed data; there are en"),
        ({"weights": {"en": -1.0}}, "-1.0 epochs of 'en'"),
        ({"weights": {"en": math.nan}}, "nan epochs of 'en'"),
        ({"weights": {"en": math.inf}}, "inf epochs of 'en'"),
        ({"sequence_length": 0}, "sequence_length 0"),
    ],
)
def test_refuses_wrong_values(simulate: Simulate, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SampleOrder(simulate({"en": [100]}), **{"sequence_length": 4, "seed": 0} | arguments)


def test_refuses_data_too_small_for_one_block(simulate: Simulate) -> None:
    with pytest.raises(DataError, match="no block of 101 tokens"):
        SampleOrder(simulate({"en": [100]}), sequence_length=100, seed=0)
    assert SampleOrder(simulate({"en": [101]}), sequence_length=100, seed=0).num_samples == 1


def test_tells_of_sources_that_make_no_sample(simulate: Simulate) -> None:
    manifest = simulate({"en": [100], "short": [10, 9], "off": [50], "little": [21], "tiny": [2]})
    weights = {"off": 0.0, "little": 0.4}
    order = SampleOrder(manifest, sequence_length=10, seed=0, weights=weights)
    assert order.sources_without_samples() == {"short": 19, "tiny": 2}
    assert order.samples_by_source() == {"en": 9, "little": 1, "off": 0, "short": 0, "tiny": 0}
    weights["little"] = 0.2
    order = SampleOrder(manifest, sequence_length=10, seed=0, weights=weights)
    assert order.sources_without_samples() == {"short": 19, "little": 21, "tiny": 2}


def test_refuses_samples_outside(simulate: Simulate) -> None:
    order = SampleOrder(simulate({"en": [37]}, validation={"en": [5]}), sequence_length=4, seed=0)
    assert (order.num_samples, order.num_validation_samples) == (9, 1)
    for sample in (-1, 9):
        with pytest.raises(IndexError, match="9 training samples"):
            locate(order, sample)
    with pytest.raises(IndexError, match="1 validation samples"):
        locate(order, 1, validation=True)


def test_refuses_an_append_beyond_the_end(simulate: Simulate) -> None:
    manifest, new = simulate({"en": [41]}), simulate({"en": [20]}, prefix="x")
    appends = [Append(at=11, manifest=new, seed=0)]
    with pytest.raises(DataError, match="sample 11, but the order ends at 10"):
        SampleOrder(manifest, sequence_length=4, seed=0, appends=appends)
