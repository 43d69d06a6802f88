"""Forecast of a training: tokens, FLOPs, memory of a GPU, hours, energy and cost.

settings, vocabulary, steps, ranks ──▶ Training (what it computes)
Training, GPU, MFU                 ──▶ Hours    (what it takes on that GPU)
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.config import field_types
from common.reading.files import read_json_object
from model.architecture import SteelArchitecture
from model.cost.gpus import Gpu
from model.cost.memory import FP32, Loss, memory_of, moments
from model.cost.parts import flops_per_token, hidden_weights, parameters_of
from model.train.config import PretrainSettings
from model.train.model_settings import architecture_of, model_config

ASSUMED_MFU = 0.40
"""Share of the datasheet's peak that is assumed where none was measured. The paper's Table 2 has
0.33 to 0.47 of an A100's (model of 1.84 B parameters, 10,500 to 15,000 tokens a second)."""
MOMENTS = 2
"""Tensors of AdamW's state of each weight, which fine-tunings have."""
MFU_RANGE = (0.30, 0.50)
"""Between these most trainings lie that were tuned for their machine, and those that were not."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Work of a pretraining on a number of ranks."""

    steps: int
    """Optimizer steps."""
    tokens_per_step: int
    """Tokens of a step, all ranks together."""
    tokens: int
    """Tokens of all steps."""
    parameters: dict[str, int]
    """By part, with `total` and `active`; of another architecture these two alone."""
    moments: float
    """Elements of the optimizer's state for each parameter: 2, less where Muon has matrices."""
    vocabulary: int
    """Rows of the embedding."""
    flops_per_token: float
    """Forward and backward, recomputation not counted: as MFU counts them."""
    flops: float
    """Of all tokens."""
    recomputed: float
    """FLOPs that a GPU does for each one that counts: 4/3 where layers are computed twice."""
    ranks: int
    """Processes, each with a GPU of its own."""
    accumulation: int
    """Micro-batches of a step on each rank."""
    memory: dict[str, float] = field(default_factory=dict)
    """Bytes of one GPU by part, with `total`; empty for another architecture than our own."""


@dataclass(frozen=True, kw_only=True)
class Hours:
    """Time, energy and cost of a training on a kind of GPU."""

    gpu: str
    """Name of the GPU."""
    count: int
    """Number of them."""
    mfu: float
    """Share of the datasheet's peak that is reached or assumed."""
    tokens_per_second: float
    """All of them together."""
    hours: float
    """At that share."""
    hours_range: tuple[float, float]
    """At 50 % and at 30 % of the peak; the same twice where the share was measured."""
    energy_kwh: float
    """Of the GPUs alone, at their full power."""
    cost_usd: tuple[float, float] | None
    """From the cheapest to the dearest price of an hour; None where no price is known."""
    price_source: str
    """Place and date of the price."""
    memory_gib: float
    """Memory that one has."""
    fits: bool | None
    """True if the memory suffices; None where the need is not known."""


def forecast(
    settings: PretrainSettings,
    *,
    vocabulary: int,
    steps: int,
    ranks: int = 1,
    ranks_per_node: int = 0,
    gpu: bool = True,
) -> Training:
    """Compute the work of a pretraining.

    Args:
        settings: of the run.
        vocabulary: rows of the embedding where the model does not state them.
        steps: optimizer steps.
        ranks: processes of all machines.
        ranks_per_node: of one machine; 0: all.
        gpu: False for processes that share a CPU and compute in fp32.

    Raises ConfigError for a wrong model.
    """
    tokens_per_step = settings.global_batch_size * settings.sequence_length
    tokens = steps * tokens_per_step
    accumulation = max(1, math.ceil(settings.global_batch_size / settings.micro_batch_size / ranks))
    architecture = own_architecture(settings, vocabulary)
    memory: dict[str, float] = {}
    if architecture is None:
        parameters, hidden, flops = _of_other(settings, vocabulary)
    else:
        parts = parameters_of(architecture)
        parameters = {**asdict(parts), "total": parts.total}
        hidden = hidden_weights(architecture)
        vocabulary = architecture.vocab_size
        flops = flops_per_token(architecture, settings.sequence_length)
        fp32 = settings.precision == "fp32" or (settings.precision == "auto" and not gpu)
        kernels = architecture.kernels
        named = kernels if isinstance(kernels, str) else kernels.get("cross_entropy", "auto")
        loss: Loss = "eager" if named == "eager" else "fused" if gpu else "chunked"
        used = memory_of(
            architecture,
            micro_batch_size=settings.micro_batch_size,
            sequence_length=settings.sequence_length,
            width=_width(settings, ranks, ranks_per_node or ranks),
            accumulation=accumulation,
            reshard=settings.parallel.reshard_after_forward,
            recomputation=settings.activation_checkpointing,
            element=FP32 if fp32 else 2,
            fused=gpu and kernels != "eager",
            loss=loss,
            gpu=gpu,
            documents=settings.separate_documents,
            optimizer=settings.optimizer,
            merged=settings.merged_products,
        )
        memory = {**asdict(used), "total": used.total}
    return Training(
        steps=steps,
        tokens_per_step=tokens_per_step,
        tokens=tokens,
        parameters=parameters,
        moments=moments(settings.optimizer, parameters["total"], hidden) / parameters["total"],
        vocabulary=vocabulary,
        flops_per_token=flops,
        flops=flops * tokens,
        recomputed=4 / 3 if settings.activation_checkpointing == "full" else 1.0,
        ranks=ranks,
        accumulation=accumulation,
        memory=memory,
    )


