import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, DataError
from model.data import PackedManifest
from model.data.epoch_index import Blocks
from model.data.order import SampleOrder
from model.data.verify import order as verify
from model.data.verify.order import verify_order
from model.data.verify.shards import verify_shards
from tests.model.data.blocks import locate_all

Simulate = Callable[..., PackedManifest]
Pack = Callable[..., PackedManifest]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_scenario_holds(simulate: Simulate, data: st.DataObject) -> None:
    sizes = st.lists(st.integers(1, 300), min_size=1, max_size=3)
    sources = data.draw(st.dictionaries(st.sampled_from(["en", "zh"]), sizes, min_size=1))
    sources["code"] = [500]
    global_batch_size = data.draw(st.sampled_from([4, 8]))
    arguments: dict[str, Any] = {
        "sequence_length": data.draw(st.integers(1, 9)),
        "global_batch_size": global_batch_size,
        "seed": data.draw(st.integers(0, 9)),
        "weights": {name: data.draw(st.sampled_from([0, 0.3, 1, 2.5])) for name in sources}
        | {"code": 1.5},
    }
    held_out = data.draw(st.dictionaries(st.sampled_from(["en", "fr"]), sizes))
    manifest = simulate(sources, validation=held_out)
    plain = verify_order(manifest, **arguments)
    at = data.draw(st.integers(0, plain.num_steps))
    new = simulate({"zh": data.draw(sizes), "new": [90]}, "x", validation={"en": [70]})
    append = [(new, at)]
    whole = verify_order(manifest, **arguments, more=append)
    stops = st.lists(st.integers(0, whole.num_steps), max_size=3).map(sorted)
    restarts = data.draw(stops)
    ranks = [data.draw(st.sampled_from([1, 2, 4])) for _ in range(len(restarts) + 1)]
    micro_batches = [
        data.draw(st.sampled_from([b for b in (1, 2, 4, 8) if global_batch_size % (n * b) == 0]))
        for n in ranks
    ]
    report = verify_order(
        manifest,
        **arguments,
        more=append,
        ranks=ranks,
        restarts=restarts,
        micro_batches=micro_batches,
    )
    for each in (plain, whole, report):
        assert each.ok and each.exhaustive and each.num_checked == each.num_samples
        assert sum(each.samples_by_source.values()) == each.num_samples
    assert report.order_digest == whole.order_digest
    assert report.to_dict()["ok"] is True


def test_digest_is_that_of_the_samples_in_order(simulate: Simulate) -> None:
    manifest = simulate({"en": [100], "zh": [90, 33]})
    order = SampleOrder(manifest, sequence_length=4, seed=2)
    md5 = hashlib.md5()
    for block in locate_all(order, range(order.num_samples)):
        md5.update(bytes.fromhex(order.shards[block.shard].md5))
        md5.update(block.epoch.to_bytes(8, "little") + block.start.to_bytes(8, "little"))
    report = verify_order(manifest, sequence_length=4, seed=2, global_batch_size=8, ranks=[4])
    assert report.order_digest == md5.hexdigest()


Change = Callable[[Blocks, Any], None]


def repeat(blocks: Blocks, numbers: Any) -> None:
    for column in (blocks.source, blocks.epoch, blocks.shard, blocks.start):
        column[numbers == 3] = column[numbers == 4]


def shift(blocks: Blocks, numbers: Any) -> None:
    blocks.start[numbers == 3] += 1


def beyond(blocks: Blocks, numbers: Any) -> None:
    blocks.start[numbers == 3] += 4000


def later_epoch(blocks: Blocks, numbers: Any) -> None:
    blocks.epoch[numbers == 3] += 5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (repeat, {"num_lost": 1, "num_repeated": 1}),
        (shift, {"num_lost": 1, "num_misplaced": 1}),
        (beyond, {"num_lost": 1, "num_misplaced": 1}),
        (later_epoch, {"num_lost": 1, "num_misplaced": 1}),
    ],
)
def test_a_wrong_order_is_noticed(
    simulate: Simulate, monkeypatch: pytest.MonkeyPatch, change: Change, expected: dict[str, int]
) -> None:
    real = SampleOrder.locate_many

    def wrong(self: SampleOrder, samples: Any, *, validation: bool = False) -> Blocks:
        blocks = real(self, samples, validation=validation)
        if not validation and len(blocks.start) > 4:
            change(blocks, np.asarray(samples))
        return blocks

    monkeypatch.setattr(SampleOrder, "locate_many", wrong)
    report = verify_order(simulate({"en": [400]}), sequence_length=4, global_batch_size=8)
    assert not report.ok
    assert {name: getattr(report, name) for name in expected} == expected


