"""Packing: our bulk encoder beside tiktoken and Hugging Face tokenizers, and the whole stage.

    python -m benchmarks.bench_pack [--data ../shared/data] [--repeats 5] [--copies 8] [--json OUT]

On real Chinese, English and code, with 1 and 2 cores, MB of UTF-8 text a second:

    steel        the encoder of the stage, its comparisons with Transformers included
    tiktoken     encode_ordinary_batch with as many threads, of texts that are in NFC already
    tokenizers   encode_batch, of Hugging Face
    regex        the limit of whoever cuts by the pattern: it alone, by the C module `regex`
    again        ours on the same texts a second time: words are in its cache

Ids are compared before anything is timed. Who remembers words is opened anew for each repeat,
outside of the time; repeats are interleaved; medians count. The stage goes from
cleaned files to published shards, processes and fsync included, beside reading and parsing the
lines and the MD5 of the ids alone. `--copies` makes its corpus that many times as long, with
sentences in another order.
"""

import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import regex
import tiktoken
from tokenizers import Tokenizer

from benchmarks import _sample_texts as samples
from benchmarks._figures import add_options, publish
from benchmarks._sample_texts import shuffled
from common.files import json_line
from common.paths import ROOT
from corpus.packing.batches import BATCH_BYTES, batches
from corpus.packing.fast_encoder import FastEncoder
from corpus.packing.pack_partition import PackJob
from corpus.packing.workers import pack_partitions
from corpus.partitions import cut
from model.tokenizer.encoder import Encoded, joined
from model.tokenizer.tiktoken import byte_characters

PACKAGES = ("tiktoken", "regex")
"""Peers whose versions are in the report."""

