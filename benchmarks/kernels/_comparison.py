"""Comparison of implementations of one operation: errors first, then times, then a recommendation.

    case (inputs, bytes, candidates) ──▶ error ──▶ forward, forward + backward ──▶ rows, JSON

On a GPU a short pass is captured in a CUDA graph, so that the CPU adds no time, and cycles through
several sets of inputs, so that it reads from memory and not from the cache of the last pass.
Bandwidth is the smallest number of bytes that the operation can move, divided by the time; it is
printed beside the bandwidth of a copy in the same run.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks._figures import add_options, end_with_parent, publish, save
from benchmarks.kernels._timing import (
    Setup,
    copy_gigabytes_per_second,
    extra_gibibytes,
    seconds_per_call,
)
from common.errors import ConfigError
from model.kernels import IMPLEMENTATIONS, OPERATIONS, choose
from model.train.distributed.device import device_name

MAX_ERROR = 0.03
"""Largest error of a candidate relative to the reference's norm: a few roundings to bf16."""

COMPILED = "torch.compile"
"""Name of the compiled reference among candidates."""

COPY_TARGET = 0.85
"""Share of copy bandwidth that an elementwise operation should reach."""


@dataclass(kw_only=True)
class Row:
    """One candidate in one pass of one case."""

    case: str
    operation: str
    candidate: str
    what: str
    """"forward" or "forward + backward"."""
    milliseconds: float | None = None
    gigabytes_per_second: float | None = None
    share_of_copy: float | None = None
    teraflops: float | None = None
    extra_gibibytes: float | None = None
    """Peak memory above the memory before the call, results included."""
    note: str = ""


@dataclass(kw_only=True)
class Case:
    """One function, its inputs and its candidates."""

    name: str
    operation: str
    """Key of model.kernels.IMPLEMENTATIONS, or any other name."""
    candidates: dict[str, Callable[..., Any] | str]
    """Name -> function, or the reason why it cannot run. The first is the reference."""
    make: Callable[[], tuple[Any, ...]]
    """New random inputs."""
    forward_bytes: int = 0
    both_bytes: int = 0
    forward_flops: int = 0
    notes: dict[str, str] = field(default_factory=dict)
    limit: float = MAX_ERROR


def candidates(operation: str, index: int, setup: Setup) -> dict[str, Callable[..., Any] | str]:
    """All implementations of the index-th function of an operation, and the compiled reference."""
    found: dict[str, Callable[..., Any] | str] = {}
    for name, implementations in IMPLEMENTATIONS[operation].items():
        try:
            choose({operation: name})
            found[name] = implementations[index]
        except ConfigError as error:
            found[name] = str(error).split(", but ")[-1].split(";")[0]
    if setup.compiled:
        eager = IMPLEMENTATIONS[operation]["eager"][index]
        found[COMPILED] = torch.compile(eager, dynamic=False)
    return found


def compare(
    case: Case, setup: Setup, copy_rate: float, keep: Callable[[Row], Any] = lambda _: None
) -> list[Row]:
    """Measure every candidate in both passes; `keep` is given each row as soon as it is done."""
    rows = []
    for name, function in case.candidates.items():
        for what in ("forward", "forward + backward"):
            row = Row(case=case.name, operation=case.operation, candidate=name, what=what)
            row.note = case.notes.get(name, "")
            rows.append(row)
            if isinstance(function, str):
                row.note = f"skipped: {function}"
            else:
                try:
                    _measure(row, case, function, setup, copy_rate)
                except Exception as error:  # the failure of a candidate is a result too
                    row.note = f"failed: {_reason(error)}"
            print(_line(row), flush=True)
            keep(row)
    return rows


def _reason(error: Exception) -> str:
    """Type and first line of the message, which an assertion may lack."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:120]}"


def _measure(
    row: Row, case: Case, function: Callable[..., Any], setup: Setup, copy_rate: float
) -> None:
    error = _error(case, function)
    if not error <= case.limit:
        row.note = f"wrong: differs from the reference by {error:.1e} of its norm"
        return
    both = row.what != "forward"
    num_bytes = case.both_bytes if both else case.forward_bytes
    # Between two uses of one set, several times the size of an L2 cache (50 MB) is read.
    num_sets = 1 if setup.tiny or not num_bytes else max(1, min(8, -(-400_000_000 // num_bytes)))
    sets = [case.make() for _ in range(num_sets)]
    slopes = [[torch.randn_like(y) for y in _outputs(function(*_clones(s)))] for s in sets]

    def one_round() -> None:
        for inputs, slope in zip(sets, slopes, strict=True):
            outputs = _outputs(function(*inputs))
            if both:
                torch.autograd.grad(outputs, _leaves(inputs), slope, allow_unused=True)

    row.extra_gibibytes = extra_gibibytes(one_round, setup) if num_sets == 1 else None
    captured = num_bytes > 0  # a few passes over memory are shorter than their launches
    seconds = seconds_per_call(one_round, setup, captured=captured) / num_sets
    row.milliseconds = seconds * 1e3
    if num_bytes:
        row.gigabytes_per_second = num_bytes / seconds / 1e9
        row.share_of_copy = row.gigabytes_per_second / copy_rate
    if case.forward_flops:
        row.teraflops = case.forward_flops * (3 if both else 1) / seconds / 1e12


def _error(case: Case, function: Callable[..., Any]) -> float:
    """Largest error of results and gradients relative to the reference's."""
    reference = next(iter(case.candidates.values()))
    assert not isinstance(reference, str)
    inputs = case.make()
    wanted, found = (_results(f, inputs) for f in (reference, function))
    errors: list[float] = [
        ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item()
        for a, b in zip(found, wanted, strict=True)
    ]
    return max(errors, key=lambda e: (e != e, e))  # NaN is the largest


