"""The tensors of a run, and their copy in host memory that a checkpoint is written from.

    weights, optimizer state (a slice per rank) ──copy──▶ host buffers ──background──▶ files
    the training loop waits for ────────────────────────┘

The buffers are made once, pinned beside a GPU (a pageable copy is several times slower), and hold
12 bytes for each parameter of this rank's slice (8 for a matrix that Muon updates); pinned ones
take up to twice that, since torch rounds each up to a power of two.
"""

import logging
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from model.train.checkpoint.reader import OPTIMIZER

log = logging.getLogger(__name__)

WEIGHTS = "model."
"""Prefix of the weights in a checkpoint."""


def training_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and the optimizer's state under stable names; loading into them loads the run.

    The step count is one number for all weights, so it is saved once (`restore_steps` spreads
    it again): one tensor of four bytes per weight would double the checkpoint's index.
    """
    tensors: dict[str, Tensor] = {f"{WEIGHTS}{k}": v for k, v in module.state_dict().items()}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        state = optimizer.state[parameter].items()
        tensors |= {f"{OPTIMIZER}{name}.{kind}": value for kind, value in state if kind != "step"}
    tensors[f"{OPTIMIZER}step"] = next(_steps(optimizer))
    return tensors


def restore_steps(optimizer: torch.optim.Optimizer) -> None:
    """After loading: give every weight the step count that the first one received."""
    steps = list(_steps(optimizer))
    for step in steps[1:]:
        step.copy_(steps[0])


def _steps(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield optimizer.state[parameter]["step"]


class HostCopy:
    """Copies tensors to the host, again and again into the same buffers."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors as they are now, on the CPU; valid until the next call.

        A DTensor becomes one with the same shards, so that the writer knows which part this is.
        """
        copies: dict[str, Tensor] = {}
        sources: set[torch.device] = set()
        for name, tensor in tensors.items():
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != local.shape or buffer.dtype != local.dtype:
                buffer = self._buffers[name] = _host_like(local)
            buffer.copy_(local, non_blocking=True)
            sources.add(local.device)
            copies[name] = buffer
            if isinstance(tensor, DTensor):
                # `from_local` would move the buffer back to the mesh's device.
                copies[name] = DTensor(buffer, tensor._spec, requires_grad=False)  # type: ignore[no-untyped-call]
        for device in sources:
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
        return copies


def _host_like(tensor: Tensor) -> Tensor:
    if tensor.device.type == "cuda":
        try:
            return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        except RuntimeError as error:  # the system's limit of locked memory
            log.warning("host memory cannot be pinned, checkpoints will stall longer: %s", error)
    return torch.empty(tensor.shape, dtype=tensor.dtype)
