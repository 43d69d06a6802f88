"""Muon beside tuned AdamW: validation loss by tokens of a small Steel on real rows, 3 seeds.

    python -m benchmarks.bench_optimizers --json FILE [--scratch FOLDER] [--steps 160]

Both train the same model from the same weights on the same samples of real Chinese and English
rows (../shared/data), packed with the project's own tools; only the optimizer differs. First each
tunes a rate with seed 0 over the whole budget: AdamW its learning rate; then Muon the factor of
its matrices' rate, while the other weights keep AdamW's best. Then both train with the best for
each seed. Last, Muon trains with fewer steps, its schedule as long as they are: with how many does
a finished training end where AdamW's does?

Each training is saved in FILE when it ends and found there again, so that a measurement that was
cut off goes on.
"""

import argparse
import itertools
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from benchmarks import _sample_texts as samples
from benchmarks._figures import add_options, publish, save
from common.files import json_line
from common.paths import ROOT
from corpus.packing.fast_encoder import FastEncoder
from corpus.packing.pack_partition import PackJob
from corpus.packing.workers import pack_partitions
from corpus.partitions import cut
from model.data import PackedManifest, dtype_for
from model.tokenizer.conversation import plain_backend
from model.tokenizer.digest import digest_tokenizer
from model.tokenizer.identity import END_OF_TEXT
from model.tokenizer.pruning import prune_tokenizer
from model.tokenizer.qwen import get_tokenizer, load_tokenizer
from model.train.build import build
from model.train.checkpoint.retention import CheckpointSettings
from model.train.config import PretrainJob, PretrainSettings
from model.train.distributed.context import DistributedContext, distributed_context
from model.train.distributed.signals import StopFlag
from model.train.optim.config import MuonSettings
from model.train.run.folder import METRICS_FILE
from model.train.run.metrics import read_metrics

MODEL = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_experts": 4,
    "expert_intermediate_size": 96,
}
RATES = (2e-3, 4e-3, 8e-3, 1.6e-2)
"""AdamW's learning rates that are tried; further ones while the best is the first or last."""
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Muon's factors, likewise."""
SHORTER = (0.25, 0.375)
"""Parts of the budget with which Muon's whole schedule is trained as well."""
VOCABULARY_TEXTS = 4
"""Texts of each language whose tokens make the vocabulary; others are cut into smaller pieces."""
LENGTH, BATCH = 128, 16
TIMED_STEPS = 16


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is not trained yet, print the comparison, write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--steps", type=int, default=160, help="of 2,048 tokens")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="folder for packed data and runs")
    add_options(parser)
    given = parser.parse_args(argv)
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-optimizers-") as temporary:
        scratch = given.scratch or Path(temporary)
        manifest = pack(given.data, scratch / "packed")
        with distributed_context() as ranks:
            trainings = Trainings(given, argv, scratch, ranks)
            figures = compare(trainings, manifest)
    publish(figures, "bench_optimizers", argv, given.json, table="\n".join(table(figures)))


