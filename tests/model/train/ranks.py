"""Real training processes for tests, started in milliseconds and disturbed on purpose.

A fork server has torch and the trainer imported; each rank is forked from it, joins a gloo group on
loopback and runs `model.entry.pretrain` as torchrun would have it. A `Fault` makes a rank signal
itself at a chosen moment, which is as real as a signal from outside and happens where we want it.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from model.data import PackedManifest, StepLoader
from model.entry import pretrain
from model.tokenizer.digest import digest_tokenizer
from model.train.callbacks.validation import Validation
from model.train.checkpoint import writer as checkpoint
from model.train.distributed import context as parallel
from model.train.run import metrics, plan
from model.train.run.folder import JOB_FILE, METRICS_FILE
from model.train.run.lease import Lease
from model.train.train_step import TrainStep
from tests.model.data.blocks import write_documents
from tests.processes import PATIENCE_SECONDS

VOCABULARY = 64
END = VOCABULARY - 3
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "expert_intermediate_size": 8,
    "num_experts": 3,
}


@dataclass(frozen=True)
class Fault:
    """Send `number` to a rank at step `step`: when it is logged, before it is validated, or inside
    its checkpoint, whose tensors, files and rename are the background's."""

    step: int
    number: int = signal.SIGKILL
    at: Literal[
        "log",
        "validation",
        "before copy",
        "before tensors",
        "before rename",
        "after rename",
        "before journal",
        "after journal",
    ] = "log"
    rank: int = 0


def write_packed(
    folder: Path, *, tokens: int = 12_000, seed: int = 0, validation_fraction: float = 0.05
) -> Path:
    """A tokenizer and shards of two learnable sources, as the stage `pack` writes them."""
    pieces = {f"w{i}": i for i in range(END)}
    for number, name in enumerate(("<|endoftext|>", "<|im_start|>", "<|im_end|>")):
        pieces[name] = END + number
    tokenizer = Tokenizer(models.WordLevel(pieces, unk_token="w0"))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    fast.save_pretrained(folder / "tokenizer")
    random = np.random.default_rng(seed)
    shards = []
    for source, stride in (("alpha", 1), ("beta", 5)):
        documents, written = [], 0
        while written < tokens // 2:
            length, first = int(random.integers(5, 60)), int(random.integers(END))
            documents.append([(first + stride * i) % END for i in range(length)])
            written += length + 1
        shards += write_documents(
            folder / "shards",
            source,
            documents,
            shard_tokens=4_000,
            validation_fraction=validation_fraction,
            end=END,
        )
    PackedManifest(
        vocab_size=VOCABULARY,
        end_of_document=END,
        tokenizer_digest=digest_tokenizer(fast).digest,
        validation_fraction=validation_fraction,
        shards=tuple(shards),
    ).write(folder / "shards")
    return folder


def positions(ids: torch.Tensor) -> torch.Tensor:
    """Each token's place in its document [B, L], counted token by token."""
    rows = []
    for row in ids.tolist():
        places = [0]
        for token in row[:-1]:
            places.append(0 if token == END else places[-1] + 1)
        rows.append(places)
    return torch.tensor(rows)


def settings(**changes: Any) -> dict[str, Any]:
    """Twelve steps of a tiny model; keywords replace single values."""
    return {
        "model": TINY,
        "sequence_length": 32,
        "global_batch_size": 8,
        "micro_batch_size": 2,
        "steps": 12,
        "warmup_steps": 2,
        "learning_rate": 1e-2,
        "eval_interval": 3,
        "seed": 3,
        **changes,
        # Exports cost seconds of a process of their own: where a test is about them, it says so.
        "checkpoints": {"interval": 4, "export": False, **changes.get("checkpoints", {})},
    }


def write_job(packed: Path, output: Path, values: Mapping[str, Any]) -> Path:
    output.mkdir(parents=True, exist_ok=True)
    job = output / JOB_FILE
    text = json.dumps({"settings": values, "packed": str(packed), "output": str(output)})
    job.write_text(text, encoding="utf-8")
    return job


