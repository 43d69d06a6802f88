"""Fused operations, each with an eager reference, and the choice among their implementations.

    config.kernels ── "auto" | "eager" | {"rope": "triton", …} ──▶ choose() ──▶ Kernels(rms_norm, …)

One file per operation holds its formula, its eager reference and its Triton kernel; liger.py adapts
Liger-Kernel's. A new operation is a field of Kernels and an entry in OPERATIONS and
IMPLEMENTATIONS; models call it as `kernels.<field>(…)`. `auto` takes Triton on GPUs: name
another in AUTO_ON_GPU where `python -m benchmarks.kernels` shows that to be faster.

Every implementation of an operation computes the same function, so that models trained with one run
with another. Ours are registered as torch operators (`torch.ops.steel.*`): torch.compile takes them
without a graph break, and a policy for activation checkpointing can name them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from torch import Tensor

from common.errors import ConfigError
from model.kernels import liger, triton_support
from model.kernels.combine import (
    combine_eager,
    combine_halves_eager,
    combine_halves_triton,
    combine_triton,
)
from model.kernels.cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_eager,
    linear_cross_entropy_triton,
    linear_cross_entropy_triton8,
)
from model.kernels.liger import (
    add_rms_norm_liger,
    linear_cross_entropy_liger,
    rms_norm_liger,
    rope_liger,
    rope_qkv_liger,
    swiglu_halves_liger,
    swiglu_liger,
)
from model.kernels.rms_norm import (
    add_rms_norm_eager,
    add_rms_norm_torch,
    add_rms_norm_triton,
    rms_norm_eager,
    rms_norm_torch,
    rms_norm_triton,
)
from model.kernels.rope import rope_eager, rope_qkv_eager, rope_qkv_triton, rope_triton
from model.kernels.route import route_eager, route_triton
from model.kernels.swiglu import (
    swiglu_eager,
    swiglu_halves_eager,
    swiglu_halves_triton,
    swiglu_triton,
)


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The chosen functions; signatures are those of the eager references."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    """(x [..., d], weight [d], eps) -> [..., d]"""

    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    """(x [..., d], residual [..., d], weight [d], eps) -> (norm of the sum, the sum)"""

    rope: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    """(query [B, heads, M, d], key [B, key heads, M, d], cos, sin [B or 1, 1, M, d/2]) -> both
    rotated"""

    rope_qkv: Callable[[Tensor, int, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    """The same of one product: (product [B, M, (heads + 2 key heads) d], number of key heads, cos,
    sin) -> query and key, rotated, and value [B, key heads, M, d]"""

    swiglu: Callable[[Tensor, Tensor], Tensor]
    """(gate [...], up [...]) -> [...]"""

    swiglu_halves: Callable[[Tensor], Tensor]
    """The same of one product: gate and up side by side, [..., 2h] -> [..., h]"""

    route: Callable[[Tensor, Tensor], Tensor]
    """(x [T, d], keys fp32 [S, d]) -> softmax over slots of keys . x / |x|, fp32 [T, S]"""

    combine: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """(hidden [T, n h], gate_out, up_out [n, h, d], weights [T, n]) -> [T, d], the weighted sum of
    the experts' second layers"""

    combine_halves: Callable[[Tensor, Tensor, Tensor], Tensor]
    """The same of one operand: (hidden [T, n h], gate_up_out [n, h, 2d], weights [T, n]) ->
    [T, d]"""

    cross_entropy: Callable[..., Tensor]
    """(hidden [T, d], weight [V, d], targets [T], ignore_index, chunk_size, reduction,
    token_losses) -> scalar"""


OPERATIONS: dict[str, tuple[str, ...]] = {
    "rms_norm": ("rms_norm", "add_rms_norm"),
    "rope": ("rope", "rope_qkv"),
    "swiglu": ("swiglu", "swiglu_halves"),
    "soft_moe": ("route", "combine", "combine_halves"),
    "cross_entropy": ("cross_entropy",),
}
"""Operation that a config can choose for -> the fields of Kernels that it sets."""

IMPLEMENTATIONS: dict[str, dict[str, tuple[Callable[..., Any], ...]]] = {
    "rms_norm": {
        "eager": (rms_norm_eager, add_rms_norm_eager),
        "torch": (rms_norm_torch, add_rms_norm_torch),
        "triton": (rms_norm_triton, add_rms_norm_triton),
        "liger": (rms_norm_liger, add_rms_norm_liger),
    },
    "rope": {
        "eager": (rope_eager, rope_qkv_eager),
        "triton": (rope_triton, rope_qkv_triton),
        "liger": (rope_liger, rope_qkv_liger),
    },
    "swiglu": {
        "eager": (swiglu_eager, swiglu_halves_eager),
        "triton": (swiglu_triton, swiglu_halves_triton),
        "liger": (swiglu_liger, swiglu_halves_liger),
    },
    "soft_moe": {
        "eager": (route_eager, combine_eager, combine_halves_eager),
        "triton": (route_triton, combine_triton, combine_halves_triton),
    },
    "cross_entropy": {
        "eager": (linear_cross_entropy_eager,),
        "chunked": (linear_cross_entropy,),
        "triton": (linear_cross_entropy_triton,),
        "triton8": (linear_cross_entropy_triton8,),
        "liger": (linear_cross_entropy_liger,),
    },
}
"""Operation -> name -> its functions, in the order of OPERATIONS. `eager` is the reference."""