def _results(function: Callable[..., Any], inputs: tuple[Any, ...]) -> list[Tensor]:
    clones = _clones(inputs)
    outputs = _outputs(function(*clones))
    slopes = [torch.linspace(0.5, 1, y.numel(), device=y.device).view(y.shape) for y in outputs]
    slopes = [slope.to(y.dtype) for slope, y in zip(slopes, outputs, strict=True)]
    return [*outputs, *torch.autograd.grad(outputs, _leaves(clones), slopes)]


def _clones(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copies, for functions that overwrite their inputs."""
    return tuple(
        x.detach().clone().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x
        for x in inputs
    )


def _leaves(inputs: tuple[Any, ...]) -> list[Tensor]:
    return [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]


def _outputs(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


def _line(row: Row) -> str:
    cells = [f"{row.case:22}", f"{row.candidate:16}", f"{row.what:18}"]
    if row.milliseconds is not None:
        cells.append(f"{row.milliseconds:9.3f} ms")
        if row.share_of_copy is not None:
            cells.append(f"{row.gigabytes_per_second:7.0f} GB/s {row.share_of_copy:5.0%} of copy")
        if row.teraflops is not None:
            cells.append(f"{row.teraflops:6.1f} TFLOP/s")
        if row.extra_gibibytes is not None:
            cells.append(f"+{row.extra_gibibytes:.2f} GiB")
    return "  ".join([*cells, row.note])


def recommend(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """For each operation: the implementation for `auto`, by the time of both passes of all cases.

    The Triton kernel is recommended unless another implementation is more than 3 % faster. The
    compiled eager reference cannot be chosen: if it is fastest, a compiled model should use
    `eager`.
    """
    found = {}
    for operation in OPERATIONS:
        totals: dict[str, float] = {}
        cases = {row.case for row in rows if row.operation == operation}
        for name in (*IMPLEMENTATIONS[operation], COMPILED):
            times = [
                row.milliseconds
                for row in rows
                if (row.operation, row.candidate) == (operation, name)
                and row.what == "forward + backward"
                and row.milliseconds is not None
            ]
            if cases and len(times) == len(cases):
                totals[name] = sum(times)
        compiled = totals.pop(COMPILED, None)
        if not totals:
            continue
        best = min(totals, key=totals.__getitem__)
        ours = totals.get("triton")
        keep = ours is not None and ours <= 1.03 * totals[best]
        found[operation] = {
            "auto": "triton" if keep else best,
            "fastest": best,
            "milliseconds": totals,
            "triton_over_fastest": None if ours is None else ours / totals[best],
            "compiled_over_fastest": None if compiled is None else compiled / totals[best],
        }
    return found


def run(
    title: str,
    cases: Callable[[Setup], list[Case]],
    argv: Sequence[str] | None = None,
    *,
    module: str,
    more: Callable[[Setup, list[Row]], dict[str, Any]] = lambda _setup, _rows: {},
) -> dict[str, Any]:
    """Command line of every kernel benchmark. Returns the report that `--json` writes."""
    end_with_parent()
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=title)
    add_options(parser)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, help="for each measurement (GPU 0.5, CPU 0.1)")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compare torch.compile'd references, too (default: on a GPU only)",
    )
    given = parser.parse_args(argv)
    device = torch.device(given.device)
    on_gpu = device.type == "cuda"
    setup = Setup(
        device=device,
        compiled=on_gpu if given.compile is None else given.compile,
        seconds=given.seconds or (0.5 if on_gpu else 0.1),
    )
    torch.manual_seed(0)
    copy_rate = copy_gigabytes_per_second(setup)
    if setup.tiny:
        print("No GPU: tiny sizes in fp32, which show that everything runs, not which is fastest.")
    print(f"{device_name(device)}; a copy reaches {copy_rate:.0f} GB/s")
    rows: list[Row] = []

    def figures(added: dict[str, Any]) -> dict[str, Any]:
        return {
            "tiny": setup.tiny,
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "copy_gigabytes_per_second": copy_rate,
            "rows": [asdict(row) for row in rows],
            "recommendation": {} if setup.tiny else recommend(rows),
            **added,
        }

    def keep(row: Row) -> None:
        rows.append(row)
        save(figures({}), module.removeprefix("benchmarks."), argv, given.json)

    for case in cases(setup):
        compare(case, setup, copy_rate, keep)
    try:
        added = more(setup, rows)
    except Exception as error:  # an illegal access ends the use of the device; the rows are valid
        print(f"not evaluated: {_reason(error)}")
        added = {"not evaluated": _reason(error)}
    report = figures(added)
    text = "\n".join(_recommendation_lines(report))
    return publish(report, module.removeprefix("benchmarks."), argv, given.json, table=text)


def _recommendation_lines(report: dict[str, Any]) -> Iterator[str]:
    for operation, found in report["recommendation"].items():
        ours = found["triton_over_fastest"]
        ratio = "not run here" if ours is None else f"{ours:.2f} of the fastest's time"
        compiled = found["compiled_over_fastest"]
        yield (
            f"{operation:14} fastest: {found['fastest']:8} Triton: {ratio}"
            + ("" if compiled is None else f", compiled eager: {compiled:.2f}")
        )
    if report["recommendation"]:
        chosen = {operation: found["auto"] for operation, found in report["recommendation"].items()}
        yield (f"AUTO_ON_GPU = {chosen}")
