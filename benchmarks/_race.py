"""Races between implementations of one operation: correct first, then time, then who wins.

    contest (inputs, bytes, candidates) ──▶ agrees? ──▶ forward, forward + backward ──▶ rows, JSON

On a GPU a short pass is captured in a CUDA graph, so that its time is the GPU's alone, and goes
round several sets of inputs, so that it reads from memory and not from the last pass's cache.
Bandwidth is the fewest bytes the operation can move over the time, beside what a copy reaches in
the same run.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import ConfigError
from model.kernels import IMPLEMENTATIONS, OPERATIONS, choose

LIMIT = 0.03
"""Largest error of a candidate relative to the reference's norm: a few roundings to bf16."""

COMPILED = "torch.compile"
"""The name of the compiled reference among candidates."""

TARGET = 0.85
"""Share of copy bandwidth that an elementwise operation should reach."""


@dataclass(kw_only=True)
class Row:
    """One candidate in one pass of one contest."""

    contest: str
    operation: str
    candidate: str
    what: str
    """forward, or forward + backward"""
    milliseconds: float | None = None
    gigabytes_per_second: float | None = None
    share_of_copy: float | None = None
    teraflops: float | None = None
    extra_gibibytes: float | None = None
    """Peak memory above what was there before, results included"""
    note: str = ""


@dataclass(kw_only=True)
class Contest:
    """One function, its inputs and its candidates."""

    name: str
    operation: str
    """Key of model.kernels.IMPLEMENTATIONS, or a name of its own."""
    candidates: dict[str, Callable[..., Any] | str]
    """Name -> function, or why it cannot run. The first is the reference."""
    make: Callable[[], tuple[Any, ...]]
    """New random inputs."""
    forward_bytes: int = 0
    both_bytes: int = 0
    forward_flops: int = 0
    notes: dict[str, str] = field(default_factory=dict)
    limit: float = LIMIT


@dataclass(frozen=True, kw_only=True)
class Course:
    """Where the race is run."""

    device: torch.device
    compiled: bool
    """Whether torch.compile'd references take part."""
    seconds: float
    """For each measurement."""

    @property
    def tiny(self) -> bool:
        return self.device.type != "cuda"

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.tiny else torch.bfloat16

    def random(self, *shape: int, scale: float = 1.0, learns: bool = True) -> Tensor:
        x = scale * torch.randn(shape, device=self.device)
        return x.to(self.dtype).requires_grad_(learns)


def candidates(operation: str, index: int, course: Course) -> dict[str, Callable[..., Any] | str]:
    """All implementations of the index-th function of an operation, and the compiled reference."""
    found: dict[str, Callable[..., Any] | str] = {}
    for name, implementations in IMPLEMENTATIONS[operation].items():
        try:
            choose({operation: name})
            found[name] = implementations[index]
        except ConfigError as error:
            found[name] = str(error).split(", but ")[-1].split(";")[0]
    if course.compiled:
        eager = IMPLEMENTATIONS[operation]["eager"][index]
        found[COMPILED] = torch.compile(eager, dynamic=False)
    return found


def race(contest: Contest, course: Course, copy_rate: float) -> list[Row]:
    """Every candidate in both passes."""
    rows = []
    for name, function in contest.candidates.items():
        for what in ("forward", "forward + backward"):
            row = Row(contest=contest.name, operation=contest.operation, candidate=name, what=what)
            row.note = contest.notes.get(name, "")
            rows.append(row)
            if isinstance(function, str):
                row.note = f"skipped: {function}"
                print(_line(row), flush=True)
                continue
            try:
                _measure(row, contest, function, course, copy_rate)
            except Exception as error:  # a candidate that fails is a result, too
                row.note = f"failed: {_reason(error)}"
            print(_line(row), flush=True)
    return rows


def _reason(error: Exception) -> str:
    """Its type and the first line of what it says: an assertion may say nothing."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:120]}"


def _measure(
    row: Row, contest: Contest, function: Callable[..., Any], course: Course, copy_rate: float
) -> None:
    error = _error(contest, function)
    if not error <= contest.limit:
        row.note = f"wrong: differs from the reference by {error:.1e} of its norm"
        return
    both = row.what != "forward"
    num_bytes = contest.both_bytes if both else contest.forward_bytes
    # Several times an L2 cache of 50 MB between two uses of one set.
    num_sets = 1 if course.tiny or not num_bytes else max(1, min(8, -(-400_000_000 // num_bytes)))
    sets = [contest.make() for _ in range(num_sets)]
    slopes = [[torch.randn_like(y) for y in _outputs(function(*_clones(s)))] for s in sets]

    def go_round() -> None:
        for inputs, slope in zip(sets, slopes, strict=True):
            outputs = _outputs(function(*inputs))
            if both:
                torch.autograd.grad(outputs, _leaves(inputs), slope, allow_unused=True)

    row.extra_gibibytes = _extra_memory(go_round, course) if num_sets == 1 else None
    captured = num_bytes > 0  # a few passes over memory are shorter than their launches
    seconds = seconds_per_call(go_round, course, captured=captured) / num_sets
    row.milliseconds = seconds * 1e3
    if num_bytes:
        row.gigabytes_per_second = num_bytes / seconds / 1e9
        row.share_of_copy = row.gigabytes_per_second / copy_rate
    if contest.forward_flops:
        row.teraflops = contest.forward_flops * (3 if both else 1) / seconds / 1e12


def _error(contest: Contest, function: Callable[..., Any]) -> float:
    """Largest error of results and gradients relative to the reference's."""
    reference = next(iter(contest.candidates.values()))
    assert not isinstance(reference, str)
    inputs = contest.make()
    wanted, found = (_results(f, inputs) for f in (reference, function))
    errors = [
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
    """Copies, for functions that write over their inputs."""
    return tuple(
        x.detach().clone().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x
        for x in inputs
    )


def _leaves(inputs: tuple[Any, ...]) -> list[Tensor]:
    return [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]


def _outputs(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


def _extra_memory(function: Callable[[], None], course: Course) -> float | None:
    if course.tiny:
        return None
    function()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def seconds_per_call(
    function: Callable[[], Any], course: Course, *, captured: bool = True
) -> float:
    """Median time of a call; on a GPU of its work alone.

    captured: replay a CUDA graph. Otherwise several calls in a row, which is right for calls that
    keep the GPU busy longer than Python takes to launch them, and for those that a graph cannot
    hold (Liger's loss waits for the GPU).
    """
    for _ in range(3):  # compile, tune, fill caches
        function()
    if course.tiny:
        times = []
        end = time.perf_counter() + course.seconds
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return statistics.median(times)
    torch.cuda.synchronize()
    calls, replay = 4, function
    if captured:
        torch.cuda.empty_cache()  # the graph's memory is its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        calls, replay = 1, graph.replay
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    end = time.perf_counter() + course.seconds
    while len(times) < 5 or time.perf_counter() < end:
        start.record()
        for _ in range(calls):
            replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / 1e3 / calls)
    return statistics.median(times)


def copy_gigabytes_per_second(course: Course) -> float:
    """What a large copy on the device reaches, counting bytes read and written."""
    size = 2**22 if course.tiny else 2**30
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=course.device)
    target = torch.empty_like(source)
    return 2 * size / seconds_per_call(lambda: target.copy_(source), course) / 1e9


