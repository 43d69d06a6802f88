"""Rotary positions of query and key: who reads and writes fastest?

python -m benchmarks.bench_rope [--json out.json]
"""

import torch

from benchmarks._race import Contest, Course, candidates, run
from model.kernels import rope_angles


def contests(course: Course) -> list[Contest]:
    """32 query and key heads of 56 (Table 1), and 28 query heads for 4 key heads of 128 (Qwen2)."""
    rows, length = (2, 16) if course.tiny else (8, 2048)
    return [_contest(course, rows, length, *heads) for heads in ((32, 32, 56), (28, 4, 128))]


def _contest(
    course: Course, rows: int, length: int, heads: int, key_heads: int, head_dim: int
) -> Contest:
    def make() -> tuple[torch.Tensor, ...]:
        positions = torch.arange(length, device=course.device).unsqueeze(0)
        # Laid out as projections give them.
        query = course.random(rows, length, heads, head_dim, learns=False)
        key = course.random(rows, length, key_heads, head_dim, learns=False)
        return (
            query.transpose(1, 2).requires_grad_(),
            key.transpose(1, 2).requires_grad_(),
            *rope_angles(positions, head_dim, 1e6),
        )

    size = rows * length * (heads + key_heads) * head_dim * course.dtype.itemsize
    return Contest(
        name=f"rope {heads}+{key_heads} heads of {head_dim}",
        operation="rope",
        candidates=candidates("rope", 1, course),
        make=make,
        forward_bytes=2 * size,
        both_bytes=4 * size,
        notes={"liger": "writes over its inputs"},
    )


if __name__ == "__main__":
    run(__doc__.split("\n")[0], contests, module="benchmarks.bench_rope")
