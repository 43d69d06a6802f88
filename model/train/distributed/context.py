"""Ranks: process group, device, FSDP2, and the few collectives that the trainer needs.

data ranks r = 0 … W-1; each trains on its part of every step
weights, gradients, optimizer state: sharded by fully_shard (FSDP2) over a mesh
    one copy (parallel.shard: all)       [0 1 2 3 4 5 6 7]
    a copy per group (node, or number)   [0 1 2 3]    rows: gather weights, reduce-scatter gradients
                                         [4 5 6 7]    columns: all-reduce gradients (HSDP)
one all-reduce a step carries grad norm, losses and the flag to stop
control group: gloo, for agreement on small Python values, also beside NCCL

Precision: weights, optimizer state and accumulated gradients are fp32. In bf16 a layer computes
with a bf16 copy of its weights and gives bf16 gradients, which are added up over micro-batches and
reduced over ranks in fp32. What the model keeps in fp32 (rotary angles, norms' insides, losses)
stays so; weights of modules that say `own_weights_in_fp32` (soft routing) are units of their own,
and no copy is made of them.
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
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from model.cost.memory import SMALL_MODEL_PARAMETERS
from model.train.config import PretrainSettings
from model.train.distributed.gpus import check_one_each
from model.train.distributed.initialise import RandomWeights, children_first


@dataclass(frozen=True, kw_only=True)
class DistributedContext:
    """This rank's place among the ranks."""

    rank: int
    world_size: int
    ranks_per_node: int
    device: torch.device
    control: dist.ProcessGroup
    """gloo group over all ranks, for Python values."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all_reduce_sum(self, values: Tensor) -> Tensor:
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
def distributed_context(*, timeout_minutes: float = 10.0) -> Iterator[DistributedContext]:
    """Join the ranks that torchrun started (or be the only one): gloo on CPU, NCCL on GPUs.

    Raises ConfigError for more ranks on this machine than it has GPUs, unless it has none.
    """
    rank = int(os.environ.get("RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    ranks_per_node = int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))
    check_one_each(ranks_per_node, torch.cuda.device_count())
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
        yield DistributedContext(
            rank=rank,
            world_size=world_size,
            ranks_per_node=ranks_per_node,
            device=device,
            control=dist.new_group(backend="gloo", timeout=timeout),
        )
    finally:
        dist.destroy_process_group()


def resolve_precision(settings: PretrainSettings, device: torch.device) -> torch.dtype:
    """The dtype of the forward and backward pass on this device; with fp8, of all but products."""
    if settings.precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.float32 if settings.precision == "fp32" else torch.bfloat16


def distribute(
    module: nn.Module,
    model: PreTrainedModel,
    layers: list[nn.Module],
    weights: RandomWeights,
    settings: PretrainSettings,
    ranks: DistributedContext,
) -> None:
    """Give the meta model inside `module` its weights and its place on this rank's device.

    Unit by unit: values, then this rank's shards of them, so that the whole model is never in one
    place. Every rank draws the same values (model/train/distributed/initialise.py), none are sent.

    One process in fp32 runs the plain module. bf16 always goes through FSDP2, also on one process,
    because it is what keeps fp32 weights and gives the layers bf16 copies.

    Raises ConfigError when `parallel.shard` does not fit the ranks.
    """
    dtype = resolve_precision(settings, ranks.device)
    plain = ranks.world_size == 1 and dtype == torch.float32
    mesh = None if plain else data_mesh(settings, ranks)
    policy = _policy(dtype)
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    large = sum(p.numel() for p in module.parameters()) >= SMALL_MODEL_PARAMETERS
    for unit in [*layers, *([] if tied else [embedding]), module]:
        weights.fill([part for part in children_first(unit) if part is not module], ranks.device)
        if mesh is not None and dtype != torch.float32 and unit in layers:
            reshard = settings.parallel.reshard_after_forward
            for part in unit.modules():
                own = any(True for _ in part.parameters(recurse=False))
                if own and getattr(part, "own_weights_in_fp32", False):
                    _shard_in_fp32(part, mesh, policy, reshard_after_forward=reshard)
        if mesh is not None and (large or unit is module):
            fully_shard(
                unit,
                mesh=mesh,
                mp_policy=policy,
                # The root is needed again at once, the embedding not at all.
                reshard_after_forward=settings.parallel.reshard_after_forward and unit in layers,
            )
    if mesh is not None:
        module.register_forward_hook(_free_gathered_weights)


def _policy(dtype: torch.dtype) -> MixedPrecisionPolicy:
    """Weights gathered in `dtype`, gradients reduced in fp32."""
    return MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype,
        reduce_dtype=torch.float32,
        # Hidden states have the weights' dtype already; rotary angles must keep theirs.
        cast_forward_inputs=False,
    )


def _shard_in_fp32(
    module: nn.Module,
    mesh: DeviceMesh,
    policy: MixedPrecisionPolicy,
    *,
    reshard_after_forward: bool,
) -> None:
    """A unit of a module's own weights, gathered in fp32; those of its children by `policy`.

    A unit owns all below it that is in no other one, so the children become units first.
    """
    for child in module.children():
        if any(True for _ in child.parameters()):
            fully_shard(
                child, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard_after_forward
            )
    fully_shard(
        module,
        mesh=mesh,
        mp_policy=_policy(torch.float32),
        reshard_after_forward=reshard_after_forward,
    )


def data_mesh(settings: PretrainSettings, ranks: DistributedContext) -> DeviceMesh:
    """[ranks], or [copies, ranks of a copy]; neighbours in rank (so, of a node) share one."""
    width = settings.parallel.width(ranks.world_size, ranks.ranks_per_node)
    if width == ranks.world_size:
        return init_device_mesh(ranks.device.type, (width,), mesh_dim_names=("shard",))
    return init_device_mesh(
        ranks.device.type, (ranks.world_size // width, width), mesh_dim_names=("replicate", "shard")
    )


def num_copies(module: nn.Module) -> int:
    """Copies of the weights over all ranks: how often a sum over ranks counts each gradient."""
    first = next(module.parameters())
    if isinstance(first, DTensor) and first.device_mesh.ndim == 2:
        return first.device_mesh.size(0)
    return 1


def synchronise_gradients(module: nn.Module, *, last: bool, free_weights: bool) -> None:
    """Before a micro-batch: reduce gradients only in the last one of a step.

    Gathered weights stay between micro-batches unless `free_weights` (reshard_after_forward) asks
    for the memory back.
    """
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
        module.set_is_last_backward(last)
        module.set_reshard_after_backward(last or free_weights)


def _free_gathered_weights(module: nn.Module, inputs: Any, output: Any) -> None:
    """After a forward pass without gradients, which no backward pass follows to do it: let go of
    gathered weights, those of the root, too, so that `module.parameters()` are the shards again.

    An optimizer that is built on gathered ones trains nothing: they are temporary.
    """
    if not torch.is_grad_enabled():
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()
