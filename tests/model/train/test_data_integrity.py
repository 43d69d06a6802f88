"""Damaged and exchanged data end a real training of two processes before they are trained on."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from common.config import from_json
from model.data import PackedManifest, SampleOrder
from model.train.config import PretrainJob
from model.train.run.folder import LEASE_FOLDER, VERIFIED_FOLDER
from model.train.run.plan import sample_order
from tests.model.data.blocks import locate
from tests.model.train import ranks


@pytest.fixture
def own(packed: Path, tmp_path: Path) -> Path:
    """Packed data that a test may damage."""
    return shutil.copytree(packed, tmp_path / "packed")


def flip(path: Path) -> None:
    """One bit, with the modification time as before."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def logs(output: Path) -> str:
    return "".join(path.read_text() for path in sorted(output.glob("rank-*.log")))


def order_of(job: Path) -> SampleOrder:
    read = from_json(PretrainJob, job)
    return sample_order(read.settings, PackedManifest.read(Path(read.packed) / "shards"))


def test_damage_between_launches_and_repair(
    own: Path, uninterrupted: Path, fork_server: None, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    job = ranks.write_job(own, output, ranks.settings())
    stop = ranks.Fault(step=5, number=signal.SIGKILL)
    assert ranks.run_ranks(job, 2, stop)[0] == -signal.SIGKILL
    order = order_of(job)
    resumed = range(32, 96)  # samples of the steps after the checkpoint of step 4
    bad = locate(order, resumed[20]).shard
    first = next(s for s in resumed if locate(order, s).shard == bad)
    path = own / "shards" / order.shards[bad].name
    good = path.read_bytes()
    flip(path)
    before = ranks.read_samples(output)
    codes = ranks.run_ranks(job, 2)
    assert 2 in codes and 0 not in codes
    assert f"shard {path.name!r}" in logs(output) and "does not hold what was packed" in logs(
        output
    )
    after = ranks.read_samples(output)
    for step in range(first // 8, 12):  # steps from the damaged shard's first use on
        assert after.get(step) == before.get(step)
    path.write_bytes(good)
    assert ranks.run_ranks(job, 2) == [0, 0]
    assert ranks.read_run(output) == ranks.read_run(uninterrupted)
    assert not list((output / LEASE_FOLDER).glob(f"*/{VERIFIED_FOLDER}"))


def test_a_shard_that_is_gone_from_the_manifest_is_named(
    own: Path, fork_server: None, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    job = ranks.write_job(own, output, ranks.settings(steps=6))
    assert ranks.run_ranks(job, 1) == [0]
    whole = PackedManifest.read(own / "shards")
    gone = whole.shards[0]
    replace(whole, shards=whole.shards[1:]).write(own / "shards")
    assert ranks.run_ranks(job, 1) == [2]
    assert f"shard {gone.name!r} (source alpha" in logs(output) and "is gone" in logs(output)
    # The same content under other names is the same data.
    shards = [replace(shard, name=f"renamed-{i}.bin") for i, shard in enumerate(whole.shards)]
    for old, new in zip(whole.shards, shards, strict=True):
        (own / "shards" / old.name).rename(own / "shards" / new.name)
        (own / "shards" / old.index_name).rename(own / "shards" / new.index_name)
    replace(whole, shards=tuple(shards)).write(own / "shards")
    assert ranks.run_ranks(job, 1) == [0]


def test_damage_from_the_start(own: Path, fork_server: None, tmp_path: Path) -> None:
    output = tmp_path / "run"
    job = ranks.write_job(own, output, ranks.settings())
    for path in (own / "shards").glob("*.bin"):
        flip(path)
    assert ranks.run_ranks(job, 2) == [2, 2]
    assert not ranks.read_samples(output)
