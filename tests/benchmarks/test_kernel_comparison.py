"""Comparison of kernels: it runs on a CPU, finds wrong results, and recommends one for `auto`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.kernels import __main__ as every_kernel
from benchmarks.kernels._comparison import Case, Row, compare, recommend, run
from benchmarks.kernels._timing import Setup


@pytest.fixture
def setup() -> Setup:
    return Setup(device=torch.device("cpu"), compiled=False, seconds=0.001)


def test_every_case_runs_here(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    arguments = ["--device", "cpu", "--seconds", "0.001", "--json", str(output)]
    run("all", every_kernel.cases, arguments, module="x", more=every_kernel.targets)
    report = json.loads(output.read_text())
    assert report["tiny"]
    assert report["recommendation"] == {}  # a CPU says nothing about a GPU
    assert report["loss"]["floor_milliseconds"] > 0
    rows = report["rows"]
    ran = {(row["case"], row["candidate"]) for row in rows if row["milliseconds"] is not None}
    assert {(row["case"], "eager") for row in rows if row["candidate"] == "eager"} <= ran
    assert not [row["note"] for row in rows if row["note"].startswith(("failed", "wrong"))]


def test_figures_are_written_although_evaluating_them_fails(tmp_path: Path) -> None:
    def broken(setup: Setup, rows: list[Row]) -> dict[str, Any]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def cases(setup: Setup) -> list[Case]:
        inputs = (setup.random(4),)
        return [Case(name="n", operation="o", candidates={"eager": abs}, make=lambda: inputs)]

    output = tmp_path / "new folder" / "out.json"
    run(
        "t",
        cases,
        ["--device", "cpu", "--seconds", "0.001", "--json", str(output)],
        module="x",
        more=broken,
    )
    report = json.loads(output.read_text())
    assert "illegal memory access" in report["not evaluated"]
    assert all(row["milliseconds"] > 0 for row in report["rows"])


def test_a_row_is_written_as_soon_as_it_is_measured(tmp_path: Path) -> None:
    def cut(_: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    def cases(setup: Setup) -> list[Case]:
        inputs = (setup.random(4),)
        functions = {"eager": abs, "cut": cut}
        return [Case(name="n", operation="o", candidates=functions, make=lambda: inputs)]

    output = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        run(
            "t", cases, ["--device", "cpu", "--seconds", "0.001", "--json", str(output)], module="x"
        )
    rows = json.loads(output.read_text())["rows"]
    assert [(row["candidate"], row["what"]) for row in rows] == [
        ("eager", "forward"),
        ("eager", "forward + backward"),
    ]


def test_a_wrong_or_failing_candidate_gets_no_time(setup: Setup) -> None:
    def silent(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    case = Case(
        name="double",
        operation="double",
        candidates={
            "reference": lambda x: 2 * x,
            "wrong": lambda x: 2 * x + (x > 1),
            "not a number": lambda x: 2 * x / (x > 0),
            "failing": lambda x: x @ x,
            "silent": silent,
            "absent": "the package is not installed",
        },
        make=lambda: (setup.random(3, 50),),
        forward_bytes=1200,
        both_bytes=2400,
    )
    rows = compare(case, setup, 1.0)
    assert [row.candidate for row in rows if row.milliseconds is not None] == ["reference"] * 2
    notes = {row.candidate: row.note for row in rows}
    assert notes["wrong"].startswith("wrong")
    assert notes["not a number"].startswith("wrong")
    assert notes["failing"].startswith("failed: RuntimeError")
    assert notes["silent"].startswith("failed: AssertionError")
    assert notes["absent"] == "skipped: the package is not installed"


def test_triton_is_recommended_unless_another_is_clearly_faster() -> None:
    def row(operation: str, candidate: str, milliseconds: float | None, case: str = "c") -> Row:
        return Row(
            case=case,
            operation=operation,
            candidate=candidate,
            what="forward + backward",
            milliseconds=milliseconds,
        )

    rows = [
        row("swiglu", "eager", 3.0),
        row("swiglu", "liger", 1.0),
        row("swiglu", "triton", 1.02),
        row("rope", "eager", 1.0),
        row("rope", "triton", 1.2),
        # Fastest in one case, absent from the other: cannot be `auto`.
        row("rms_norm", "liger", 0.1, "a"),
        row("rms_norm", "liger", None, "b"),
        row("rms_norm", "eager", 2.0, "a"),
        row("rms_norm", "eager", 2.0, "b"),
        row("rms_norm", "torch.compile", 0.5, "a"),  # not an implementation of a config
        row("rms_norm", "torch.compile", 0.5, "b"),
    ]
    found = recommend(rows)
    assert {name: one["auto"] for name, one in found.items()} == {
        "swiglu": "triton",
        "rope": "eager",
        "rms_norm": "eager",
    }
    assert found["swiglu"]["fastest"] == "liger"
