"""Rotary positions of query and key: bandwidth of each implementation.

python -m benchmarks.kernels.bench_rope [--json out.json]
"""

import torch

from benchmarks.kernels._comparison import Case, candidates, run
from benchmarks.kernels._timing import Setup
from model.kernels.rope import rope_angles


def cases(setup: Setup) -> list[Case]:
    """32 query and key heads of 56 (Table 1), and 28 query heads for 4 key heads of 128 (Qwen2)."""
    rows, length = (2, 16) if setup.tiny else (8, 2048)
    return [_case(setup, rows, length, *heads) for heads in ((32, 32, 56), (28, 4, 128))]


def _case(setup: Setup, rows: int, length: int, heads: int, key_heads: int, head_dim: int) -> Case:
    def make() -> tuple[torch.Tensor, ...]:
        positions = torch.arange(length, device=setup.device).unsqueeze(0)
        # Laid out as projections give them.
        query = setup.random(rows, length, heads, head_dim, learns=False)
        key = setup.random(rows, length, key_heads, head_dim, learns=False)
        return (
            query.transpose(1, 2).requires_grad_(),
            key.transpose(1, 2).requires_grad_(),
            *rope_angles(positions, head_dim, 1e6),
        )

    size = rows * length * (heads + key_heads) * head_dim * setup.dtype.itemsize
    return Case(
        name=f"rope {heads}+{key_heads} heads of {head_dim}",
        operation="rope",
        candidates=candidates("rope", 0, setup),
        make=make,
        forward_bytes=2 * size,
        both_bytes=4 * size,
        notes={"liger": "writes over its inputs"},
    )


if __name__ == "__main__":
    run(__doc__.split("\n")[0], cases, module="benchmarks.kernels.bench_rope")
