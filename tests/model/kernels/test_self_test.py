"""The self-test accepts right kernels and names wrong ones, whatever is wrong with them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch

from model.architecture import MergedProduct
from model.config import SteelConfig
from model.kernels import IMPLEMENTATIONS, choose, replace_failing, replacements, resolve
from model.kernels import triton_support as triton
from model.kernels.cross_entropy import linear_cross_entropy
from model.kernels.self_test import ODD, OF_TORCH, TOLERANCE, compare, needs_test
from model.kernels.swiglu import swiglu_eager, swiglu_triton
from model.train.distributed.context import distributed_context
from model.train.distributed.tested_kernels import check_kernels, judge, kernels_of, widths_of
from tests.faults.wrong_kernels import HOOK, TABLE, enter_faults
from tests.gpu import ON_GPU

CPU = torch.device("cpu")
SMALL = SteelConfig(vocab_size=67, hidden_size=24, num_attention_heads=2, num_experts=3)


@pytest.fixture(autouse=True)
def nothing_replaced() -> Iterator[None]:
    yield
    replace_failing({})


def check(choice: str | dict[str, str], **options: float | bool) -> dict[str, str]:
    """The replacements for a small model of this choice, on the CPU, alone."""
    config = SteelConfig(**{**SMALL.to_dict(), "kernels": choice})
    with distributed_context() as ranks:
        check_kernels(config, ranks, torch.float32, **options)  # type: ignore[arg-type]
    return replacements()


MERGED = get_args(MergedProduct)
PLAIN = [(o, n) for o, names in TABLE.items() for n in names if n in OF_TORCH]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("operation", "name"), PLAIN)
def test_right_implementations_pass(operation: str, name: str, dtype: torch.dtype) -> None:
    small = widths_of(SMALL)
    assert compare(operation, name, device=CPU, dtype=dtype, widths=small, merged=MERGED) == ""


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("operation", TABLE)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("sound", ""),
        ("values", "result 1 (differs by|is)"),
        ("gradients", "gradient [1-4] (differs by|is)"),
        ("nan", "result 1 has a NaN"),
    ],
)
def test_faults_are_found(
    monkeypatch: pytest.MonkeyPatch, operation: str, fault: str, reason: str, dtype: torch.dtype
) -> None:
    """One element of a row, in the forward or only in the backward pass, is enough."""
    enter_faults(monkeypatch, {operation: ("faulty", fault)})
    found = compare(operation, "faulty", device=CPU, dtype=dtype, widths=ODD)
    if not reason:
        assert found == ""
    else:
        import re

        assert re.search(reason, found), found


def test_a_result_of_another_shape_and_a_missing_gradient_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enter_faults(monkeypatch, {"swiglu": ("faulty", "shape")})
    found = compare("swiglu", "faulty", device=CPU, dtype=torch.float32, widths=ODD)
    assert "result 1 has shape [32, 15] instead of [33, 15]" in found
    IMPLEMENTATIONS["swiglu"]["deaf"] = (lambda gate, up: swiglu_eager(gate, up.detach()),)
    found = compare("swiglu", "deaf", device=CPU, dtype=torch.float32, widths=ODD)
    assert found.endswith("gradient 2 is missing")


@pytest.mark.parametrize(
    ("operation", "number", "name"),
    [("rope", 1, "rope_qkv"), ("swiglu", 1, "swiglu_halves"), ("soft_moe", 2, "combine_halves")],
)
@pytest.mark.parametrize("fault", ["values", "gradients"])
def test_functions_of_merged_products_are_tested_where_a_model_has_them(
    monkeypatch: pytest.MonkeyPatch, operation: str, number: int, name: str, fault: str
) -> None:
    enter_faults(monkeypatch, {operation: ("faulty", fault)})
    mixed = list(TABLE[operation]["eager"])
    mixed[number] = IMPLEMENTATIONS[operation]["faulty"][number]
    IMPLEMENTATIONS[operation]["faulty"] = tuple(mixed)
    found = [
        compare(operation, "faulty", device=CPU, dtype=torch.bfloat16, widths=ODD, merged=merged)
        for merged in ((), MERGED)
    ]
    assert found[0] == "" and found[1].startswith(f"{name} ")


def test_each_of_several_faults_is_judged_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a kernel ends the process that tests it, or never ends."""
    faults = {
        "rms_norm": ("faulty", "raise"),
        "rope": ("faulty", "segfault"),
        "swiglu": ("faulty", "sound"),
        "soft_moe": ("faulty", "segfault backward"),
        "cross_entropy": ("faulty", "hang"),
    }
    enter_faults(monkeypatch, faults)
    replaced = check(dict.fromkeys(faults, "faulty"), limit=45.0)
    assert replaced.keys() == {"rms_norm", "rope", "soft_moe", "cross_entropy"}
    assert "faulty -> eager: RuntimeError: CUDA error: an illegal memory" in replaced["rms_norm"]
    assert "faulty -> eager: ended its process by SIGSEGV, on " in replaced["rope"]
    assert "ended its process by SIGSEGV" in replaced["soft_moe"]
    assert "faulty -> chunked: gave no result within 45 s" in replaced["cross_entropy"]
    kernels = choose(dict.fromkeys(faults, "faulty"))
    assert (kernels.rope, kernels.rope_qkv) == TABLE["rope"]["eager"]
    assert (kernels.route, kernels.combine, kernels.combine_halves) == TABLE["soft_moe"]["eager"]
    assert kernels.swiglu is IMPLEMENTATIONS["swiglu"]["faulty"][0]
    assert kernels.cross_entropy is linear_cross_entropy


