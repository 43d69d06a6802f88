"""SwiGLU's elementwise part: bandwidth of each implementation.

python -m benchmarks.kernels.bench_swiglu [--json out.json]
"""

from benchmarks.kernels._comparison import Case, candidates, run
from benchmarks.kernels._timing import Setup


def cases(setup: Setup) -> list[Case]:
    """The experts' first layers: 6 x 448 columns of 16,384 tokens (Table 1)."""
    tokens, width = (64, 96) if setup.tiny else (16_384, 6 * 448)
    size = tokens * width * setup.dtype.itemsize
    return [
        Case(
            name="swiglu",
            operation="swiglu",
            candidates=candidates("swiglu", 0, setup),
            make=lambda: (setup.random(tokens, width), setup.random(tokens, width)),
            forward_bytes=3 * size,
            both_bytes=8 * size,
        ),
        Case(
            name="swiglu, halves of one",
            operation="merged",
            candidates=candidates("swiglu", 1, setup),
            make=lambda: (setup.random(tokens, 2 * width),),
            forward_bytes=3 * size,
            both_bytes=8 * size,
        ),
    ]


if __name__ == "__main__":
    run(__doc__.split("\n")[0], cases, module="benchmarks.kernels.bench_swiglu")