TARGETS = {"tiktoken": 1.3, "tokenizers": 4.0}
LANGUAGES = {"chinese": samples.chinese, "english": samples.english, "code": samples.code}
CORES = (1, 2)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write JSON where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--copies", type=int, default=8, help="times the texts, for the stage")
    add_options(parser)
    parser.add_argument("--child", choices=("encoders", "stage"), help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.child:
        measure = {"encoders": encoders, "stage": stage}[given.child]
        print(json.dumps(measure(given)))
        return
    figures: dict[str, Any] = {
        "encoders": [row for cores in CORES for row in child("encoders", cores, given)],
        "stage": [row for cores in CORES for row in child("stage", cores, given)],
        "targets": TARGETS,
    }
    text = "\n".join(table(figures))
    publish(figures, "bench_pack", argv, given.json, table=text, packages=PACKAGES)


def child(what: str, cores: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure in a process of its own: thread pools are as large as the cores it starts with."""
    options = {"child": what, "cores": cores}
    options |= {name: getattr(given, name) for name in ("data", "repeats", "copies")}
    command = [sys.executable, "-m", "benchmarks.bench_pack"]
    command += [f"--{name}={value}" for name, value in options.items()]
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run(
        command,
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
    )
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


# ── encoders ─────────────────────────────────────────────────────────────────────────────────────


def encoders(given: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each language."""
    path = given.data / "tokenizer" / "tokenizer.json"
    found = []
    for language, read in LANGUAGES.items():
        texts = [unicodedata.normalize("NFC", text) for text in read(given.data / "pretrain")]
        size = sum(len(text.encode()) for text in texts)
        openers = contenders(path, texts, given.cores)
        require_same(openers, language, texts)
        seconds: dict[str, list[float]] = {name: [] for name in [*openers, "again"]}
        for _ in range(given.repeats):
            for name, opened in openers.items():
                run = opened()
                seconds[name].append(timed(run))
                if name == "steel":
                    seconds["again"].append(timed(run))
        rates = {
            name: round(size / statistics.median(times) / 1e6, 2) for name, times in seconds.items()
        }
        found.append(
            {
                "language": language,
                "cores": given.cores,
                "texts": len(texts),
                "megabytes": round(size / 1e6, 2),
                "megabytes_per_second": rates,
                "seconds": {n: [round(t, 4) for t in times] for n, times in seconds.items()},
                "times_as_fast": {n: round(rates["steel"] / rates[n], 2) for n in TARGETS},
            }
        )
    return found


def contenders(
    path: Path, texts: list[str], cores: int
) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Name -> opens it, and returns what encodes the texts."""
    text = path.read_text(encoding="utf-8")

    def steel() -> Callable[[], Any]:
        encoder = FastEncoder(Tokenizer.from_str(text))
        given = in_batches(texts)
        return lambda: [encoder.encode(batch) for batch in given]

    encoding = tiktoken_of(text)
    compiled = regex.compile(pattern_of(text))
    pool = ThreadPoolExecutor(cores)

    def of_tiktoken() -> Callable[[], Any]:
        return lambda: encoding.encode_ordinary_batch(texts, num_threads=cores)

    def of_tokenizers() -> Callable[[], Any]:
        backend = Tokenizer.from_str(text)
        backend.encode_special_tokens = True
        backend.encode_batch(["warm up"] * 4)
        return lambda: backend.encode_batch(texts, add_special_tokens=False)

    def scan() -> Callable[[], Any]:
        def cut(part: list[str]) -> None:
            for one in part:
                compiled.sub("", one, concurrent=True)

        # Replacing every match by nothing: no object is made of a match.
        return lambda: list(pool.map(cut, [texts[i::cores] for i in range(cores)]))

    return {"steel": steel, "tiktoken": of_tiktoken, "tokenizers": of_tokenizers, "regex": scan}


def in_batches(texts: list[str]) -> list[list[str]]:
    """As many texts at once as the stage gives its encoder."""
    found: list[list[str]] = [[]]
    size = 0
    for text in texts:
        size += len(text.encode())
        if size > BATCH_BYTES and found[-1]:
            found.append([])
            size = 0
        found[-1].append(text)
    return found


def tiktoken_of(text: str) -> tiktoken.Encoding:
    """tiktoken with the vocabulary and the pattern of a tokenizer.json."""
    backend = json.loads(text)
    letters = {letter: byte for byte, letter in enumerate(byte_characters())}
    added = {token["content"]: token["id"] for token in backend["added_tokens"]}
    ranks = {
        bytes(letters[letter] for letter in token): index
        for token, index in backend["model"]["vocab"].items()
        if token not in added
    }
    return tiktoken.Encoding(
        "qwen", pat_str=pattern_of(text), mergeable_ranks=ranks, special_tokens=added
    )


def pattern_of(text: str) -> str:
    """The pattern that cuts words."""
    (split, _) = json.loads(text)["pre_tokenizer"]["pretokenizers"]
    return str(split["pattern"]["Regex"])


def require_same(
    openers: dict[str, Callable[[], Callable[[], Any]]], language: str, texts: list[str]
) -> None:
    """Stop unless all three give the same ids on every text."""
    found: list[Encoded] = openers["steel"]()()
    ours = joined([batch[i] for batch in found for i in range(batch.num_texts)])
    others = {
        "tiktoken": openers["tiktoken"]()(),
        "tokenizers": [encoding.ids for encoding in openers["tokenizers"]()()],
    }
    for name, ids in others.items():
        theirs = joined([np.asarray(one, dtype=np.uint32) for one in ids])
        place = ours.first_difference(theirs)
        if place is not None:
            raise SystemExit(f"{language}: {name} gives other ids for {texts[place][:80]!r}")


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# ── the stage ────────────────────────────────────────────────────────────────────────────────────


def stage(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Cleaned files to shards, and the limits beside it."""
    with tempfile.TemporaryDirectory(prefix="bench-pack-") as name:
        scratch = Path(name)
        files = corpus(given, scratch / "cleaned")
        size = sum(path.stat().st_size for path in files)
        backend = scratch / "backend.json"
        backend.write_text((given.data / "tokenizer" / "tokenizer.json").read_text("utf-8"))
        job = PackJob(
            tokenizer=str(backend),
            fast=True,
            end_of_text=151_643,
            dtype="uint32",
            shard_tokens=20_000_000,
            validation_fraction=0.01,
            folder="",
        )
        partitions = cut([(path.parent.name, path) for path in files], 1 << 30)
        packing, parsing = [], []
        num_tokens = 0
        for repeat in range(given.repeats):
            out = scratch / f"out-{repeat}"
            here = PackJob(**{**vars(job), "folder": str(out)})

            def pack(job: PackJob = here) -> None:
                nonlocal num_tokens
                # Only one worker alone uses the encoder of this process.
                encoder = job.encoder()
                shards = pack_partitions(
                    job, encoder, partitions, given.cores, scratch, lambda _: None
                )
                num_tokens = sum(shard.num_tokens for shard in shards)

            packing.append(timed(pack))
            parsing.append(timed(lambda: [None for p in partitions for _ in batches(p)]))
        md5 = timed(lambda: hashlib.md5(bytes(4 * num_tokens), usedforsecurity=False))
    seconds = statistics.median(packing)
    return [
        {
            "workers": given.cores,
            "files": len(files),
            "megabytes": round(size / 1e6, 2),
            "tokens": num_tokens,
            "seconds": [round(s, 3) for s in packing],
            "megabytes_per_second": round(size / seconds / 1e6, 2),
            "million_tokens_per_second": round(num_tokens / seconds / 1e6, 2),
            "limits_megabytes_per_second": {
                "read and parse, one process": round(size / statistics.median(parsing) / 1e6, 2),
                "MD5 of the ids, one core": round(size / md5 / 1e6, 2),
            },
        }
    ]


def corpus(given: argparse.Namespace, folder: Path) -> list[Path]:
    """All languages' texts, several times, sentences of a copy in another order; 4 files each."""
    files = []
    for language, read in LANGUAGES.items():
        (folder / language).mkdir(parents=True)
        lines = []
        for copy in range(given.copies):
            chance = random.Random(copy)
            for text in read(given.data / "pretrain"):
                lines.append(json_line({"text": shuffled(text, chance) if copy else text}))
        for number in range(4):
            path = folder / language / f"{number:05d}.jsonl"
            path.write_bytes(b"".join(lines[number::4]))
            files.append(path)
    return files


# ── report ──────────────────────────────────────────────────────────────────────────────────────


def table(figures: dict[str, Any]) -> Iterator[str]:
    """A table for people."""
    names = ("steel", "again", "tiktoken", "tokenizers", "regex")
    yield (f"{'MB/s':10}{'cores':>6}" + "".join(f"{name:>12}" for name in names))
    for row in figures["encoders"]:
        rates = "".join(f"{row['megabytes_per_second'][name]:12.1f}" for name in names)
        ratios = ", ".join(
            f"{ratio:.1f} x {name} ({'meets' if ratio >= TARGETS[name] else 'misses'} "
            f"{TARGETS[name]})"
            for name, ratio in row["times_as_fast"].items()
        )
        yield (f"{row['language']:10}{row['cores']:6}{rates}   {ratios}")
    for row in figures["stage"]:
        yield (
            f"stage, {row['workers']} workers: {row['megabytes_per_second']:.1f} MB/s, "
            f"{row['million_tokens_per_second']:.1f} M tokens/s; limits "
            f"{row['limits_megabytes_per_second']}"
        )


if __name__ == "__main__":
    main()