class Trainings:
    """Trains, or finds what was trained before."""

    def __init__(
        self,
        given: argparse.Namespace,
        argv: Sequence[str] | None,
        scratch: Path,
        ranks: DistributedContext,
    ) -> None:
        self.given, self.argv, self.scratch, self.ranks = given, argv, scratch, ranks
        self.done: dict[str, dict[str, Any]] = {}
        if given.json is not None and given.json.is_file():
            self.done = json.loads(given.json.read_text(encoding="utf-8"))["trainings"]

    def adamw(self, rate: float, seed: int) -> dict[str, Any]:
        """AdamW at a learning rate, for the whole budget."""
        return self._train(
            f"adamw {rate:g} seed {seed}",
            replace(self._settings(self.given.steps, seed), learning_rate=rate),
        )

    def muon(self, rate: float, factor: float, seed: int, part: float = 1.0) -> dict[str, Any]:
        """Muon at a factor, for a part of the budget."""
        settings = replace(
            self._settings(round(part * self.given.steps), seed),
            learning_rate=rate,
            optimizer="muon",
            muon=MuonSettings(learning_rate_factor=factor),
        )
        return self._train(f"muon {rate:g} x {factor:g} seed {seed} part {part:g}", settings)

    def processor_seconds(self, rate: float, factor: float) -> dict[str, dict[str, float]]:
        """Processor time of a step and of its update, medians of a few: others share the machine,
        so that time by the clock says how busy they are."""
        settings = replace(self._settings(TIMED_STEPS, 0), learning_rate=rate, eval_interval=0)
        muon = replace(settings, optimizer="muon", muon=MuonSettings(learning_rate_factor=factor))
        return {name: self._time(name, one) for name, one in (("adamw", settings), ("muon", muon))}

    def _time(self, name: str, settings: PretrainSettings) -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=self.scratch) as output:
            packed = str(self.scratch / "packed")
            job = PretrainJob(settings=settings, packed=packed, output=output)
            run = build(job, self.ranks, StopFlag())
            update, moments = run.train_step.update, []

            def timed(*args: Any, **kwargs: Any) -> None:
                before = time.process_time()
                update(*args, **kwargs)
                moments.append((before, time.process_time()))

            run.train_step.update = timed  # type: ignore[method-assign]
            run.fit()
            run.close()
        steps = [after[1] - before[1] for before, after in itertools.pairwise(moments)]
        return {
            "step": round(statistics.median(steps), 4),
            "update": round(statistics.median(end - start for start, end in moments), 4),
        }

    def _settings(self, steps: int, seed: int) -> PretrainSettings:
        return PretrainSettings(
            model=MODEL,
            sequence_length=LENGTH,
            global_batch_size=BATCH,
            micro_batch_size=BATCH,
            steps=steps,
            warmup_steps=steps // 20,
            eval_interval=max(1, steps // 10),
            validation_samples=128,
            checkpoints=CheckpointSettings(interval=10**6, export=False),
            log_interval=1,
            seed=seed,
        )

    def _train(self, name: str, settings: PretrainSettings) -> dict[str, Any]:
        name += f" steps {settings.steps}"
        if name not in self.done:
            output = self.scratch / name.replace(" ", "-")
            output.mkdir(parents=True, exist_ok=True)
            job = PretrainJob(
                settings=settings, packed=str(self.scratch / "packed"), output=str(output)
            )
            run = build(job, self.ranks, StopFlag())
            run.fit()
            run.close()
            self.done[name] = measured(output) | {
                "parameters": run.model.num_parameters(),
                "peak": settings.learning_rate,
            }
            save({"trainings": self.done}, "bench_optimizers", self.argv, self.given.json)
            print(f"{name}: {self.done[name]['final']:.4f}", flush=True)
        return self.done[name]


def measured(output: Path) -> dict[str, Any]:
    """Validation loss by tokens, nats."""
    lines = [line["metrics"] for line in read_metrics(output / METRICS_FILE)]
    tokens, curve = 0.0, []
    for line in lines:
        tokens = line.get("data/tokens", tokens)
        if "validation/loss" in line:
            curve.append([int(tokens), round(line["validation/loss"], 5)])
    return {"curve": curve, "final": curve[-1][1]}


def compare(trainings: Trainings, manifest: PackedManifest) -> dict[str, Any]:
    """Tune, train with each seed, and count tokens."""
    seeds = range(trainings.given.seeds)
    rate, rates = tuned(RATES, lambda tried: trainings.adamw(tried, 0)["final"])
    factor, factors = tuned(FACTORS, lambda tried: trainings.muon(rate, tried, 0)["final"])
    adamw = [trainings.adamw(rate, seed) for seed in seeds]
    muon = [trainings.muon(rate, factor, seed) for seed in seeds]
    shorter = {
        part: [trainings.muon(rate, factor, seed, part)["final"] for seed in seeds]
        for part in SHORTER
    }
    return {
        "parameters": adamw[0]["parameters"],
        "vocabulary": manifest.vocab_size,
        "tokens_packed": manifest.num_tokens,
        "tokens_trained": adamw[0]["curve"][-1][0],
        "tuning": {"adamw_rate": rates, "muon_factor": factors},
        "best": {"adamw_rate": rate, "muon_factor": factor},
        "final": {
            name: [run["final"] for run in runs]
            for name, runs in (("adamw", adamw), ("muon", muon))
        },
        "curves": {
            name: [run["curve"] for run in runs]
            for name, runs in (("adamw", adamw), ("muon", muon))
        },
        "muon_with_fewer_tokens": shorter,
        "reaches_adamw_within_its_curve": [
            crossing(ours["curve"], theirs["final"])
            for ours, theirs in zip(muon, adamw, strict=True)
        ],
        "processor_seconds": trainings.processor_seconds(rate, factor),
        "trainings": trainings.done,
    }


def tuned(
    values: Sequence[float], loss_of: Callable[[float], float]
) -> tuple[float, dict[float, float]]:
    """The value with the lowest loss, and the losses of all that were tried."""
    losses = {value: loss_of(value) for value in values}
    while (best := min(losses, key=lambda value: losses[value])) in (min(losses), max(losses)):
        further = best / 2 if best == min(losses) else best * 2
        losses[further] = loss_of(further)
    return best, dict(sorted(losses.items()))


def crossing(curve: list[list[float]], loss: float) -> float | None:
    """Tokens at which a curve first is at a loss, between its points in a straight line."""
    for (before, high), (after, low) in itertools.pairwise(curve):
        if low <= loss:
            return round(before + (after - before) * (high - loss) / (high - low))
    return None


def table(figures: dict[str, Any]) -> list[str]:
    """The comparison in lines."""
    rows = [
        f"{figures['parameters']:,} parameters, vocabulary {figures['vocabulary']:,}, "
        f"{figures['tokens_trained']:,} tokens; best rates {figures['best']}"
    ]
    for name, losses in figures["final"].items():
        spread = np.std(losses, ddof=1) if len(losses) > 1 else 0.0
        rows.append(
            f"{name:6} {np.mean(losses):.4f} +- {spread:.4f}"
            f"  {1000 * figures['processor_seconds'][name]['step']:.0f} ms of a processor a step, "
            f"{1000 * figures['processor_seconds'][name]['update']:.0f} of them for the update"
        )
    for part, losses in figures["muon_with_fewer_tokens"].items():
        rows.append(f"muon with {part:.0%} of the tokens: {np.mean(losses):.4f}")
    rows.append(f"muon's curve is at AdamW's end after {figures['reaches_adamw_within_its_curve']}")
    return rows


def pack(data: Path, folder: Path) -> PackedManifest:
    """Real rows as the stage `pack` leaves them, a twentieth of the documents held out."""
    if (folder / "shards" / "manifest.json").is_file():
        return PackedManifest.read(folder / "shards")
    texts = {
        "chinese": samples.chinese(data / "pretrain"),
        "english": samples.english(data / "pretrain"),
    }
    cleaned = []
    for source, rows in texts.items():
        cleaned.append(folder / "cleaned" / source / "00000.jsonl")
        cleaned[-1].parent.mkdir(parents=True)
        cleaned[-1].write_bytes(b"".join(json_line({"text": row}) for row in rows))
    words = [text for rows in texts.values() for text in rows[:VOCABULARY_TEXTS]]
    prune_tokenizer(get_tokenizer(str(data / "tokenizer")), words, folder / "tokenizer")
    tokenizer = load_tokenizer(folder / "tokenizer")
    backend = folder / "backend.json"
    backend.write_text(plain_backend(tokenizer).to_str(), encoding="utf-8")
    end = tokenizer.get_vocab()[END_OF_TEXT]
    job = PackJob(
        tokenizer=str(backend),
        fast=True,
        end_of_text=end,
        dtype=dtype_for(len(tokenizer)),
        shard_tokens=1 << 20,
        validation_fraction=0.05,
        folder=str(folder / "shards"),
    )
    partitions = cut([(path.parent.name, path) for path in cleaned], 1 << 30)
    encoder = FastEncoder(Tokenizer.from_file(str(backend)))
    shards = pack_partitions(job, encoder, partitions, 1, folder, lambda done: None)
    manifest = PackedManifest(
        vocab_size=len(tokenizer),
        end_of_document=end,
        tokenizer_digest=digest_tokenizer(tokenizer).digest,
        validation_fraction=job.validation_fraction,
        shards=tuple(shards),
    )
    manifest.write(folder / "shards")
    return PackedManifest.read(folder / "shards")


if __name__ == "__main__":
    main()
