"""Programs of ranks in the tests of parallelism; importable, so that a fork server can call it."""

import ctypes
import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import AutoTokenizer

from model.train.build_model import build_model, decoder_layers
from model.train.config import PretrainSettings
from model.train.distributed import context as parallel_module
from model.train.distributed.config import ParallelSettings
from model.train.distributed.context import (
    DistributedContext,
    distribute,
    distributed_context,
    synchronise_gradients,
)
from model.train.distributed.initialise import children_first
from model.train.loss import ModelWithLoss

M_MMAP_THRESHOLD = -3


def place(settings: PretrainSettings, packed: Path, ranks: DistributedContext) -> ModelWithLoss:
    """The model as a run would have it before its first step."""
    tokenizer = AutoTokenizer.from_pretrained(packed / "tokenizer")
    language_model, weights = build_model(settings, tokenizer, ranks.device)
    model_with_loss = ModelWithLoss(language_model)
    layers = decoder_layers(language_model)
    distribute(model_with_loss, language_model, layers, weights, settings, ranks)
    return model_with_loss


def write_initial_weights(
    output: Path, packed: Path, model: Any, shard: int | str, by_layer: bool
) -> None:
    """Rank 0 writes every first weight and buffer, whole."""
    if by_layer:
        parallel_module.SMALL_MODEL_PARAMETERS = 0
    with distributed_context() as ranks:
        settings = PretrainSettings(model=model, parallel=ParallelSettings(shard=shard), seed=5)
        model_with_loss = place(settings, packed, ranks)
        tensors = dict(model_with_loss.named_parameters()) | dict(model_with_loss.named_buffers())
        whole = {
            name: (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone()
            for name, t in tensors.items()
        }
        if ranks.is_main:
            save_file(whole, output)


def write_peak_memory(output: Path, packed: Path, model: dict[str, Any]) -> None:
    """Every rank writes by how many bytes its resident memory rose at the most, and its sizes."""
    # Freed memory goes back at once: what counts is what is held, not what the allocator keeps.
    ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 1 << 20)
    with distributed_context() as ranks:
        settings = PretrainSettings(model=model)
        tokenizer = AutoTokenizer.from_pretrained(packed / "tokenizer")
        language_model, weights = build_model(settings, tokenizer, ranks.device)
        model_with_loss = ModelWithLoss(language_model)
        layers = decoder_layers(language_model)
        sizes = [sum(4 * p.numel() for p in layer.parameters()) for layer in layers]
        everything = sum(4 * p.numel() for p in language_model.parameters())
        dist.barrier()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = _status("VmRSS")
        distribute(model_with_loss, language_model, layers, weights, settings, ranks)
        peak = _status("VmHWM") - before
        record = {"peak": peak, "unit": max(sizes), "everything": everything}
        output.with_suffix(f".{ranks.rank}.json").write_text(json.dumps(record))
        assert all(not p.is_meta for p in children_first(model_with_loss)[-1].parameters())


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise AssertionError(key)


def write_gradients(output: Path, packed: Path, precision: Any, repeats: int) -> None:
    """Gradients of one micro-batch, added up `repeats` times, as the trainer does it."""
    with distributed_context() as ranks:
        settings = PretrainSettings(
            model={
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "expert_intermediate_size": 8,
            },
            precision=precision,
        )
        model_with_loss = place(settings, packed, ranks)
        ids = torch.arange(64).view(2, 32) % 60 + 2 * ranks.rank
        for number in range(repeats):
            synchronise_gradients(model_with_loss, last=number == repeats - 1, free_weights=True)
            losses = model_with_loss(ids, ids.roll(-1, dims=1))
            (losses.mean() / repeats).backward()
        whole = {}
        for name, parameter in model_with_loss.named_parameters():
            assert parameter.grad is not None
            grad = parameter.grad
            whole[name] = grad.full_tensor() if isinstance(grad, DTensor) else grad
            assert whole[name].dtype == torch.float32
        if ranks.is_main:
            save_file(whole, output)
