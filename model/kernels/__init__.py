"""The operations worth fusing, each with an eager reference, and the choice among implementations.

    config.kernels ── "auto" | "eager" | {"rope": "eager", …} ──▶ choose() ──▶ Kernels(rms_norm, …)

One file per operation holds its formula and its implementations. To add one: write the function
beside the reference, list it in IMPLEMENTATIONS, and let `auto` prefer it where it is known to win.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from model.errors import ConfigError
from model.kernels.cross_entropy import linear_cross_entropy, linear_cross_entropy_eager
from model.kernels.rms_norm import rms_norm_eager
from model.kernels.rope import rope_angles, rope_eager
from model.kernels.swiglu import swiglu_eager

IMPLEMENTATIONS: dict[str, dict[str, Callable[..., Tensor]]] = {
    "rms_norm": {"eager": rms_norm_eager},
    "rope": {"eager": rope_eager},
    "swiglu": {"eager": swiglu_eager},
    "cross_entropy": {"eager": linear_cross_entropy_eager, "chunked": linear_cross_entropy},
}
"""Operation -> name -> function. The first is the reference, the last what `auto` takes."""


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The chosen functions; signatures are those of the eager references."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    """(x [..., d], weight [d], eps) -> [..., d]"""

    rope: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(x [B, heads, M, d], cos, sin [B, 1, M, d/2]) -> like x"""

    swiglu: Callable[[Tensor, Tensor], Tensor]
    """(gate [...], up [...]) -> [...]"""

    cross_entropy: Callable[..., Tensor]
    """(hidden [T, d], weight [V, d], targets [T], ignore_index, chunk_size, reduction) -> scalar"""


def check_choice(choice: str | dict[str, str]) -> None:
    """Raise ConfigError unless `choice` names implementations that exist."""
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
    """The functions that a config's `kernels` names; operations left out of a dict are `auto`.

    Raises ConfigError for an unknown operation or implementation.
    """
    check_choice(choice)
    chosen = {}
    for operation, implementations in IMPLEMENTATIONS.items():
        name = choice.get(operation, "auto") if isinstance(choice, dict) else choice
        chosen[operation] = implementations[list(implementations)[-1] if name == "auto" else name]
    return Kernels(**chosen)


__all__ = [
    "IMPLEMENTATIONS",
    "Kernels",
    "check_choice",
    "choose",
    "linear_cross_entropy",
    "linear_cross_entropy_eager",
    "rms_norm_eager",
    "rope_angles",
    "rope_eager",
    "swiglu_eager",
]
