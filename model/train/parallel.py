"""Ranks: process group, device, FSDP2, and the few collectives that the trainer needs.

data ranks r = 0 … W-1, a one-dimensional mesh; each trains on its part of every step
weights, gradients, AdamW state: sharded over the mesh by fully_shard (FSDP2)
one all-reduce a step carries grad norm, losses and the wish to stop
control group: gloo, for agreement on small Python values, also beside NCCL
"""

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from model.train.config import PretrainSettings

SMALL_MODEL_PARAMETERS = 50_000_000
"""Below it one all-gather and one reduce-scatter a step are cheaper than a pair for each layer."""


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """This rank's place among the ranks."""

    rank: int
    world_size: int
    device: torch.device
    mesh: DeviceMesh
    control: dist.ProcessGroup
    """gloo group over all ranks, for Python values."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_(self, values: Tensor) -> Tensor:
        """Sum over ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in order of ranks, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier(group=self.control)


@contextlib.contextmanager
def parallel(*, timeout_minutes: float = 10.0) -> Iterator[Parallel]:
    """Join the ranks that torchrun started (or be the only one): gloo on CPU, NCCL on GPUs."""
    rank = int(os.environ.get("RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    timeout = datetime.timedelta(minutes=timeout_minutes)
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    else:
        device = torch.device("cpu")
        backend = "gloo"
    if world_size == 1:  # no address needed
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
    else:
        dist.init_process_group(backend, timeout=timeout)
    try:
        yield Parallel(
            rank=rank,
            world_size=world_size,
            device=device,
            mesh=init_device_mesh(device.type, (world_size,)),
            control=dist.new_group(backend="gloo", timeout=timeout),
        )
    finally:
        dist.destroy_process_group()


def resolve_precision(settings: PretrainSettings, device: torch.device) -> torch.dtype:
    """The dtype of the forward and backward pass on this device."""
    if settings.precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.bfloat16 if settings.precision == "bf16" else torch.float32


def distribute(
    module: nn.Module, layers: list[nn.Module], settings: PretrainSettings, ranks: Parallel
) -> nn.Module:
    """Place the module on this rank's device, sharded where there is something to share.

    The module holds real fp32 weights, equal on every rank: each rank keeps its slice, so the
    start is the same for any world size. (Weights made on the meta device and initialised after
    sharding come out alike on every rank of a CPU mesh: another model.)

    One process in fp32 runs the plain module. bf16 always goes through FSDP2, also on one process,
    because it is what keeps fp32 weights and gives the layers bf16 copies.
    """
    dtype = resolve_precision(settings, ranks.device)
    if ranks.world_size == 1 and dtype == torch.float32:
        return module.to(ranks.device)
    policy = MixedPrecisionPolicy()
    if dtype != torch.float32:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    parameters = sum(p.numel() for p in module.parameters())
    units = layers if parameters >= SMALL_MODEL_PARAMETERS else []
    for unit in [*units, module]:
        fully_shard(
            unit,
            mesh=ranks.mesh,
            mp_policy=policy,
            reshard_after_forward=settings.reshard_after_forward and unit is not module,
        )
    return module


def synchronise_gradients(module: nn.Module, *, last: bool, free_weights: bool) -> None:
    """Before a micro-batch: reduce gradients only in the last one of a step.

    Gathered weights stay between micro-batches unless `free_weights` (reshard_after_forward) asks
    for the memory back.
    """
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
        module.set_is_last_backward(last)
        module.set_reshard_after_backward(last or free_weights)
