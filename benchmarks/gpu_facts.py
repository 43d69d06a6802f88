"""Facts of this machine's GPU that figures depend on: versions, driver, clocks, attention backends.

    python -m benchmarks.gpu_facts [--json out.json]

Which backend torch's scaled dot product attention takes is its own choice by a priority; both are
told, with the time of each backend for the paper's heads (32 of 56, padded to 64) at 2048 tokens.
Without a GPU it says so, and the CPU's backends are tried at a tiny size.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks._figures import add_options, end_with_parent, publish
from common.errors import first_line
from model.attention import VARLEN_GROUPS_HEADS, varlen_attn
from model.train.distributed.device import device_name

PACKAGES = (
    "triton",
    "transformers",
    "flash-attn",
    "flash-attn-3",
    "flash-attn-4",
    "liger-kernel",
    "numpy",
)
QUERY = "name,driver_version,memory.total,power.limit,clocks.sm,clocks.max.sm,temperature.gpu"
BACKENDS = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
REPEATS = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Print the facts, and write JSON where `--json` says."""
    end_with_parent()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser)
    arguments = parser.parse_args(argv)
    publish(facts(), "gpu_facts", argv, arguments.json, packages=PACKAGES)
    return 0


def facts() -> dict[str, Any]:
    """JSON values."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    found: dict[str, Any] = {
        "device": device_name(device),
        "cuda": torch.version.cuda,
        "varlen": varlen_attn is not None,
        "varlen_groups_heads": VARLEN_GROUPS_HEADS,
        "sdpa_milliseconds": {
            f"heads of {width}": attention_times(device, width) for width in (56, 64)
        },
    }
    if on_gpu:
        found |= {
            "capability": list(torch.cuda.get_device_capability()),
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "nccl": list(torch.cuda.nccl.version()),  # type: ignore[no-untyped-call]
            "sdpa_priority": [SDPBackend(b).name for b in torch._C._get_sdp_priority_order()],
            "driver": nvidia_smi(),
        }
    return found


def nvidia_smi() -> str:
    """Line of the driver's tool, or why there is none."""
    try:
        return subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv"],
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not told: {error}"


def attention_times(device: torch.device, width: int) -> dict[str, float | str]:
    """Milliseconds of causal attention forward and backward by backend, or why it cannot run."""
    on_gpu = device.type == "cuda"
    shape = (8, 32, 2048, width) if on_gpu else (1, 2, 64, width)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    query, key, value = (
        torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)
    )
    slope = torch.randn_like(query)  # of a sum it would have strides of 0, as in no training

    def both() -> None:
        y = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        torch.autograd.grad(y, (query, key, value), slope)

    found: dict[str, float | str] = {}
    for backend in BACKENDS:
        try:
            with sdpa_kernel(backend):
                found[backend.name] = _milliseconds(both, on_gpu)
        except RuntimeError as error:
            found[backend.name] = first_line(error)[:120]
    return found


def _milliseconds(work: Callable[[], None], on_gpu: bool) -> float:
    for _ in range(2):
        work()
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(REPEATS):
        work()
    if on_gpu:
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start) / REPEATS


if __name__ == "__main__":
    sys.exit(main())
