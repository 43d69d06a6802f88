"""Soft MoE beside its matrix products: routing, and combining the experts' second layers.

python -m benchmarks.kernels.bench_soft_moe [--json out.json]
"""

import torch

from benchmarks.kernels._comparison import Case, candidates, run
from benchmarks.kernels._timing import Setup


def cases(setup: Setup) -> list[Case]:
    """16,384 tokens, 6 experts of 448 in a width of 1,792 (Table 1)."""
    tokens, experts, inner, width = (64, 3, 16, 64) if setup.tiny else (16_384, 6, 448, 1792)
    size = setup.dtype.itemsize
    stream = tokens * width * size
    route = Case(
        name="route",
        operation="soft_moe",
        candidates=candidates("soft_moe", 0, setup),
        make=lambda: (
            setup.random(tokens, width),
            torch.randn(experts, width, device=setup.device).requires_grad_(),
        ),
        forward_bytes=stream,
        # At least: x is read once more, for its own gradient and the keys', and one is written.
        both_bytes=3 * stream,
    )
    combine = Case(
        name="combine",
        operation="soft_moe",
        candidates=candidates("soft_moe", 1, setup),
        make=lambda: (
            setup.random(tokens, experts * inner),
            setup.random(experts, inner, width, scale=inner**-0.5),
            setup.random(experts, inner, width, scale=inner**-0.5),
            torch.rand(tokens, experts, device=setup.device).requires_grad_(),
        ),
        # The matrix products' operations; memory is in `floors`.
        forward_flops=2 * 2 * tokens * experts * inner * width,
    )
    return [route, combine]


if __name__ == "__main__":
    run(__doc__.split("\n")[0], cases, module="benchmarks.kernels.bench_soft_moe")
