"""Speed and memory of a training step, measured without a corpus.

    job ─▶ model, AdamW, shards as in a run ─▶ warm-up steps ─▶ timed steps ─▶ Result
                    random tokens, made on the device before the clock starts

A step is the trainer's: forward and backward of every micro-batch, the one all-reduce, clip, AdamW.
The clock is read where the host waits for the device anyway, at that all-reduce, so that measuring
adds no wait of its own; a step's time is the distance of two such moments. Reading tokens is not
measured (benchmarks/bench_loader.py does that) and is not on the critical path of a run.
"""

import contextlib
import dataclasses
import itertools
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import EventList
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, PreTrainedModel

from common.config import Config, validate
from common.errors import ConfigError, SteelError
from common.files import write_status, write_text
from common.provenance import software_versions
from common.ranges import Ge, Limit
from model.attention import choose_attention
from model.data import MicroBatch
from model.data.boundaries import Boundaries
from model.data.dataset import IGNORED
from model.kernels import resolve
from model.routing_statistics import RoutingStatistics
from model.train.build_model import parallelize
from model.train.callbacks.speed import flops_per_token
from model.train.config import PretrainSettings
from model.train.distributed.context import DistributedContext, resolve_precision
from model.train.distributed.device import capability_of, device_name
from model.train.distributed.gpus import check_fp8
from model.train.distributed.initialise import RandomWeights
from model.train.distributed.step_outcome import mean_loss
from model.train.loss import ModelWithLoss
from model.train.model_settings import model_config
from model.train.optim.optimizer import build_optimizer
from model.train.throughput.peak_flops import datasheet_peak, matmul_flops
from model.train.train_step import TrainStep

GB = 1e9
"""As the paper counts memory."""

PROFILE_FILE = "profile.txt"
PROFILED_KERNELS = 30
"""Kernels of a profiled step that are listed, those that take longest."""

Attention = Literal["auto", "sdpa", "flash", "other"]

