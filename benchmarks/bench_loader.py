"""Fetching packed tokens: this loader beside four others, on the same ids, in one run.

    python -m benchmarks.bench_loader [--tokens 100M] [--length 2048] [--batch 64] [--json FILE]

What is timed is what a training step needs: inputs and labels [b, L], contiguous, of a shuffled
epoch, in one process. Speeds are tokens a second; every token is delivered as an input and as a
label. The limit is a plain copy of as many bytes from memory. All files are in the page cache.
Rounds are short, many, and interleaved, and the best of each reader counts. Where other work keeps
the machine busy, believe the speeds by processor time.

Two of the peers pin versions that contradict this project's. They go into an environment of their
own, which then sees this one's packages first:

    python -m venv /tmp/peers
    /tmp/peers/bin/pip install --no-deps -r benchmarks/loader_peers.txt
    PYTHONPATH=$(.venv/bin/python -c "import site; print(site.getsitepackages()[0])") \\
        /tmp/peers/bin/python -m benchmarks.bench_loader

A peer that is not installed is left out, and the figures say so.
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._figures import add_options, count, publish
from benchmarks._loader_peers import PEERS, Ids, quiet
from model.data import (
    PackedDataset,
    PackedManifest,
    SampleOrder,
    ShardInfo,
    ShardVerifier,
    StepLoader,
)

END = 151_643
VOCABULARY = 151_646
DOCUMENT_TOKENS = 700
"""Mean length of a document."""
SHARD_TOKENS = 25_000_000

Step = tuple[Tensor, Tensor]
"""Inputs and labels [b, L], contiguous."""
Open = Callable[[], Iterator[Step]]


def main(argv: list[str] | None = None) -> None:
    """Run, print, and write JSON where `--json` says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=count, default="100M", help="size of the corpus")
    parser.add_argument("--length", type=int, default=2048, help="tokens a sample")
    parser.add_argument("--batch", type=int, default=64, help="samples a step")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each reader in each round")
    parser.add_argument(
        "--scratch", type=Path, help="folder with room for six copies of the corpus"
    )
    add_options(parser)
    arguments = parser.parse_args(argv)
    quiet()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-loader-", dir=arguments.scratch) as scratch:
        figures = race(arguments, Path(scratch))
    packages = ["numpy", *(name for name, _ in PEERS.values() if name)]
    publish(figures, "bench_loader", argv, arguments.json, packages=packages)