def test_the_next_run_of_a_process_begins_with_what_was_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enter_faults(monkeypatch, {"swiglu": ("faulty", "values")})
    assert check({"swiglu": "faulty"}).keys() == {"swiglu"}
    assert choose({"swiglu": "faulty"}).swiglu is swiglu_eager
    assert check({"swiglu": "faulty"}, self_test=False) == {}
    assert choose({"swiglu": "faulty"}).swiglu is not swiglu_eager


def test_auto_gives_the_reference_on_a_gpu_where_its_kernel_fails() -> None:
    before = choose("auto").swiglu
    replace_failing({("swiglu", "triton"): "wrong"})
    assert choose("auto").swiglu.on_gpu is swiglu_eager  # type: ignore[attr-defined]
    assert choose("auto").rope.on_gpu is TABLE["rope"]["triton"][0]  # type: ignore[attr-defined]
    replace_failing({})
    assert choose("auto").swiglu == before
    assert before.on_gpu is swiglu_triton  # type: ignore[attr-defined]


def test_a_cpu_tests_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.train.distributed.tested_kernels.Child", None)
    assert check("auto") == check("torch") == check({"cross_entropy": "chunked"}) == {}


def test_what_is_tested_is_what_a_model_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "INSTALLED", True)
    on_gpu = kernels_of(SMALL, cuda=True)
    assert needs_test(on_gpu) == dict.fromkeys(TABLE, "triton")
    dense = SteelConfig(**{**SMALL.to_dict(), "routing": "dense"})
    assert kernels_of(dense, cuda=True).keys() == TABLE.keys() - {"soft_moe"}
    from transformers import Qwen2Config

    assert kernels_of(Qwen2Config(), cuda=True) == {"cross_entropy": "triton"}
    assert widths_of(Qwen2Config(vocab_size=99)).vocabulary == 99
    assert resolve("liger", cuda=True)["soft_moe"] == "eager"
    assert resolve({"rope": "eager"}, cuda=False)["cross_entropy"] == "chunked"


def test_memory_that_others_have_blames_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    enter_faults(monkeypatch, {"swiglu": ("faulty", "no memory")})
    verdict = judge({"swiglu": "faulty"}, torch.device("cpu"), torch.float32, ODD, limit=180.0)
    assert not verdict.failing
    assert verdict.untested.startswith("the test ended with exit code 1 (")


def test_a_device_that_cannot_be_had_blames_no_kernel() -> None:
    verdict = judge({"swiglu": "triton"}, torch.device("cuda", 7), torch.float32, ODD, limit=180.0)
    assert not verdict.failing
    assert verdict.untested.startswith("the test ended with exit code 1 (")


@pytest.mark.parametrize("name", ["triton", "liger"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=ON_GPU)])
def test_kernels_pass_on_this_gpu(device: str, name: str, dtype: torch.dtype) -> None:
    from model.kernels import liger

    if name == "liger" and liger.unavailable_reason():
        pytest.skip("Liger-Kernel cannot run here")
    kernels = {operation: name for operation, names in TABLE.items() if name in names}
    verdict = judge(kernels, torch.device(device, 0), dtype, widths_of(SteelConfig()), 180.0)
    assert (verdict.failing, verdict.untested) == ({}, "")


INTERPRETED = """
import sys, torch
from typing import get_args
from model.architecture import MergedProduct
from model.kernels import OPERATIONS, triton_support
from model.kernels.self_test import ODD
from model.train.distributed.tested_kernels import judge
assert triton_support.INTERPRETED
for dtype in (torch.float32, torch.bfloat16):
    kernels, merged = dict.fromkeys(OPERATIONS, "triton"), get_args(MergedProduct)
    print(judge(kernels, torch.device("cpu"), dtype, ODD, 120.0, merged))
"""


@pytest.mark.skipif(not triton.INSTALLED, reason="needs the package triton")
def test_our_kernels_pass_in_the_interpreter_but_one_that_is_broken(root: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        cwd=root,
        env={
            **os.environ,
            "TRITON_INTERPRET": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(HOOK),
            "STEEL_TEST_KERNELS": json.dumps({"rope": ("triton", "gradients")}),
        },
        capture_output=True,
        text=True,
        timeout=800,
        check=True,
    ).stdout.splitlines()
    assert len(found) == 2
    for verdict in found:
        assert "failing={'rope': 'rope [2, 33, 3, 10]: gradient 1 " in verdict, verdict
        assert "untested=''" in verdict and verdict.count("on ") == 1
