"""Damage done for real, in one process, in two, and between two launches."""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import Any

import pytest

from common.errors import DataError
from model.data import (
    PackedDataset,
    PackedManifest,
    SampleOrder,
    ShardVerifier,
    StepLoader,
    shard_verifier,
)
from model.data.shard_verifier import marks_folder
from tests.model.data.blocks import locate
from tests.processes import PATIENCE_SECONDS

Fault = Callable[[Path], None]


def keeping_times(damage: Fault) -> Fault:
    """Damage that a look at size and modification time does not show."""

    def fault(path: Path) -> None:
        before = path.stat()
        damage(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_mtime_ns == before.st_mtime_ns

    return fault


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte ^ 0x10]))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 2)


def swap(path: Path) -> None:
    """Another shard's bytes under this name, of the right size, put there by a rename."""
    size = path.stat().st_size
    other = next(p for p in sorted(path.parent.glob(f"*{path.suffix}")) if p != path)
    aside = path.with_suffix(".aside")
    aside.write_bytes((other.read_bytes() * 9)[:size])
    aside.replace(path)


FAULTS = [
    pytest.param(keeping_times(flip), "does not hold what was packed", id="flipped"),
    pytest.param(cut, "is truncated", id="truncated"),
    pytest.param(Path.unlink, "is missing", id="missing"),
    pytest.param(keeping_times(swap), "does not hold what was packed", id="swapped"),
]


def dataset_of(packed: PackedManifest, marks: Path | None = None) -> PackedDataset:
    assert packed.folder
    order = SampleOrder(packed, sequence_length=6, seed=3)
    return PackedDataset(packed.folder, order, verifier=ShardVerifier(marks))


def read_all(dataset: PackedDataset) -> None:
    for number in range(len(dataset)):
        dataset[number]


def file_of(packed: PackedManifest, number: int, suffix: str = ".bin") -> Path:
    assert packed.folder
    return (packed.folder / packed.shards[number].name).with_suffix(suffix)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """Names of the shards that were hashed since, by this process or by those forked from it."""
    path, real = tmp_path / "hashed.txt", shard_verifier.check_shard

    def noting(folder: Path, shard: Any) -> None:
        with path.open("a") as file:
            file.write(f"{shard.name}\n")
        real(folder, shard)

    monkeypatch.setattr(shard_verifier, "check_shard", noting)

    def since() -> list[str]:
        found = sorted(path.read_text().split()) if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    return since


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_no_token_of_a_faulty_shard_is_given_out(
    packed: PackedManifest, tmp_path: Path, fault: Fault, message: str, suffix: str
) -> None:
    for marks in (None, tmp_path / "marks"):
        dataset, bad = dataset_of(packed, marks), 1
        path = file_of(packed, bad, suffix)
        if path.exists() and marks is None:
            fault(path)
        refused = 0
        for number in range(len(dataset)):
            if locate(dataset.order, number).shard == bad:
                refused += 1
                with pytest.raises(DataError, match=f"'{packed.shards[bad].name}'.*{message}"):
                    dataset[number]
            else:
                dataset[number]
        assert refused == (packed.shards[bad].num_tokens - 1) // 6


def test_a_shard_is_hashed_once_a_launch(
    packed: PackedManifest, tmp_path: Path, hashed: Callable[[], list[str]]
) -> None:
    names = sorted(shard.name for shard in packed.shards)
    first = dataset_of(packed, tmp_path / "run" / "one")
    for _ in range(2):
        read_all(first)
    assert hashed() == names
    read_all(dataset_of(packed, tmp_path / "run" / "one"))  # as another rank would
    assert hashed() == []
    read_all(dataset_of(packed, tmp_path / "run" / "two"))  # another launch
    assert hashed() == names
    for _ in range(2):  # nobody to share with
        read_all(dataset_of(packed))
        assert hashed() == names


def _rank(dataset: PackedDataset, together: Barrier, steps: range) -> None:
    loader = StepLoader(
        dataset, global_batch_size=8, micro_batch_size=4, rank=steps.start, world_size=2, prefetch=2
    )
    together.wait(PATIENCE_SECONDS)
    for step in range(loader.num_steps):
        loader.step(step)
    loader.close()


