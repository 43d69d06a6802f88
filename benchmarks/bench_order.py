"""The order of a trillion tokens: size of its state, time to restore, look-ups, a list beside it.

    python -m benchmarks.bench_order [--blocks 500M] [--appends 100] [--listed 20M] [--json FILE]

`blocks` of 2,048 tokens and `appends` of one million each exist on paper (docs: model/data/verify).
The peer is what others keep: a list of all block numbers, shuffled by numpy.random.permutation,
saved, and memory-mapped again. It is made for `listed` blocks and compared with our permutation of
as many. Its restore is the opening of the file; ours rebuilds the order from the JSON of the state.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._figures import add_options, count, publish
from model.data import Append, DataState, PackedManifest, SampleOrder
from model.data.permutation import Permutation
from model.data.verify.simulated_data import simulated_manifest

LENGTH = 2048
GLOBAL_BATCH = 512
STEPS = (0, 1_000, 10_000, 100_000, 1_000_000)
LOOK_UPS = (1, 64, 512, 4096)
CHUNK = 1 << 16
HELD_OUT = 1e-4


def main(argv: list[str] | None = None) -> None:
    """Run, print, and write JSON where `--json` says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=count, default="500M")
    parser.add_argument("--appends", type=int, default=100)
    parser.add_argument("--listed", type=count, default="20M")
    parser.add_argument("--scratch", type=Path, help="folder with room for 8 bytes a listed block")
    add_options(parser)
    arguments = parser.parse_args(argv)
    base = simulated_manifest(
        arguments.blocks, sequence_length=LENGTH, validation_fraction=HELD_OUT
    )
    joined = appends(arguments.appends)
    plain = _order(base, ())
    appended = _order(base, joined)
    with tempfile.TemporaryDirectory(prefix="bench-order-", dir=arguments.scratch) as scratch:
        listed = race(arguments.listed, Path(scratch))
    figures = {
        "what": "one process; sizes in bytes, times in seconds, speeds a second",
        "blocks": plain.num_samples,
        "tokens": plain.num_samples * LENGTH,
        "shards": len(plain.shards),
        "sources": len(plain.sources),
        "appends": arguments.appends,
        "state_bytes": {
            "without appends": _size(plain),
            f"with {arguments.appends} weighted": _size(appended),
        },
        "restore_seconds_by_step": {
            "without appends": restore(base, (), plain),
            f"with {arguments.appends}": restore(base, joined, appended),
        },
        "look_ups_a_second": {
            "without appends": look_ups(plain),
            f"with {arguments.appends}": look_ups(appended),
        },
        "permutation_beside_a_list": listed,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    publish(figures, "bench_order", argv, arguments.json, packages=["numpy"])


def appends(number: int) -> tuple[Append, ...]:
    """Appends of a million blocks, each weighting every source, all along a run."""
    joined = []
    for index in range(number):
        new = simulated_manifest(
            1_000_000, sequence_length=LENGTH, name=f"append-{index}", validation_fraction=HELD_OUT
        )
        append = Append(
            at=(index + 1) * 4_000 * GLOBAL_BATCH,
            manifest=new,
            seed=index + 1,
            weights=dict.fromkeys(new.sources, 1.25),
        )
        joined.append(append)
    return tuple(joined)


def _order(base: PackedManifest, joined: tuple[Append, ...]) -> SampleOrder:
    return SampleOrder(
        base,
        sequence_length=LENGTH,
        seed=1,
        appends=joined,
        weights=dict.fromkeys(base.sources, 1.5),
    )


def _size(order: SampleOrder) -> int:
    return len(DataState.of(order, order.num_samples // 2).to_json().encode())


def restore(
    base: PackedManifest, joined: tuple[Append, ...], order: SampleOrder
) -> dict[str, float]:
    """From a state's JSON to its next step's places, by the step it was written at.

    Reading the manifest is left out: it is done once, before, and does not depend on the step.
    """
    times = {}
    for step in STEPS:
        consumed = step * GLOBAL_BATCH
        if consumed + GLOBAL_BATCH > order.num_samples:
            continue
        known = tuple(append for append in joined if append.at <= consumed)
        text = DataState.of(_order(base, known), consumed).to_json()

        def once(text: str = text, consumed: int = consumed) -> None:
            state = DataState.from_json(text)
            restored = state.order(base, joined)
            restored.locate_many(np.arange(consumed, consumed + GLOBAL_BATCH))

        times[f"{step}"] = round(_time(once), 4)
    return times


def look_ups(order: SampleOrder) -> dict[str, int]:
    """Samples located a second, by how many at once; late, where appends weigh most."""
    first = order.num_samples - 2 * CHUNK

    def locate(size: int) -> None:
        order.locate_many(np.arange(first, first + size))

    return {str(size): round(size / _time(partial(locate, size))) for size in (*LOOK_UPS, CHUNK)}


def race(n: int, scratch: Path) -> dict[str, Any]:
    """Our permutation of n numbers, and a shuffled list of them in a file."""
    path = scratch / "shuffled.npy"
    started = time.perf_counter()
    np.save(path, np.random.default_rng(1).permutation(n))
    made = time.perf_counter() - started
    opened = _time(lambda: np.load(path, mmap_mode="r"))
    listed = np.load(path, mmap_mode="r")
    listed[:].sum()  # in the page cache
    ours = Permutation(n, "bench")
    numbers = np.arange(n // 2, n // 2 + CHUNK)
    every = time.perf_counter()
    for begin in range(0, n, CHUNK):
        ours(np.arange(begin, min(begin + CHUNK, n)))
    every = time.perf_counter() - every
    small = numbers[:64]
    speeds = {
        "permutation": round(CHUNK / _time(lambda: ours(numbers))),
        "list": round(CHUNK / _time(lambda: np.asarray(listed[numbers]))),
    }
    return {
        "blocks": n,
        "seconds_to_make": {
            "permutation": round(_time(lambda: Permutation(n, "bench")), 6),
            "list": round(made, 3),
        },
        "seconds_to_restore": {
            "permutation": round(_time(lambda: Permutation(n, "bench")), 6),
            "list": round(opened, 6),
        },
        "bytes_kept": {"permutation": 0, "list": path.stat().st_size},
        "numbers_a_second": speeds,
        "seconds_of_64_numbers": {
            "permutation": round(_time(lambda: ours(small)), 6),
            "list": round(_time(lambda: np.asarray(listed[small])), 6),
        },
        "seconds_of_all": {"permutation": round(every, 3), "list, with making it": round(made, 3)},
        "times_faster_to_begin": round(made / _time(lambda: Permutation(n, "bench"))),
    }


def _time(run: Callable[[], object], at_least: float = 0.3) -> float:
    """Median seconds of a call."""
    times: list[float] = []
    while sum(times) < at_least or len(times) < 3:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
