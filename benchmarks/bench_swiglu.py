"""SwiGLU's elementwise part: who reads and writes fastest?

python -m benchmarks.bench_swiglu [--json out.json]
"""

from benchmarks._race import Contest, Course, candidates, run


def contests(course: Course) -> list[Contest]:
    """The experts' first layers: 6 x 448 columns of 16,384 tokens (Table 1)."""
    tokens, width = (64, 96) if course.tiny else (16_384, 6 * 448)
    size = tokens * width * course.dtype.itemsize
    return [
        Contest(
            name="swiglu",
            operation="swiglu",
            candidates=candidates("swiglu", 0, course),
            make=lambda: (course.random(tokens, width), course.random(tokens, width)),
            forward_bytes=3 * size,
            both_bytes=8 * size,
        )
    ]


if __name__ == "__main__":
    run(__doc__.split("\n")[0], contests, module="benchmarks.bench_swiglu")
