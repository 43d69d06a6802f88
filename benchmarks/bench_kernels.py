"""The whole race of kernels, and which implementation `auto` should take.

python -m benchmarks.bench_kernels [--json out.json]

Needs torch, Transformers, model/ and benchmarks/ alone. Ours race against eager, torch.compile'd
eager, torch's fused operators and Liger-Kernel where it is installed; attention races among
libraries. On a CPU the same command runs tiny sizes, which show that it works and nothing else.
"""

from typing import Any

from benchmarks import (
    bench_attention,
    bench_cross_entropy,
    bench_rms_norm,
    bench_rope,
    bench_soft_moe,
    bench_swiglu,
)
from benchmarks._race import TARGET, Contest, Course, Row, run

BENCHES = (bench_rms_norm, bench_rope, bench_swiglu, bench_soft_moe, bench_cross_entropy)


def contests(course: Course) -> list[Contest]:
    """All of them, attention last."""
    found = [contest for bench in BENCHES for contest in bench.contests(course)]
    return [*found, *bench_attention.contests(course)]


def targets(course: Course, rows: list[Row]) -> dict[str, Any]:
    """Which elementwise kernels of ours reach their share of copy bandwidth; the loss's floor."""
    loss = [row for row in rows if row.operation in ("cross_entropy", "")]
    report = bench_cross_entropy.floor(course, loss)
    reached = {
        f"{row.contest}, {row.what}": row.share_of_copy
        for row in rows
        if row.operation in ("rms_norm", "rope", "swiglu")
        and row.candidate == "triton"
        and row.share_of_copy is not None
    }
    for name, share in reached.items():
        if not course.tiny:
            print(f"{name}: {share:.0%} of copy ({'meets' if share >= TARGET else 'misses'} 85 %)")
    return {"loss": report, "share_of_copy": reached}


if __name__ == "__main__":
    run(__doc__.split("\n")[0], contests, module="benchmarks.bench_kernels", more=targets)