def race(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Every reader's best round, and how it compares."""
    ids = corpus(arguments.tokens)
    manifest, seconds_to_write = write_shards(ids, scratch / "ours")
    readers: dict[str, Open] = {
        name: _ours(manifest, arguments, **options)
        for name, options in {
            "steel": {"prefetch": 0},
            "steel, read ahead": {"prefetch": 2},
            "steel, separate documents": {"prefetch": 0, "separate_documents": True},
        }.items()
    }
    missing = {}
    for name, (distribution, write) in PEERS.items():
        folder = scratch / name.replace(" ", "-")
        folder.mkdir()
        try:
            opened = write(ids, folder, arguments.length, arguments.batch)
            _check(_steps(opened)(), arguments)
        except ImportError as error:
            missing[name] = f"{error}; install {distribution} as this file's first lines say"
            continue
        readers[name] = _steps(opened)
    tokens = arguments.batch * arguments.length
    best, busy = dict.fromkeys(readers, 0.0), dict.fromkeys(readers, 0.0)
    limit = 0.0
    for _ in range(arguments.rounds):
        limit = max(limit, copy_limit(ids, arguments))
        for name, open_ in readers.items():
            clock, processor = steps_a_second(open_, arguments.seconds)
            best[name] = max(best[name], tokens * clock)
            busy[name] = max(busy[name], tokens * processor)
    peers = {name: speed for name, speed in best.items() if name in PEERS}
    fastest = max(peers, key=peers.__getitem__)
    return {
        "what": "tokens a second, each delivered as input and label; one process, warm page cache",
        "tokens": int(ids.size),
        "length": arguments.length,
        "batch": arguments.batch,
        "tokens_a_second": {name: round(speed) for name, speed in best.items()},
        "tokens_a_second_of_processor_time": {name: round(v) for name, v in busy.items()},
        "limit_copy_tokens_a_second": round(limit),
        "share_of_limit": round(best["steel"] / limit, 3),
        "best_peer": fastest,
        "times_the_best_peer": round(best["steel"] / peers[fastest], 2),
        "times_the_best_peer_read_ahead": round(best["steel, read ahead"] / peers[fastest], 2),
        "times_the_best_peer_by_processor_time": round(
            busy["steel"] / max(busy[name] for name in peers), 2
        ),
        "times_each_peer": {name: round(best["steel"] / v, 2) for name, v in peers.items()},
        "not_installed": missing,
        "check_first_use_bytes_a_second": round(check_speed(manifest)),
        "seconds_to_write_ours": round(seconds_to_write, 2),
    }


def corpus(num_tokens: int) -> Ids:
    """Random ids in documents of random lengths, uint32 [num_tokens]."""
    random = np.random.default_rng(0)
    ids: Ids = random.integers(0, END, num_tokens, dtype=np.uint32)
    lengths = 1 + random.geometric(1 / DOCUMENT_TOKENS, num_tokens // DOCUMENT_TOKENS)
    ends = np.cumsum(lengths) - 1
    ids[ends[ends < num_tokens]] = END
    for last in range(SHARD_TOKENS - 1, num_tokens, SHARD_TOKENS):
        ids[last] = END
    ids[-1] = END
    return ids


def write_shards(ids: Ids, folder: Path) -> tuple[PackedManifest, float]:
    """The corpus as shards; and how long that took."""
    started = time.perf_counter()
    folder.mkdir()
    shards = []
    for number, begin in enumerate(range(0, ids.size, SHARD_TOKENS)):
        tokens = ids[begin : begin + SHARD_TOKENS].astype("<u4")
        ends = np.flatnonzero(tokens == END)
        starts = np.concatenate([[0], ends[:-1] + 1]).astype("<u8")
        name = f"random-{number:05d}"
        (folder / f"{name}.bin").write_bytes(tokens.tobytes())
        # No digest says that a document is held out.
        index = starts.tobytes() + np.full(starts.size, 2**64 - 1, dtype="<u8").tobytes()
        (folder / f"{name}.idx").write_bytes(index)
        shards.append(
            ShardInfo(
                name=f"{name}.bin",
                source="random",
                split="train",
                num_tokens=tokens.size,
                num_documents=starts.size,
                md5=hashlib.md5(tokens.tobytes()).hexdigest(),
                index_md5=hashlib.md5(index).hexdigest(),
                dtype="uint32",
                cleaned_file="",
            )
        )
    manifest = PackedManifest(
        vocab_size=VOCABULARY, end_of_document=END, tokenizer_digest="0" * 32, shards=tuple(shards)
    )
    manifest.write(folder)
    return PackedManifest.read(folder), time.perf_counter() - started


def _ours(manifest: PackedManifest, arguments: argparse.Namespace, **options: Any) -> Open:
    assert manifest.folder is not None
    order = SampleOrder(manifest, sequence_length=arguments.length, seed=1)
    dataset = PackedDataset(manifest.folder, order)
    dataset.batch(range(0, len(dataset), 16))  # all shards are checked and in the page cache

    def open_() -> Iterator[Step]:
        loader = StepLoader(
            dataset,
            global_batch_size=arguments.batch,
            micro_batch_size=arguments.batch,
            rank=0,
            world_size=1,
            **options,
        )
        try:
            for step in range(loader.num_steps):
                for batch in loader.step(step):
                    yield batch["input_ids"], batch["labels"]
        finally:
            loader.close()

    return open_


def _steps(open_: Callable[[], Iterator[Tensor]]) -> Open:
    """Rows [b, L + 1] as inputs and labels, as LitGPT and TinyLlama cut them."""

    def steps() -> Iterator[Step]:
        for rows in open_():
            yield rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    return steps


def _check(steps: Iterator[Step], arguments: argparse.Namespace) -> None:
    """A peer delivers ids of the corpus in the right shape."""
    inputs, labels = next(steps)
    assert inputs.shape == labels.shape == (arguments.batch, arguments.length)
    assert torch.equal(inputs[:, 1:], labels[:, :-1])
    assert int(inputs.min()) >= 0 and int(inputs.max()) < VOCABULARY and int(inputs.max()) > 1000


def steps_a_second(open_: Open, seconds: float) -> tuple[float, float]:
    """Steps after the first of an epoch, by the clock and by processor time, in as many epochs as
    it takes.
    """
    steps, spent, worked = 0, 0.0, 0.0
    while spent < seconds:
        epoch = open_()
        next(epoch)  # opening an epoch is not what is measured
        started, processor = time.perf_counter(), time.process_time()
        for _ in epoch:
            steps += 1
            if spent + time.perf_counter() - started >= seconds:
                break
        spent += time.perf_counter() - started
        worked += time.process_time() - processor
    return steps / spent, steps / worked


def copy_limit(ids: Ids, arguments: argparse.Namespace) -> float:
    """Tokens a second of copying the corpus, in order, into two tensors a step."""
    tokens = arguments.batch * arguments.length
    source = ids.view(np.int32)
    count, started = 0, time.perf_counter()
    while (now := time.perf_counter()) - started < arguments.seconds:
        begin = count * tokens % (source.size - tokens)
        block = source[begin : begin + tokens]
        block.copy()
        block.copy()
        count += 1
    return float(count * tokens / (now - started))


def check_speed(manifest: PackedManifest) -> float:
    """Bytes a second of comparing shards with their MD5, as at first use in a training."""
    assert manifest.folder is not None
    started = time.perf_counter()
    ShardVerifier().verify([(manifest.folder, shard) for shard in manifest.shards])
    return sum(shard.num_bytes for shard in manifest.shards) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