def run_ranks(
    job: Path,
    world_size: int,
    fault: Fault | None = None,
    losses: Mapping[int, float] | None = None,
    **constants: int,
) -> list[int]:
    """Run a job in so many processes; their exit codes, negative for signals.

    losses: factors for the losses of these batches: what bad data would do.
    constants: module constants of model.train.distributed.context to replace in the ranks.
    """
    return run_function(_train, world_size, job, fault, losses or {}, constants)


def run_function(function: Callable[..., Any], world_size: int, *arguments: Any) -> list[int]:
    """Call an importable function in so many ranks; their exit codes, negative for signals."""
    ranks = start_ranks(function, world_size, *arguments)
    try:
        for process in ranks:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while process.is_alive() and not (is_stopped(process) and _any_failed(ranks)):
                assert time.monotonic() < deadline, "a rank hangs"
                process.join(0.05)
    finally:
        for process in ranks:
            process.kill()
            process.join()
    return [process.exitcode or 0 for process in ranks]


def start_ranks(
    function: Callable[..., Any], world_size: int, *arguments: Any
) -> list[BaseProcess]:
    """Call an importable function in so many ranks, and go on."""
    context = multiprocessing.get_context("forkserver")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks: list[BaseProcess] = [
        context.Process(target=_rank, args=(rank, world_size, port, function, arguments))
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    return ranks


def is_stopped(process: BaseProcess) -> bool:
    """Return True when a process got SIGSTOP."""
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # ended, or just now
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


def _any_failed(ranks: list[BaseProcess]) -> bool:
    """As torchrun sees it, which then ends the others."""
    return any(process.exitcode for process in ranks)


def _rank(
    rank: int, world_size: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    function(*arguments)


def _train(
    job: Path, fault: Fault | None, losses: Mapping[int, float], constants: Mapping[str, int]
) -> None:
    rank = int(os.environ["RANK"])
    sys.stderr = (job.parent / f"rank-{rank}.log").open("a")
    os.dup2(sys.stderr.fileno(), 2)
    for name, value in constants.items():
        setattr(parallel, name, value)
    _record_samples(job.parent / f"samples-{rank}.jsonl")
    scale_losses(losses)
    collectives = _count_collectives()
    if fault is not None:
        _arm(fault, rank)
    code = pretrain.main([str(job)])
    (job.parent / f"collectives-{rank}.json").write_text(json.dumps(collectives))
    sys.exit(code)


def scale_losses(factors: Mapping[int, float]) -> None:
    """From now on, in this process, the losses of these training batches are multiplied."""
    original = TrainStep.forward

    def forward(self: TrainStep, micro_batch_size: Any) -> Any:
        losses = original(self, micro_batch_size)
        batch = int(micro_batch_size["samples"][0]) // self.settings.global_batch_size
        factor = factors.get(batch, 1.0) if self.model_with_loss.training else 1.0
        return losses._replace(total=losses.total * factor, by_sample=losses.by_sample * factor)

    TrainStep.forward = forward  # type: ignore[method-assign]


def content(input_ids: torch.Tensor) -> int:
    """A short name for the tokens [L] of a sample."""
    return zlib.crc32(input_ids.to(torch.int64).numpy().tobytes())


def _record_samples(path: Path) -> None:
    original = StepLoader.step

    def step(self: StepLoader, number: int) -> Any:
        batches = original(self, number)
        ids = [sample for batch in batches for sample in batch["samples"].tolist()]
        with path.open("a") as file:
            rows = [row for batch in batches for row in batch["input_ids"]]
            file.write(
                json.dumps(
                    {
                        "step": number,
                        "samples": ids,
                        "contents": [*map(content, rows)],
                        "time": time.time_ns(),
                    }
                )
                + "\n"
            )
        return batches

    StepLoader.step = step  # type: ignore[method-assign]


def _count_collectives() -> dict[str, int]:
    """Calls of each kind of communication between all ranks, counted from now on."""
    calls = {"all_gather": 0, "reduce_scatter": 0, "all_reduce": 0}

    def count(kind: str, name: str) -> None:
        function = getattr(torch.distributed, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls[kind] += 1
            return function(*args, **kwargs)

        setattr(torch.distributed, name, counted)

    # What FSDP2 calls; torch renamed them.
    renamed = hasattr(torch.distributed, "all_gather_single")
    count("all_gather", "all_gather_single" if renamed else "all_gather_into_tensor")
    count("reduce_scatter", "reduce_scatter_single" if renamed else "reduce_scatter_tensor")
    count("all_reduce", "all_reduce")
    return calls


def _arm(fault: Fault, rank: int) -> None:
    def strike(step: int) -> None:
        if step == fault.step and rank == fault.rank:
            os.kill(os.getpid(), fault.number)

    def before(function: Callable[..., Any], step_of: Callable[..., int]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            strike(step_of(*args))
            return function(*args, **kwargs)

        return wrapped

    def after(function: Callable[..., Any], step_of: Callable[..., int]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            strike(step_of(*args))
            return result

        return wrapped

    if fault.at == "log" and rank == 0:
        metrics.JsonlSink.log = after(metrics.JsonlSink.log, lambda sink, step, values: step)  # type: ignore[method-assign]
    elif fault.at == "log":  # only rank 0 logs
        StepLoader.step = before(StepLoader.step, lambda loader, step: step)  # type: ignore[method-assign]
    elif fault.at in ("before journal", "after journal"):
        when = before if fault.at == "before journal" else after
        plan.write_journal = when(  # type: ignore[attr-defined]
            plan.write_journal, lambda run, entries, write: fault.step
        )
    elif fault.at == "validation":
        Validation.validate = before(  # type: ignore[method-assign]
            Validation.validate, lambda self, trainer, step: step
        )
    elif fault.at == "before tensors":
        checkpoint.Checkpoints._write = before(  # type: ignore[method-assign]
            checkpoint.Checkpoints._write, lambda self, entry, *rest: entry.step
        )
    elif fault.at == "before copy":
        checkpoint.Checkpoints.save = before(  # type: ignore[method-assign]
            checkpoint.Checkpoints.save, lambda self, entry, *rest: entry.step
        )
    else:
        when = before if fault.at == "before rename" else after
        Lease.publish_folder = when(  # type: ignore[method-assign]
            Lease.publish_folder, lambda lease, prepared, path: _step_of(path)
        )


def _step_of(path: Path) -> int:
    """Step of a checkpoint's or an export's folder; -1 for another one."""
    return int(path.name.removeprefix("step-")) if path.name.startswith("step-") else -1


def read_run(output: Path) -> dict[int, dict[str, float]]:
    """Measurements of each step, without times and speeds."""
    steps: dict[int, dict[str, float]] = {}
    for line in metrics.read_metrics(output / METRICS_FILE):
        values = {k: v for k, v in line["metrics"].items() if not k.startswith("perf/")}
        assert not steps.get(line["step"], {}).keys() & values.keys(), "a step is logged twice"
        steps.setdefault(line["step"], {}).update(values)
    return steps


def alike(metrics: Mapping[str, float]) -> Any:
    """Equal to a step's measurements but for rounding; some are differences of losses, near 0."""
    return pytest.approx(metrics, rel=1e-4, abs=1e-6)


def read_contents(output: Path) -> dict[int, int]:
    """Content (see `content`) of each sample number when it was trained on last."""
    entries = [
        json.loads(line)
        for path in output.glob("samples-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    contents: dict[int, int] = {}
    for entry in sorted(entries, key=lambda entry: int(entry["time"])):
        contents.update(zip(entry["samples"], entry["contents"], strict=True))
    return contents


def read_samples(output: Path) -> dict[int, list[int]]:
    """Sample ids of each step over all ranks; a repeated step must have had the same ones."""
    by_rank: dict[tuple[int, str], list[int]] = {}
    for path in output.glob("samples-*.jsonl"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            by_rank[entry["step"], path.name] = entry["samples"]
    steps: dict[int, list[int]] = {}
    for (step, _), samples in sorted(by_rank.items()):
        steps.setdefault(step, []).extend(samples)
    return steps
