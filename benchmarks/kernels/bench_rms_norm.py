"""RMSNorm, alone and with the residual addition: bandwidth of each implementation.

python -m benchmarks.kernels.bench_rms_norm [--json out.json]
"""

from benchmarks.kernels._comparison import Case, candidates, run
from benchmarks.kernels._timing import Setup

EPS = 1e-6


def cases(setup: Setup) -> list[Case]:
    """A micro-batch of 8 x 2,048 tokens of width 1,792 (Table 1)."""
    tokens, width = (64, 128) if setup.tiny else (16_384, 1792)
    stream = tokens * width * setup.dtype.itemsize
    norm = Case(
        name="rms_norm",
        operation="rms_norm",
        candidates=candidates("rms_norm", 0, setup),
        make=lambda: (setup.random(tokens, width), setup.random(width), EPS),
        forward_bytes=2 * stream,
        both_bytes=5 * stream,
    )
    add_norm = Case(
        name="add_rms_norm",
        operation="rms_norm",
        candidates=candidates("rms_norm", 1, setup),
        make=lambda: (
            setup.random(tokens, width),
            setup.random(tokens, width),
            setup.random(width),
            EPS,
        ),
        forward_bytes=4 * stream,
        both_bytes=8 * stream,
    )
    return [norm, add_norm]


if __name__ == "__main__":
    run(__doc__.split("\n")[0], cases, module="benchmarks.kernels.bench_rms_norm")
