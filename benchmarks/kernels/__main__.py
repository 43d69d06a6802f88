"""All kernels, and the implementation of each operation that `auto` should use.

python -m benchmarks.kernels [--json out.json]

Needs torch, Transformers, model/ and benchmarks/ alone. The Triton kernels are compared with eager,
torch.compile'd eager, torch's fused operators and Liger-Kernel if it is installed; attention is
compared among libraries. On a CPU the same command runs tiny sizes, which show that it works and
nothing else.
"""

from typing import Any

from benchmarks.kernels import (
    bench_attention,
    bench_cross_entropy,
    bench_merged,
    bench_rms_norm,
    bench_rope,
    bench_soft_moe,
    bench_swiglu,
)
from benchmarks.kernels._comparison import COPY_TARGET, Case, Row, run
from benchmarks.kernels._timing import Setup

BENCHES = (bench_rms_norm, bench_rope, bench_swiglu, bench_soft_moe, bench_cross_entropy)


def cases(setup: Setup) -> list[Case]:
    """The cases of all benchmarks, those that are no operation of a config last."""
    found = [case for bench in BENCHES for case in bench.cases(setup)]
    return [*found, *bench_merged.cases(setup), *bench_attention.cases(setup)]


def targets(setup: Setup, rows: list[Row]) -> dict[str, Any]:
    """Share of copy bandwidth of each elementwise Triton kernel, and the lower bound of the
    loss."""
    loss = [row for row in rows if row.operation in ("cross_entropy", "")]
    report = bench_cross_entropy.floor(setup, loss)
    reached = {
        f"{row.case}, {row.what}": row.share_of_copy
        for row in rows
        if row.operation in ("rms_norm", "rope", "swiglu")
        and row.candidate == "triton"
        and row.share_of_copy is not None
    }
    for name, share in reached.items():
        if not setup.tiny:
            outcome = "meets" if share >= COPY_TARGET else "misses"
            print(f"{name}: {share:.0%} of copy ({outcome} {COPY_TARGET:.0%})")
    return {"loss": report, "share_of_copy": reached}


if __name__ == "__main__":
    run(__doc__.split("\n")[0], cases, module="benchmarks.kernels", more=targets)