def hours_on(
    training: Training,
    gpu: Gpu,
    count: int,
    *,
    mfu: float = ASSUMED_MFU,
    measured: bool = False,
    price: float | None = None,
) -> Hours:
    """Compute time, energy and cost of a training on `count` GPUs.

    mfu: share of the peak; measured: it is no assumption. price: US dollars of one GPU and hour,
    in the place of the table's.
    """
    peak = gpu.flops * count
    shares = (mfu, mfu) if measured else (max(MFU_RANGE[1], mfu), min(MFU_RANGE[0], mfu))
    best, worst = (training.flops / (peak * share) / 3600 for share in shares)
    hours = training.flops / (peak * mfu) / 3600
    prices = (price, price) if price is not None else gpu.price
    source = "given" if price is not None else gpu.price_source
    total = training.memory.get("total")
    return Hours(
        gpu=gpu.name,
        count=count,
        mfu=mfu,
        tokens_per_second=peak * mfu / training.flops_per_token,
        hours=hours,
        hours_range=(best, worst),
        energy_kwh=hours * count * gpu.watts / 1000,
        cost_usd=None if prices is None else (prices[0] * hours * count, prices[1] * hours * count),
        price_source=source,
        memory_gib=gpu.memory_gib,
        fits=None if total is None else total <= gpu.memory_gib * 2**30,
    )


def checkpoint_bytes(
    settings: PretrainSettings, steps: int, weights: float, moments: float = MOMENTS
) -> dict[str, float]:
    """Bytes that a pretraining leaves beside its last model: its checkpoints and exports.

    A checkpoint holds fp32 weights and the optimizer's state; an export is counted in fp32.

    Args:
        settings: of the run.
        steps: that it makes.
        weights: bytes of the model in fp32.
        moments: elements of the optimizer's state for each parameter (`Training.moments`).
    """
    saved = settings.checkpoints
    for_good = steps // saved.keep_every if saved.keep_every else 0
    reached = steps // saved.interval
    extra = 1 if steps % saved.interval else 0  # the last step's, which takes no other's place
    last = min(saved.keep_last, reached) + extra
    best = min(saved.keep_best, reached) if settings.eval_interval else 0
    checkpoint = (1 + moments) * weights
    return {
        f"checkpoints: last {last}, best {best}": (last + best) * checkpoint,
        f"checkpoints kept for good: {for_good}": for_good * checkpoint,
        "exports as Transformers folders": (for_good + best) * weights if saved.export else 0.0,
    }


def own_architecture(settings: PretrainSettings, vocabulary: int) -> SteelArchitecture | None:
    """Our architecture as a run has it; None for another one."""
    if isinstance(settings.model, dict):
        return architecture_of(settings, vocab_size=vocabulary)
    values = read_json_object(Path(settings.model) / "config.json")
    if values.get("model_type") != SteelArchitecture.model_type:
        return None
    known = field_types(SteelArchitecture)
    architecture = SteelArchitecture(**{k: v for k, v in values.items() if k in known})
    architecture.complete()
    return architecture


def _width(settings: PretrainSettings, ranks: int, ranks_per_node: int) -> int:
    shard = settings.parallel.shard
    if isinstance(shard, int):
        return min(shard, ranks)
    return ranks if shard == "all" else min(ranks, ranks_per_node)


def _of_other(settings: PretrainSettings, vocabulary: int) -> tuple[dict[str, int], int, float]:
    """Parameters, those of them in matrices of hidden layers, and FLOPs of a token of another
    architecture: its model is built, without memory."""
    from model.train.architectures.probe import on_meta
    from model.train.callbacks.speed import flops_per_token as flops_of_model
    from model.train.model_settings import folder_config
    from model.train.optim.parameters import num_hidden

    if isinstance(settings.model, str):
        config: Any = folder_config(Path(settings.model))
    else:
        config = model_config(settings, {"vocab_size": vocabulary})
    network = on_meta(config)
    total = sum(parameter.numel() for parameter in network.parameters())
    embedding = network.get_input_embeddings().weight
    tied = bool(getattr(config, "tie_word_embeddings", False))
    active = total - (0 if tied else embedding.numel() - embedding.shape[1])
    flops = flops_of_model(network, settings.sequence_length)
    return {"total": total, "active": active}, num_hidden(network), flops
