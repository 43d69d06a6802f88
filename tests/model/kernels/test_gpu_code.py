"""Our Triton kernels compiled for a GPU (compute capability 9.0) that need not be there.

The interpreter accepts code that the compiler refuses, and says nothing about how memory is read.
The launches below have the shapes of Table 1; nothing runs on their results.
"""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.kernels import IMPLEMENTATIONS, triton_support

pytestmark = [
    pytest.mark.skipif(not triton_support.INSTALLED, reason="needs the package triton"),
    pytest.mark.skipif(triton_support.INTERPRETED, reason="the interpreter does not compile"),
]


class PretendedDriver:
    """Enough of a driver for Triton to compile for a Hopper GPU."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Kernel name -> PTX of what is launched in the test, compiled instead of run."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    launch = JITFunction.run
    found: dict[str, str] = {}

    def only_compile(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = launch(self, *args, grid=(1, 1, 1), warmup=True, **kwargs)
        found[self.__name__] = kernel.asm["ptx"]
        return kernel

    monkeypatch.setattr(JITFunction, "run", only_compile)
    monkeypatch.setattr(driver, "_active", PretendedDriver())
    return found


def bf16(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16).requires_grad_()


def rms_norm() -> None:
    norm, add_norm = IMPLEMENTATIONS["rms_norm"]["triton"]
    y, total = add_norm(
        norm(bf16(4, 8, 1792), bf16(1792), 1e-6), bf16(4, 8, 1792), bf16(1792), 1e-6
    )
    (y + total).sum().backward()


def rope() -> None:
    turn, _ = IMPLEMENTATIONS["rope"]["triton"]
    angles = torch.zeros(1, 1, 16, 28)
    query, key = turn(*(bf16(2, 16, 32, 56).transpose(1, 2) for _ in range(2)), angles, angles)
    (query + key).sum().backward()


def rope_qkv() -> None:
    _, turn = IMPLEMENTATIONS["rope"]["triton"]
    angles = torch.zeros(1, 1, 16, 28)
    query, key, value = turn(bf16(2, 16, 96 * 56), 32, angles, angles)
    (query + key + value).sum().backward()


def swiglu() -> None:
    gate, _ = IMPLEMENTATIONS["swiglu"]["triton"]
    gate(bf16(16, 2688), bf16(16, 2688)).sum().backward()


def swiglu_halves() -> None:
    _, gate = IMPLEMENTATIONS["swiglu"]["triton"]
    gate(bf16(16, 2 * 2688)).sum().backward()


def soft_moe() -> None:
    route, combine, _ = IMPLEMENTATIONS["soft_moe"]["triton"]
    keys = torch.zeros(6, 1792).requires_grad_()
    weights = route(bf16(16, 1792), keys)
    combine(bf16(16, 6 * 448), bf16(6, 448, 1792), bf16(6, 448, 1792), weights).sum().backward()


def combine_halves() -> None:
    _, _, combine = IMPLEMENTATIONS["soft_moe"]["triton"]
    weights = torch.zeros(16, 6).requires_grad_()
    combine(bf16(16, 6 * 448), bf16(6, 448, 2 * 1792), weights).sum().backward()


def cross_entropy(name: str = "triton") -> None:
    (loss,) = IMPLEMENTATIONS["cross_entropy"][name]
    loss(bf16(16, 8), bf16(151_936, 8), torch.zeros(16, dtype=torch.long)).backward()


def cross_entropy_of_8() -> None:
    cross_entropy("triton8")


def resources(ptx: str, folder: Path) -> str:
    """Registers and spills, as reported by the assembler that comes with Triton."""
    import triton

    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    command = [assembler, "-v", "--gpu-name=sm_90a", source, "-o", folder / "kernel.cubin"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("launch", "kernels"),
    [
        (rms_norm, {"_forward_kernel", "_backward_kernel"}),
        (rope, {"_rope_kernel"}),
        (rope_qkv, {"_rope_kernel"}),
        (swiglu, {"_forward_kernel", "_backward_kernel"}),
        (swiglu_halves, {"_forward_kernel", "_backward_kernel"}),
        (combine_halves, {"_combine_kernel", "_combine_backward_kernel"}),
        (soft_moe, {"_route_kernel", "_combine_kernel", "_combine_backward_kernel"}),
        (cross_entropy, {"_losses_kernel"}),
        (cross_entropy_of_8, {"_losses_kernel"}),
    ],
)
def test_compiles_without_spills_and_moves_its_tensors_in_vectors(
    launch: Callable[[], None], kernels: set[str], compiled: dict[str, str], tmp_path: Path
) -> None:
    launch()
    assert kernels <= compiled.keys()
    for name, ptx in compiled.items():
        assert "0 bytes spill stores, 0 bytes spill loads" in resources(ptx, tmp_path), name
        # The target's logit and each row's statistics are single loads; a tensor's never are.
        single = re.findall(r"(?:ld|st)\.global\.b16", ptx)
        assert len(single) <= (name == "_losses_kernel"), name
        assert re.search(r"ld\.global\.v[24]\.b32", ptx), name
        assert re.search(r"st\.global(\.v[24])?\.b32", ptx), name