BACKENDS: dict[Attention, list[SDPBackend]] = {
    "flash": [SDPBackend.FLASH_ATTENTION],
    "other": [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
}
"""Backends that F.scaled_dot_product_attention may use; `sdpa`: any of them. `auto` is the choice
of model/attention.py instead, from all that is installed."""


@dataclass(frozen=True, kw_only=True)
class ThroughputJob(Config):
    """Input of `python -m model.entry.throughput JOB.json`."""

    settings: PretrainSettings
    """A pretraining run's settings; `model` must name its `vocab_size`, since there is no
    tokenizer. The data, schedule and checkpoint settings have no effect."""
    attention: Attention = "auto"
    """auto: the best that a run would take here; sdpa, flash, other: torch's own attention with the
    backend it likes, with its flash backend, or with any but that."""
    document_tokens: Annotated[int, Ge(0), Limit(10**9)] = 0
    """Mean length of the documents that rows pack together and keep apart; 0: a row is one."""
    warmup_steps: Annotated[int, Ge(1), Limit(10**6)] = 3
    """Steps before the clock starts, at least 1: compilation, autotuning, the allocator."""
    timed_steps: Annotated[int, Ge(1), Limit(10**6)] = 10
    """Steps that are timed, at least 1."""
    profile: bool = False
    """If true, one more step is run after the timed ones, and profile.txt tells its kernels."""
    output: str
    """Folder that receives result.json."""

    def check(self) -> Iterator[SteelError]:
        if not isinstance(self.settings.model, dict) or "vocab_size" not in self.settings.model:
            yield ConfigError("`settings.model` must be fields of a config with vocab_size")


Status = Literal["done", "out of memory", "not possible here", "failed"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Figures of one configuration."""

    status: Status
    """Outcome; the figures below are 0 where it did not run."""
    reason: str = ""
    """Reason why it did not."""
    device: str
    """Name of the accelerator, or of the processor."""
    num_devices: int
    """Ranks, each with a device of its own (on CPU: sharing one)."""
    software: dict[str, str] = field(default_factory=dict)
    """Library -> version."""
    parameters: int = 0
    """Of the model."""
    tokens_per_step: int = 0
    """All ranks together."""
    step_seconds: float = 0.0
    """Median of the timed steps."""
    steps_seconds: list[float] = field(default_factory=list)
    """Each timed step."""
    tokens_per_second_per_device: float = 0.0
    """tokens_per_step / step_seconds / num_devices."""
    memory_gb: float = 0.0
    """Peak of allocated device memory, worst rank, 10^9 bytes; on CPU resident memory of the
    process."""
    memory_reserved_gb: float = 0.0
    """Peak of what the allocator took from the device; 0 on CPU."""
    flops_per_token: float = 0.0
    """Forward and backward, recomputation not counted."""
    mfu_datasheet: float | None = None
    """Share of the datasheet's bf16 peak; None where that isn't known."""
    mfu_measured: float | None = None
    """Share of the matmul speed measured just before, in the same precision (fp8: in bf16)."""
    measured_peak: float = 0.0
    """That speed, FLOP/s of one device."""
    kernels: dict[str, str] = field(default_factory=dict)
    """Operation -> implementation that `auto` and names came to."""
    attention: str = ""
    """Transformers' name of the attention, and the backends it was held to."""
    losses: list[float] = field(default_factory=list)
    """Of every step; random tokens can only be learnt by heart, so these must be finite and begin
    near ln(vocabulary)."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The result in a job's output folder."""
        values = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return cls(**values)

    def write(self, folder: Path) -> None:
        """Write result.json so that it is either absent or complete."""
        folder.mkdir(parents=True, exist_ok=True)
        write_status(folder / "result.json", dataclasses.asdict(self))


def measure(job: ThroughputJob, ranks: DistributedContext) -> Result:
    """Run the job; called by all ranks. Raises ConfigError, torch.OutOfMemoryError."""
    validate(job, "throughput")
    settings = job.settings
    settings.check_ranks(ranks.world_size)
    if settings.precision == "fp8":
        check_fp8(capability_of(ranks.device))
    precision = resolve_precision(settings, ranks.device)
    peak = matmul_flops(ranks.device, precision)
    config = model_config(settings, {})
    attention = choose_attention(
        "auto" if job.attention == "auto" else "sdpa",
        config,
        device=ranks.device,
        dtype=precision,
        separate_documents=job.document_tokens > 0,
    )
    with torch.device("meta"):
        language_model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    flops = flops_per_token(language_model, settings.sequence_length)
    num_parameters = language_model.num_parameters()
    model_with_loss = ModelWithLoss(language_model)
    weights = RandomWeights(language_model, settings.seed, draw_on=ranks.device)
    parallelize(model_with_loss, language_model, weights, settings, ranks)
    batch = random_batch(settings, ranks, int(config.vocab_size), job.document_tokens)
    optimizer = build_optimizer(model_with_loss, settings)
    train_step = TrainStep(
        model_with_loss=model_with_loss,
        optimizer=optimizer,
        settings=settings,
        ranks=ranks,
        routing=RoutingStatistics.of(language_model, ranks.device),
    )
    loop = _Loop(train_step, batch)
    if ranks.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(ranks.device)
    with attention_backends(job.attention):
        for _ in range(job.warmup_steps + job.timed_steps):
            loop.step()
        if job.profile and ranks.is_main:
            write_profile(loop.step, ranks.device, Path(job.output) / PROFILE_FILE)
        elif job.profile:
            loop.step()  # the one that rank 0 profiles
    moments = loop.moments[job.warmup_steps - 1 : job.warmup_steps + job.timed_steps]
    seconds = [later - earlier for earlier, later in itertools.pairwise(moments)]
    tokens = settings.global_batch_size * settings.sequence_length
    median = statistics.median(seconds)
    speed = tokens / median / ranks.world_size
    datasheet = datasheet_peak(ranks.device)
    allocated, reserved = _peak_memory(ranks)
    return Result(
        status="done",
        device=device_name(ranks.device),
        num_devices=ranks.world_size,
        software=software_versions(),
        parameters=num_parameters,
        tokens_per_step=tokens,
        step_seconds=median,
        steps_seconds=seconds,
        tokens_per_second_per_device=speed,
        memory_gb=allocated,
        memory_reserved_gb=reserved,
        flops_per_token=flops,
        mfu_datasheet=speed * flops / datasheet if datasheet else None,
        mfu_measured=speed * flops / peak,
        measured_peak=peak,
        kernels=_implementations(language_model, ranks.device),
        attention=attention if job.attention == "auto" else f"{attention}, {job.attention}",
        losses=loop.losses,
    )


class _Loop:
    """The trainer's steps without data, checkpoints and reports."""

    def __init__(self, train_step: TrainStep, batch: list[MicroBatch]) -> None:
        self.train_step, self.batch = train_step, batch
        self.moments: list[float] = []
        self.losses: list[float] = []

    def step(self) -> None:
        """One step; notes when the host knew its loss and gradient norm."""
        settings = self.train_step.settings
        gradients = self.train_step.gradients(self.batch, batch=0, num_sources=1)
        vector = torch.cat([gradients.squares.view(1), gradients.totals.flatten()])
        squares, *totals = self.train_step.ranks.all_reduce_sum(vector).tolist()
        self.moments.append(time.perf_counter())
        loss, num_targets = mean_loss(totals)
        self.losses.append(loss)
        self.train_step.update(
            gradients,
            num_targets=num_targets,
            norm=squares**0.5 * gradients.num_tokens / num_targets,
            # No warm-up of the rate: what the numbers are does not change how long they take.
            rate=settings.learning_rate / 100,
        )


def write_profile(step: Callable[[], Any], device: torch.device, to: Path) -> None:
    """Run a step under torch's profiler and write its longest kernels (CPU: operators) as text."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        step()
        if on_gpu:
            torch.cuda.synchronize(device)
    by = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    averages: Any = longest(profiler.key_averages(), device)
    table = averages.table(sort_by=by, row_limit=PROFILED_KERNELS, max_name_column_width=90)
    to.parent.mkdir(parents=True, exist_ok=True)
    write_text(to, table + "\n")


def longest(averages: EventList, device: torch.device) -> EventList:
    """Of a GPU's profile the kernels alone: an operator stands there, too, with the time of the
    kernels that it starts, so that half of the list would say the same again."""
    kernels = [one for one in averages if one.device_type != DeviceType.CPU]
    if not kernels:
        return averages
    return EventList(kernels, use_device=device.type)  # type: ignore[no-untyped-call]


def random_batch(
    settings: PretrainSettings, ranks: DistributedContext, vocabulary: int, document_tokens: int
) -> list[MicroBatch]:
    """This rank's micro-batches of one step, random tokens, on its device.

    document_tokens: mean length of documents (geometric) that begin anywhere; 0: none begin.
    """
    random = np.random.default_rng((settings.seed, ranks.rank))
    rows, length = settings.global_batch_size // ranks.world_size, settings.sequence_length
    tokens = random.integers(0, vocabulary, (rows, length + 1), dtype=np.int32)
    labels = tokens[:, 1:].copy()
    starts = np.arange(rows + 1, dtype=np.int64) * length
    if document_tokens:
        begins = np.flatnonzero(random.random(rows * length) < 1 / document_tokens)
        starts = np.union1d(starts, begins)
        # As in a run (model/data/dataset.py): nothing predicts the first token of a document.
        labels.reshape(-1)[begins[begins % length > 0] - 1] = IGNORED
    bounds = Boundaries(offsets=starts, sequence_length=length)
    positions = bounds.positions()
    batch: list[MicroBatch] = []
    for first in range(0, rows, settings.micro_batch_size):
        last = first + settings.micro_batch_size
        micro_batch: MicroBatch = {
            "input_ids": torch.tensor(tokens[first:last, :-1], device=ranks.device),
            "labels": torch.tensor(labels[first:last], device=ranks.device),
            "source": torch.zeros(last - first, dtype=torch.int64, device=ranks.device),
            "samples": torch.arange(first, last, device=ranks.device),
        }
        if document_tokens:
            offsets = bounds.of_rows(first, last)
            micro_batch["position_ids"] = torch.tensor(positions[first:last], device=ranks.device)
            micro_batch["cu_seqlens"] = torch.tensor(offsets, device=ranks.device)
            micro_batch["max_seqlen"] = int(np.diff(offsets).max())
        batch.append(micro_batch)
    return batch


def attention_backends(attention: Attention) -> AbstractContextManager[None]:
    """Restrict torch's scaled dot product attention inside a block."""
    allowed = BACKENDS.get(attention)
    return sdpa_kernel(allowed) if allowed else contextlib.nullcontext()


def _implementations(language_model: PreTrainedModel, device: torch.device) -> dict[str, str]:
    """Kernels that a Steel model's choice comes to on a device, by operation."""
    choice = getattr(language_model.config, "kernels", None)
    return {} if choice is None else resolve(choice, cuda=device.type == "cuda")


def _peak_memory(ranks: DistributedContext) -> tuple[float, float]:
    """Peak allocated and reserved, worst rank, in GB."""
    if ranks.device.type == "cuda":
        mine = (
            torch.cuda.max_memory_allocated(ranks.device),
            torch.cuda.max_memory_reserved(ranks.device),
        )
    else:
        mine = (1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0)
    allocated, reserved = (max(values) for values in zip(*ranks.gather(mine), strict=True))
    return allocated / GB, reserved / GB