def test_two_ranks_share_the_work(
    packed: PackedManifest, tmp_path: Path, hashed: Callable[[], list[str]]
) -> None:
    context = multiprocessing.get_context("fork")
    together = context.Barrier(2)
    dataset = dataset_of(packed, tmp_path / "marks")
    children = [
        context.Process(target=_rank, args=(dataset, together, range(rank, 2))) for rank in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(PATIENCE_SECONDS)
    assert [child.exitcode for child in children] == [0, 0]
    assert hashed() == sorted(shard.name for shard in packed.shards)


def _open_after(dataset: PackedDataset, go: Event, results: Any) -> None:
    go.wait(PATIENCE_SECONDS)
    messages = {}
    for number in range(len(dataset)):
        try:
            dataset[number]
        except DataError as error:
            messages[locate(dataset.order, number).shard] = str(error)
    results.put(messages)


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_damage_after_another_rank_marked_the_shard(
    packed: PackedManifest, tmp_path: Path, fault: Fault, message: str
) -> None:
    """The mark says that the shard was right; the second rank does not believe it any more."""
    context = multiprocessing.get_context("fork")
    go, results = context.Event(), context.Queue()
    second = context.Process(
        target=_open_after, args=(dataset_of(packed, tmp_path / "marks"), go, results)
    )
    second.start()
    read_all(dataset_of(packed, tmp_path / "marks"))
    fault(file_of(packed, 2))
    go.set()
    messages = results.get(timeout=PATIENCE_SECONDS)
    second.join(PATIENCE_SECONDS)
    assert set(messages) == {2}
    assert packed.shards[2].name in messages[2] and message in messages[2]


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_damage_between_two_launches(
    packed: PackedManifest, tmp_path: Path, fault: Fault, message: str
) -> None:
    verified = tmp_path / "run" / "verified"
    read_all(dataset_of(packed, marks_folder(verified / "first")))
    fault(file_of(packed, 0))
    again = dataset_of(packed, marks_folder(verified / "second"))
    with pytest.raises(DataError, match=f"'{packed.shards[0].name}'.*{message}"):
        read_all(again)


def test_damage_between_checking_ahead_and_opening(packed: PackedManifest) -> None:
    """A shard that was found right and then changed is hashed again when it is opened."""
    dataset = dataset_of(packed)
    dataset.expect(dataset.locate(range(len(dataset))))
    wait_for_idle(dataset)
    keeping_times(flip)(file_of(packed, 1))
    with pytest.raises(DataError, match=packed.shards[1].name):
        read_all(dataset)


def wait_for_idle(dataset: PackedDataset) -> None:
    while any(thread.name == "shard-verifier" for thread in threading.enumerate()):
        time.sleep(0.01)
    dataset.close()


def test_what_is_ahead_is_checked_in_the_background(
    packed: PackedManifest,
    tmp_path: Path,
    hashed: Callable[[], list[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    flip(file_of(packed, 3))
    dataset = dataset_of(packed, tmp_path / "marks")
    with caplog.at_level(logging.WARNING):
        dataset.expect(dataset.locate(range(len(dataset))))
        wait_for_idle(dataset)
    assert hashed() == sorted(shard.name for shard in packed.shards)
    assert f"'{packed.shards[3].name}'" in caplog.text and "Training will end" in caplog.text
    for number in range(len(dataset)):
        if locate(dataset.order, number).shard != 3:
            dataset[number]
    assert hashed() == []


def _die_while_hashing(dataset: PackedDataset, hashing: Event) -> None:
    def never(folder: Path, shard: object) -> None:
        hashing.set()
        time.sleep(600)

    shard_verifier.check_shard = never
    read_all(dataset)


def test_a_killed_rank_leaves_no_lock(packed: PackedManifest, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    hashing = context.Event()
    dataset = dataset_of(packed, tmp_path / "marks")
    child = context.Process(target=_die_while_hashing, args=(dataset, hashing))
    child.start()
    assert hashing.wait(PATIENCE_SECONDS)
    assert child.pid
    waiting = threading.Thread(target=read_all, args=(dataset,), daemon=True)
    waiting.start()
    os.kill(child.pid, signal.SIGKILL)
    child.join(PATIENCE_SECONDS)
    waiting.join(PATIENCE_SECONDS)
    assert not waiting.is_alive()


def test_many_threads_hash_each_shard_once(
    packed: PackedManifest, hashed: Callable[[], list[str]]
) -> None:
    assert packed.folder
    verifier = ShardVerifier(threads=4)
    pairs = [(packed.folder, shard) for shard in packed.shards]
    threads = [threading.Thread(target=verifier.verify, args=(pairs,)) for _ in range(4)]
    for folder, shard in pairs:
        verifier.verify_ahead(folder, shard)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    verifier.close()
    assert hashed() == sorted(shard.name for shard in packed.shards)
    copy: ShardVerifier = pickle.loads(pickle.dumps(verifier))  # noqa: S301
    copy.verify(pairs)
    assert hashed() == []
