"""Time that the trainer adds to a training step: the loop against the plainest one of PyTorch.

    python -m benchmarks.bench_loop --json out.json [--steps 60] [--hidden-size 64]

Both train one model on one process, in turns, from the same start, on the same samples: a plain
loop (dataset, the same loss, backward, `clip_grad_norm_`, fused AdamW, the loss read once a step)
and `Trainer.fit` (order and loader, all-reduce over ranks, health, callbacks, metrics file; no
checkpoint or validation between). The model is tiny on purpose, so that the overhead shows: it is
a constant of milliseconds a step, whatever the model. The limit is the plain loop.
"""

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from benchmarks._figures import add_options, publish
from model.data import PackedManifest
from model.data.held_out import document_digests
from model.data.shards import ShardWriter
from model.tokenizer.digest import digest_tokenizer
from model.train.build import build
from model.train.config import PretrainJob, PretrainSettings
from model.train.distributed.context import DistributedContext, distributed_context
from model.train.distributed.device import device_name
from model.train.distributed.signals import StopFlag
from model.train.run.folder import METRICS_FILE
from model.train.run.metrics import read_metrics
from model.train.trainer import Trainer
from model.train.training_data import TrainingData

VOCABULARY = 512


def main() -> None:
    """Print ratios; with --json, write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--steps", type=int, default=60, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hidden-size", type=int, default=64)
    given = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as scratch, distributed_context() as ranks:
        figures = race(given, Path(scratch), ranks)
    publish(figures, "bench_loop", None, given.json)


def race(given: argparse.Namespace, scratch: Path, ranks: DistributedContext) -> dict[str, Any]:
    """Median seconds a step of both, in turns."""
    pack(scratch / "packed", given.steps)
    plain, ours = [], []
    for number in range(given.rounds):
        job = job_of(given, scratch, f"run-{number}")
        plain.append(plain_steps(build(job, ranks, StopFlag())))
        ours.append(our_steps(build(job, ranks, StopFlag()), Path(job.output)))
    # The fastest round of each: what the machine does besides is nobody's overhead.
    peer, found = min(plain), min(ours)
    return {
        "threads": torch.get_num_threads(),
        "device": device_name(ranks.device),
        "plain_loop_ms_per_step": round(1000 * peer, 3),
        "trainer_ms_per_step": round(1000 * found, 3),
        "overhead_ms_per_step": round(1000 * (found - peer), 3),
        "ratio": round(found / peer, 3),
        "rounds": {"plain": plain, "trainer": ours},
    }


def job_of(given: argparse.Namespace, scratch: Path, name: str) -> PretrainJob:
    """A run of a tiny model."""
    settings = PretrainSettings(
        model={
            "hidden_size": given.hidden_size,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_experts": 2,
            "expert_intermediate_size": given.hidden_size,
        },
        sequence_length=64,
        global_batch_size=8,
        micro_batch_size=4,
        steps=given.steps,
        warmup_steps=0,
        separate_documents=False,
    )
    output = scratch / name
    output.mkdir()
    return PretrainJob(settings=settings, packed=str(scratch / "packed"), output=str(output))


def plain_steps(run: Trainer) -> float:
    """Seconds a step of the plain loop (median)."""
    trainer, model = run, run.model
    assert isinstance(trainer.data, TrainingData)
    settings, dataset = trainer.settings, trainer.data.loader.dataset
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    moments = [time.perf_counter()]
    for step in range(settings.steps):
        for first in range(0, settings.global_batch_size, settings.micro_batch_size):
            start = step * settings.global_batch_size + first
            batch = dataset.batch(range(start, start + settings.micro_batch_size))
            losses = trainer.train_step.model_with_loss(batch["input_ids"], batch["labels"])
            loss = losses.mean()
            (loss * settings.micro_batch_size / settings.global_batch_size).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        moments.append(time.perf_counter())
    trainer.close()
    return statistics.median(np.diff(moments[5:]).tolist())


def our_steps(run: Trainer, output: Path) -> float:
    """Seconds a step of the trainer (median), everything between two reports included."""
    run.fit()
    run.close()
    lines = [
        line["time"]
        for line in read_metrics(output / METRICS_FILE)
        if "train/loss" in line["metrics"]
    ]
    return float(statistics.median(np.diff(lines[5:]).tolist()))


def pack(folder: Path, steps: int) -> None:
    """Random tokens as the stage `pack` writes them."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w1")
    fast.save_pretrained(folder / "tokenizer")
    tokens = np.random.default_rng(0).integers(2, VOCABULARY, steps * 8 * 64 + 4096)
    with ShardWriter(folder / "shards", source="s", dtype="uint16", shard_tokens=1 << 20) as writer:
        for number, document in enumerate(np.array_split(tokens, 50)):
            ids = np.append(document, 1)
            digests = document_digests([str(number)])
            writer.add_documents(ids, np.asarray([0, ids.size]), [0], digests)
    PackedManifest(
        vocab_size=VOCABULARY,
        end_of_document=1,
        tokenizer_digest=digest_tokenizer(fast).digest,
        shards=tuple(writer.shards),
    ).write(folder / "shards")


if __name__ == "__main__":
    main()