def test_validation_that_is_trained_on_is_noticed(
    simulate: Simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SampleOrder.locate_many

    def leaky(self: SampleOrder, samples: Any, *, validation: bool = False) -> Blocks:
        blocks = real(self, samples, validation=validation)
        if not validation:
            held_out = real(self, [0], validation=True)
            at = np.asarray(samples) == 5
            blocks.shard[at], blocks.start[at] = held_out.shard[0], held_out.start[0]
        return blocks

    monkeypatch.setattr(SampleOrder, "locate_many", leaky)
    manifest = simulate({"en": [400]}, validation={"en": [40]})
    report = verify_order(manifest, sequence_length=4, global_batch_size=8)
    assert (report.num_leaked, report.num_lost) == (1, 1) and not report.ok


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda blocks: blocks.start.__setitem__(0, blocks.start[1]), {"num_repeated": 1}),
        (lambda blocks: blocks.start.__setitem__(0, 4000), {"num_misplaced": 1}),
        (lambda blocks: blocks.shard.__setitem__(0, 0), {"num_leaked": 1}),
    ],
)
def test_wrong_validation_samples_are_noticed(
    simulate: Simulate,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Blocks], None],
    expected: dict[str, int],
) -> None:
    real = SampleOrder.locate_many

    def wrong(self: SampleOrder, samples: Any, *, validation: bool = False) -> Blocks:
        blocks = real(self, samples, validation=validation)
        if validation:
            change(blocks)
        return blocks

    monkeypatch.setattr(SampleOrder, "locate_many", wrong)
    manifest = simulate({"en": [400]}, validation={"en": [40]})
    report = verify_order(manifest, sequence_length=4, global_batch_size=8)
    assert {name: getattr(report, name) for name in expected} == expected
    assert report.num_lost == 1 and not report.ok


def test_an_order_that_depends_on_the_ranks_is_noticed(
    simulate: Simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_rank(steps: Any, *, global_batch_size: int, rank: int, world_size: int) -> Any:
        """Each rank has a half of the data to itself, as in the published code."""
        share = global_batch_size // world_size
        first = np.asarray(steps)[:, None] * share + np.arange(share)
        return first + rank * 48

    arguments: dict[str, Any] = {"sequence_length": 4, "global_batch_size": 8, "ranks": [2]}
    manifest = simulate({"en": [385]})
    good = verify_order(manifest, **arguments)
    monkeypatch.setattr(verify, "rank_samples", by_rank)
    bad = verify_order(manifest, **arguments)
    assert good.ok and not bad.ok
    assert bad.num_differing > 0 and bad.num_lost == bad.num_repeated == 0


@pytest.mark.slow
def test_half_a_billion_blocks_by_sampling(simulate: Simulate) -> None:
    manifest = simulate({"zh": [1 << 40], "en": [1 << 38]}, validation={"zh": [1 << 24]})
    report = verify_order(
        manifest,
        sequence_length=2048,
        global_batch_size=512,
        ranks=[8, 4, 8],
        restarts=[300, 900],
        more=[(simulate({"new": [1 << 30]}, prefix="x", fraction=0.1), 1200)],
        limit=100_000,
    )
    assert report.ok and not report.exhaustive
    assert report.num_samples > 500_000_000 and report.num_checked > 500_000


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ({"ranks": [3]}, "8 is no multiple of 3 ranks"),
        ({"ranks": [0]}, "no multiple of 0 ranks"),
        ({"ranks": [2, 4]}, "one for each change"),
        ({"ranks": []}, "one for each change"),
        ({"restarts": [5, 3]}, "ascending"),
        ({"restarts": [13]}, "cannot be restarted at step 13: 99 samples make 12 steps of 8"),
        ({"ranks": [2], "micro_batches": [3]}, "2 ranks x micro-batch 3"),
        ({"ranks": [2], "micro_batches": [2, 4]}, "as many of each"),
    ],
)
def test_refuses_impossible_scenarios(
    simulate: Simulate, scenario: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        verify_order(simulate({"en": [400]}), sequence_length=4, global_batch_size=8, **scenario)


def test_refuses_appending_after_the_end(simulate: Simulate) -> None:
    new = simulate({"en": [90]}, prefix="x")
    with pytest.raises(ConfigError, match="appended at step 13: 99 samples make 12 steps of 8"):
        verify_order(
            simulate({"en": [400]}), sequence_length=4, global_batch_size=8, more=[(new, 13)]
        )


def test_refuses_appending_what_is_there(simulate: Simulate) -> None:
    manifest = simulate({"en": [400]})
    with pytest.raises(DataError, match="has the content of"):
        verify_order(manifest, sequence_length=4, global_batch_size=8, more=[(manifest, 2)])


def test_shards_are_verified_and_faults_collected(packed: PackedManifest) -> None:
    seen = []
    assert verify_shards(packed, progress=lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (sum(s.num_bytes for s in packed.shards),) * 2
    assert packed.folder
    (packed.folder / packed.shards[0].name).unlink()
    data = bytearray((packed.folder / packed.shards[2].index_name).read_bytes())
    data[0] ^= 1
    (packed.folder / packed.shards[2].index_name).write_bytes(data)
    faults = verify_shards(packed)
    assert len(faults) == 2
    assert packed.shards[0].name in faults[0] and packed.shards[2].name in faults[1]


def test_documents_without_their_end_are_a_fault(pack: Pack, tmp_path: Path) -> None:
    good = pack(tmp_path, {"zh": [[1, 2], [3, 4]]})
    for change, message in (
        ({"end_of_document": 1}, "do not end where"),
        ({"vocab_size": 4}, "holds id 4"),
    ):
        values: dict[str, Any] = {
            "vocab_size": good.vocab_size,
            "end_of_document": good.end_of_document,
            "tokenizer_digest": good.tokenizer_digest,
            "shards": good.shards,
            "folder": good.folder,
        } | change
        (fault,) = verify_shards(PackedManifest(**values))
        assert message in fault
