"""The loader's thread: same batches, errors where they belong, no thread left behind."""

import gc
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from common.errors import DataError
from model.data import MicroBatch, PackedDataset, PackedManifest, SampleOrder, StepLoader
from tests.model.data.blocks import locate
from tests.processes import PATIENCE_SECONDS, wait_until

Pack = Callable[..., PackedManifest]


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    yield
    gc.collect()
    # What hashes a shard that nobody needs any more ends behind it.
    wait_until(lambda: not any(map(is_ours, threading.enumerate())), "no thread is left behind")


def is_ours(thread: threading.Thread) -> bool:
    return thread.name.startswith(("step-loader", "shard-verifier"))


def loader_of(packed: PackedManifest, **arguments: int) -> StepLoader:
    assert packed.folder
    order = SampleOrder(packed, sequence_length=6, seed=3)
    return StepLoader(
        PackedDataset(packed.folder, order),
        separate_documents=True,
        **{"global_batch_size": 8, "micro_batch_size": 2, "rank": 1, "world_size": 2} | arguments,
    )


def plain(batches: list[MicroBatch]) -> list[dict[str, object]]:
    return [
        {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        for batch in batches
    ]


def everything(loader: StepLoader) -> list[list[dict[str, object]]]:
    steps = [plain(loader.step(step)) for step in range(loader.num_steps)]
    loader.close()
    return steps


@pytest.mark.parametrize("depth", [1, 2, 7, 1000])
def test_reading_ahead_changes_nothing(packed: PackedManifest, depth: int) -> None:
    assert everything(loader_of(packed, prefetch=depth)) == everything(
        loader_of(packed, prefetch=0)
    )


def test_jumps_repeats_and_use_after_close(packed: PackedManifest) -> None:
    expected = everything(loader_of(packed, prefetch=0))
    loader = loader_of(packed, prefetch=3)
    for step in (4, 5, 5, 6, 0, 1, loader.num_steps - 1, 2, 3):
        assert plain(loader.step(step)) == expected[step]
    loader.close()
    loader.close()
    assert not any(map(is_ours, threading.enumerate()))
    assert plain(loader.step(4)) == expected[4]
    loader.close()


def test_reads_no_further_than_told(
    packed: PackedManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = loader_of(packed, prefetch=2)
    read = threading.Semaphore(0)
    count = []
    real = PackedDataset.batches

    def counting(self: PackedDataset, *args: object, **keywords: object) -> object:
        count.append(1)
        read.release()
        return real(self, *args, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(PackedDataset, "batches", counting)
    loader.step(0)
    for _ in range(3):  # the step that was taken, and two more
        assert read.acquire(timeout=PATIENCE_SECONDS)
    assert not read.acquire(timeout=0.2)
    loader.step(1)
    assert read.acquire(timeout=PATIENCE_SECONDS)
    assert not read.acquire(timeout=0.2)
    loader.close()
    assert len(count) == 4


def test_an_error_is_raised_at_its_step_and_can_be_repaired(packed: PackedManifest) -> None:
    expected = everything(loader_of(packed, prefetch=0))
    loader = loader_of(packed, prefetch=4)
    order = loader.dataset.order
    shards = [
        {locate(order, sample).shard for sample in loader.samples(step).tolist()}
        for step in range(loader.num_steps)
    ]
    # A shard that the first steps do not need.
    bad = next(i for i in range(len(packed.shards)) if not any(i in s for s in shards[:2]))
    first = next(step for step, used in enumerate(shards) if bad in used)
    assert first >= 2 and packed.folder
    path = packed.folder / packed.shards[bad].name
    good = path.read_bytes()
    path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    for step in range(first):
        assert plain(loader.step(step)) == expected[step]
    for _ in range(2):
        with pytest.raises(DataError, match=f"'{path.name}'.* does not hold what was packed"):
            loader.step(first)
    path.write_bytes(good)
    assert plain(loader.step(first)) == expected[first]
    loader.close()


def test_a_forgotten_loader_ends_its_thread(packed: PackedManifest) -> None:
    loader = loader_of(packed, prefetch=2)
    loader.step(0)
    assert any(map(is_ours, threading.enumerate()))
    del loader  # the fixture looks for threads


def test_a_pickled_loader_goes_on(packed: PackedManifest) -> None:
    loader = loader_of(packed, prefetch=2)
    first = plain(loader.step(3))
    copy: StepLoader = pickle.loads(pickle.dumps(loader))  # noqa: S301
    assert plain(copy.step(3)) == first
    assert plain(copy.step(4)) == plain(loader.step(4))
    for each in (loader, copy):
        each.close()


def read_elsewhere(loader: StepLoader, results: "multiprocessing.Queue[object]") -> None:
    results.put([plain(loader.step(step)) for step in range(5)])
    loader.close()


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_survives_fork_and_spawn(packed: PackedManifest, method: str) -> None:
    """Also when the thread of the parent is running, and the parent goes on afterwards."""
    loader = loader_of(packed, prefetch=2)
    expected = [plain(loader.step(step)) for step in range(3)]
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=read_elsewhere, args=(loader, results))
    child.start()
    found = results.get(timeout=PATIENCE_SECONDS)
    child.join(timeout=PATIENCE_SECONDS)
    assert child.exitcode == 0
    expected += [plain(loader.step(step)) for step in (3, 4)]
    loader.close()
    assert found == expected


def test_a_forked_child_may_forget_the_loader(packed: PackedManifest) -> None:
    loader = loader_of(packed, prefetch=2)
    loader.step(0)
    pid = os.fork()
    if pid == 0:
        try:
            loader.close()
            del loader
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert loader.step(1)
    loader.close()