AUTO_ON_GPU = {
    operation: "triton" if "triton" in implementations else "eager"
    for operation, implementations in IMPLEMENTATIONS.items()
}
"""Implementations that `auto` uses for tensors on a GPU if Triton is installed. Chosen by counting
bytes; the comparison on a GPU is still to be run (docs/adr/0015)."""

AUTO_ELSEWHERE = dict.fromkeys(IMPLEMENTATIONS, "eager") | {"cross_entropy": "chunked"}
"""Implementations that `auto` uses for all other tensors."""

LIBRARIES = ("torch", "liger")
"""Implementations that exist for some operations only. As the choice for all operations they
mean: the library's implementation if it has one, else the eager reference."""

_failing: dict[tuple[str, str], str] = {}
"""(operation, implementation) that failed on the devices of this process's run -> the reason."""


def replace_failing(failing: Mapping[tuple[str, str], str]) -> None:
    """From now on, in this process, `choose` gives the reference for these (operation,
    implementation), and for no others: `eager`, or of the loss `chunked`, whose logits fit.

    failing: with reasons, found out by model/kernels/self_test.py. The config of a model keeps its
    choice: it is the device of this run that cannot, and the model may move on to another one.
    """
    _failing.clear()
    _failing.update(failing)


def replacements() -> dict[str, str]:
    """Replacements of this process in words, with reasons, by operation."""
    return {
        operation: f"{name} -> {used(operation, name)}: {reason}"
        for (operation, name), reason in _failing.items()
    }


def resolve(choice: str | dict[str, str], *, cuda: bool) -> dict[str, str]:
    """Implementation of each operation that a config's choice comes to on a GPU, or elsewhere,
    whether or not it works there."""
    auto = AUTO_ON_GPU if cuda and triton_support.INSTALLED else AUTO_ELSEWHERE
    asked = {operation: _asked(choice, operation) for operation in IMPLEMENTATIONS}
    return {
        operation: auto[operation] if name == "auto" else name for operation, name in asked.items()
    }


def _asked(choice: str | dict[str, str], operation: str) -> str:
    """Name that a choice has for an operation, or `auto`; `eager` where a library lacks it."""
    name = choice.get(operation, "auto") if isinstance(choice, dict) else choice
    lacks = name in LIBRARIES and name not in IMPLEMENTATIONS[operation]
    return "eager" if lacks else name


def used(operation: str, name: str) -> str:
    """Implementation that this process uses where `name` is asked for."""
    return AUTO_ELSEWHERE[operation] if (operation, name) in _failing else name


def check_choice(choice: str | dict[str, str]) -> None:
    """Raise ConfigError for an unknown name; an implementation that this machine lacks passes."""
    if isinstance(choice, str) and choice in LIBRARIES:
        return
    by_operation = choice if isinstance(choice, dict) else dict.fromkeys(IMPLEMENTATIONS, choice)
    for operation, name in by_operation.items():
        if operation not in IMPLEMENTATIONS:
            raise ConfigError(
                f"kernels names an unknown operation {operation!r}: "
                f"choose among {', '.join(IMPLEMENTATIONS)}"
            )
        if name != "auto" and name not in IMPLEMENTATIONS[operation]:
            known = ", ".join(("auto", *IMPLEMENTATIONS[operation]))
            raise ConfigError(
                f"kernels asks for implementation {name!r} of {operation}: choose among {known}"
            )


def choose(choice: str | dict[str, str]) -> Kernels:
    """Choose the functions that a config's `kernels` names; the default of a dict is `auto`.

    `auto` decides at each call by the tensor's device, so a model may be built on one device and
    run on another. Raises ConfigError for an unknown operation or implementation, and for one that
    this machine cannot run.
    """
    check_choice(choice)
    chosen: dict[str, Callable[..., Any]] = {}
    for operation, implementations in IMPLEMENTATIONS.items():
        name = _asked(choice, operation)
        if name == "auto":
            functions = _by_device(operation, used(operation, AUTO_ON_GPU[operation]))
        else:
            _check_available(operation, name)
            functions = implementations[used(operation, name)]
        chosen.update(zip(OPERATIONS[operation], functions, strict=True))
    return Kernels(**chosen)


def _check_available(operation: str, name: str) -> None:
    reason = None
    if name.startswith("triton"):
        reason = triton_support.unavailable_reason()
    elif name == "liger":
        reason = liger.unavailable_reason()
    if reason is not None:
        raise ConfigError(
            f"kernels asks for {name!r} for {operation}, but {reason}; "
            "kernels: auto takes what a machine has "
            "(a saved model: from_pretrained(folder, kernels='auto'))"
        )


@cache
def _by_device(operation: str, on_gpu_name: str) -> tuple[Callable[..., Any], ...]:
    """Functions of `auto`; the same objects at every call, so that equal choices are equal."""
    implementations = IMPLEMENTATIONS[operation]
    on_gpu = implementations[on_gpu_name]
    elsewhere = implementations[AUTO_ELSEWHERE[operation]]
    return tuple(_Auto(*pair) for pair in zip(on_gpu, elsewhere, strict=True))


@dataclass(frozen=True)
class _Auto:
    on_gpu: Callable[..., Any]
    elsewhere: Callable[..., Any]

    def __call__(self, first: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Decide by the device of the first tensor; fake tensors of torch.compile have one too."""
        fast = first.is_cuda and triton_support.INSTALLED
        return (self.on_gpu if fast else self.elsewhere)(first, *args, **kwargs)


assert [field.name for field in fields(Kernels)] == [
    name for names in OPERATIONS.values() for name in names
], "Kernels has one field for each name in OPERATIONS, in the same order"
