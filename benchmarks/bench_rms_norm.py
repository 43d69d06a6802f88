"""RMSNorm, alone and with the residual addition: who reads and writes fastest?

python -m benchmarks.bench_rms_norm [--json out.json]
"""

from benchmarks._race import Contest, Course, candidates, run

EPS = 1e-6


def contests(course: Course) -> list[Contest]:
    """A micro-batch of 8 x 2,048 tokens of width 1,792 (Table 1)."""
    tokens, width = (64, 128) if course.tiny else (16_384, 1792)
    stream = tokens * width * course.dtype.itemsize
    norm = Contest(
        name="rms_norm",
        operation="rms_norm",
        candidates=candidates("rms_norm", 0, course),
        make=lambda: (course.random(tokens, width), course.random(width), EPS),
        forward_bytes=2 * stream,
        both_bytes=5 * stream,
    )
    add_norm = Contest(
        name="add_rms_norm",
        operation="rms_norm",
        candidates=candidates("rms_norm", 1, course),
        make=lambda: (
            course.random(tokens, width),
            course.random(tokens, width),
            course.random(width),
            EPS,
        ),
        forward_bytes=4 * stream,
        both_bytes=8 * stream,
    )
    return [norm, add_norm]


if __name__ == "__main__":
    run(__doc__.split("\n")[0], contests, module="benchmarks.bench_rms_norm")
