"""Causal attention with heads of 56 by library, as they are and padded to 64.

python -m benchmarks.kernels.bench_attention [--json out.json]

TFLOP/s count the operations of heads of 56, so that padding shows as what it costs. "padded"
includes padding and slicing in every call; "64 already" is what a projection into 64 columns would
give.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.kernels._comparison import Case, run
from benchmarks.kernels._timing import Setup

HEAD, PADDED = 56, 64
SCALE = HEAD**-0.5

BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}

FLASH_PACKAGES = {
    "flash-attn 2": "flash_attn",
    "flash-attn 3": "flash_attn_interface",
    "flash-attn 4": "flash_attn.cute",
}
"""Name -> module that has flash_attn_func(q, k, v, softmax_scale=, causal=), [B, M, heads, d]."""


def scaled_dot_product(backend: SDPBackend) -> Callable[..., Tensor]:
    """SDPA in one backend, query, key, value [B, heads, M, d]."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=SCALE
            )

    return attend


def flash_package(module: str) -> Callable[..., Tensor] | str:
    """One of the FlashAttention packages, or the reason why it cannot run."""
    try:
        function = import_module(module).flash_attn_func
    except (ImportError, AttributeError) as error:
        return f"{module}: {error}"

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        inputs = (x.transpose(1, 2) for x in (query, key, value))
        result = function(*inputs, softmax_scale=SCALE, causal=True)
        output: Tensor = result[0] if isinstance(result, tuple) else result
        return output.transpose(1, 2)

    return attend


def padded(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same with heads padded by zeros, which change neither scores nor the kept outputs."""

    def padded_attend(*inputs: Tensor) -> Tensor:
        wide = (functional.pad(x, (0, PADDED - HEAD)) for x in inputs)
        return attend(*wide)[..., :HEAD]

    return padded_attend


def cases(setup: Setup) -> list[Case]:
    """8 rows of 2,048 tokens, 32 heads (Table 1)."""
    names = ("math", "flash") if setup.tiny else tuple(BACKENDS)
    attends: dict[str, Any] = {name: scaled_dot_product(BACKENDS[name]) for name in names}
    if not setup.tiny:
        attends |= {name: flash_package(module) for name, module in FLASH_PACKAGES.items()}
    both = dict(attends)
    for name, attend in attends.items():
        if name != "math":
            pad = attend if isinstance(attend, str) else padded(attend)
            both[f"{name} padded"] = pad
    already = {
        f"{name}, 64 already": attend
        for name, attend in attends.items()
        if name != "math" and not isinstance(attend, str)
    }
    return [_case(setup, HEAD, both), _case(setup, PADDED, already)]


def _case(setup: Setup, width: int, attends: dict[str, Any]) -> Case:
    rows, length, heads = (2, 32, 2) if setup.tiny else (8, 2048, 32)

    def make() -> tuple[Tensor, ...]:
        # Laid out as projections give them.
        inputs = (setup.random(rows, length, heads, width, learns=False) for _ in range(3))
        return tuple(x.transpose(1, 2).requires_grad_() for x in inputs)

    # Two products of M x M x d a head; half of it is above the diagonal.
    flops = 2 * 2 * rows * heads * length * length * HEAD // 2
    return Case(
        name=f"attention, heads of {width}",
        operation="attention",
        candidates=attends,
        make=make,
        forward_flops=flops,
    )


if __name__ == "__main__":
    run(__doc__.split("\n")[0], cases, module="benchmarks.kernels.bench_attention")