def _line(row: Row) -> str:
    cells = [f"{row.contest:22}", f"{row.candidate:16}", f"{row.what:18}"]
    if row.milliseconds is not None:
        cells.append(f"{row.milliseconds:9.3f} ms")
        if row.share_of_copy is not None:
            cells.append(f"{row.gigabytes_per_second:7.0f} GB/s {row.share_of_copy:5.0%} of copy")
        if row.teraflops is not None:
            cells.append(f"{row.teraflops:6.1f} TFLOP/s")
        if row.extra_gibibytes is not None:
            cells.append(f"+{row.extra_gibibytes:.2f} GiB")
    return "  ".join([*cells, row.note])


def verdict(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """For each operation: who is fastest forward and backward over all its contests.

    Ours is to stay `auto` where nothing selectable is more than 3 % faster. torch.compile'd eager
    is no implementation of its own: where it wins, a compiled model should have `eager`.
    """
    found = {}
    for operation in OPERATIONS:
        totals: dict[str, float] = {}
        contests = {row.contest for row in rows if row.operation == operation}
        for name in (*IMPLEMENTATIONS[operation], COMPILED):
            times = [
                row.milliseconds
                for row in rows
                if (row.operation, row.candidate) == (operation, name)
                and row.what == "forward + backward"
                and row.milliseconds is not None
            ]
            if contests and len(times) == len(contests):
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
    contests: Callable[[Course], list[Contest]],
    argv: Sequence[str] | None = None,
    *,
    module: str,
    more: Callable[[Course, list[Row]], dict[str, Any]] = lambda _course, _rows: {},
) -> dict[str, Any]:
    """The command line of every kernel benchmark. Returns what `--json` writes."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=title)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, help="for each measurement (GPU 0.5, CPU 0.1)")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="race torch.compile'd references, too (default: on a GPU only)",
    )
    given = parser.parse_args(argv)
    device = torch.device(given.device)
    on_gpu = device.type == "cuda"
    course = Course(
        device=device,
        compiled=on_gpu if given.compile is None else given.compile,
        seconds=given.seconds or (0.5 if on_gpu else 0.1),
    )
    torch.manual_seed(0)
    copy_rate = copy_gigabytes_per_second(course)
    if course.tiny:
        print("No GPU: tiny sizes in fp32, which say that everything runs, not which one wins.")
    print(f"{_machine(device)['device']}; a copy reaches {copy_rate:.0f} GB/s")
    rows = [row for contest in contests(course) for row in race(contest, course, copy_rate)]
    try:
        judged = more(course, rows)
    except Exception as error:  # a kernel that broke the device took it along; the rows stay true
        print(f"not judged: {_reason(error)}")
        judged = {"not judged": _reason(error)}
    report = {
        "command": f"python -m {module} " + " ".join(sys.argv[1:] if argv is None else argv),
        "tiny": course.tiny,
        "machine": _machine(device),
        "copy_gigabytes_per_second": copy_rate,
        "rows": [asdict(row) for row in rows],
        "verdict": {} if course.tiny else verdict(rows),
        **judged,
    }
    _print_verdict(report)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


def _print_verdict(report: dict[str, Any]) -> None:
    for operation, found in report["verdict"].items():
        ours = found["triton_over_fastest"]
        ratio = "not run here" if ours is None else f"{ours:.2f} of the fastest's time"
        compiled = found["compiled_over_fastest"]
        print(
            f"{operation:14} fastest: {found['fastest']:8} ours: {ratio}"
            + ("" if compiled is None else f", compiled eager: {compiled:.2f}")
        )
    if report["verdict"]:
        chosen = {operation: found["auto"] for operation, found in report["verdict"].items()}
        print(f"AUTO_ON_GPU = {chosen}")


def _machine(device: torch.device) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("triton", "liger_kernel", "flash_attn", "flash_attn_interface"):
        if find_spec(package):
            versions[package] = _version(package)
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        **versions,
    }


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package.replace("_", "-"))
    except PackageNotFoundError:
        return "unknown"
