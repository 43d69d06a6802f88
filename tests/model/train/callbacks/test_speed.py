"""Measurements: phases on a host's clock and on a device's, speed, peaks, traces."""

import gzip
import itertools
import json
import mmap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.config import validate
from common.errors import ConfigError
from model.train.callbacks import phase_timer as phases
from model.train.callbacks import speed as measure
from model.train.callbacks.console import progress_line
from model.train.callbacks.phase_timer import PhaseTimer
from model.train.callbacks.profiler import Profiler, ProfileSettings
from model.train.callbacks.speed import SpeedMonitor
from model.train.run.folder import PROFILE_FOLDER
from model.train.run.lease import Lease
from model.train.throughput import peak_flops as peaks
from model.train.throughput.peak_flops import matmul_flops, peak_of_name

CPU = torch.device("cpu")


class Clock:
    """A clock that moves only when set, also as the device's: events are passed by `reach`."""

    def __init__(self) -> None:
        self.now = 100.0
        self.reached = 0.0

    def perf_counter(self) -> float:
        return self.now

    def event(self, **_: Any) -> "Event":
        return Event(self)


class Event:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def record(self) -> None:
        self.at = self.clock.now

    def query(self) -> bool:
        return self.clock.reached >= self.at

    def elapsed_time(self, end: "Event") -> float:
        assert self.query() and end.query(), "read before the device was there"
        return 1000 * (end.at - self.at)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (measure, phases):
        monkeypatch.setattr(module.time, "perf_counter", clock.perf_counter)
    monkeypatch.setattr(torch.cuda, "Event", clock.event)
    return clock


def run_step(speed: PhaseTimer | SpeedMonitor, clock: Clock, seconds: dict[str, float]) -> None:
    for name, length in seconds.items():
        speed.begin(name)
        clock.now += length
    speed.end_step() if isinstance(speed, SpeedMonitor) else speed.end()


def test_phases_add_up_over_steps(clock: Clock) -> None:
    found = PhaseTimer(CPU)
    run_step(found, clock, {"data": 1.0, "forward_backward": 5.0, "optimizer": 2.0})
    clock.now += 50  # a validation in between is no phase of a step
    run_step(found, clock, {"data": 0.5, "forward_backward": 6.0, "optimizer": 2.0})
    assert found.read() == pytest.approx({"data": 1.5, "forward_backward": 11.0, "optimizer": 4.0})
    assert found.read() == {}


def test_phases_of_a_device_are_read_once_it_passed_them(clock: Clock) -> None:
    found = PhaseTimer(torch.device("cuda"))
    run_step(found, clock, {"data": 1.0, "forward_backward": 5.0, "optimizer": 2.0})
    clock.reached = clock.now - 1.5  # still in the optimizer
    assert found.read() == pytest.approx({"data": 1.0, "forward_backward": 5.0})
    run_step(found, clock, {"data": 1.0, "forward_backward": 4.0, "optimizer": 2.0})
    clock.reached = clock.now
    read = found.read()
    assert read == pytest.approx({"data": 1.0, "forward_backward": 4.0, "optimizer": 4.0})


def make_meter(**changes: Any) -> SpeedMonitor:
    values = {
        "tokens_per_step": 1000,
        "flops_per_token": 2e6,
        "device": CPU,
        "world_size": 4,
        "measured_flops": 4e9,
        **changes,
    }
    return SpeedMonitor(**values)


def test_speed_counts_steps_and_time_left_counts_everything(clock: Clock) -> None:
    speed = make_meter()
    run_step(speed, clock, {"data": 0.5, "forward_backward": 1.5})
    clock.now += 6.0  # a validation
    run_step(speed, clock, {"data": 0.5, "forward_backward": 1.5})
    metrics = speed.read(steps_left=10)
    assert metrics["perf/step_seconds"] == pytest.approx(2.0)
    assert metrics["perf/tokens_per_second"] == pytest.approx(500)
    assert metrics["perf/tokens_per_second_per_device"] == pytest.approx(125)
    assert metrics["perf/tflops_per_device"] == pytest.approx(500 * 2e6 / 4 / 1e12)
    assert metrics["perf/mfu_measured_peak"] == pytest.approx(500 * 2e6 / 4e9)
    assert "perf/mfu" not in metrics, "no datasheet tells of a CPU"
    assert metrics["perf/data_seconds"] == pytest.approx(0.5)
    assert metrics["perf/forward_backward_seconds"] == pytest.approx(1.5)
    assert metrics["perf/seconds_left"] == pytest.approx(10 * (2 + 2 + 6) / 2)
    run_step(speed, clock, {"data": 0.5, "forward_backward": 0.5})
    metrics = speed.read(steps_left=9)
    assert metrics["perf/tokens_per_second"] == pytest.approx(1000), "of the newest steps"
    assert metrics["perf/seconds_left"] == pytest.approx(9 * (0.9 * 5 + 0.1 * 1))


def test_mfu_is_of_the_datasheets_peak_too(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "datasheet_peak", lambda device: 2e9)
    speed = make_meter()
    run_step(speed, clock, {"data": 2.0})
    assert speed.read(1)["perf/mfu"] == pytest.approx(500 * 2e6 / (4 * 2e9))


def test_memory_of_a_cpu_process_is_its_resident_memory() -> None:
    before = measure.memory(CPU)
    # Mapped anew: an allocator may serve a tensor from pages that are resident already.
    with mmap.mmap(-1, 64 * 2**20) as held:
        held.write(b"\x01" * len(held))
        after = measure.memory(CPU)
    assert after["perf/memory_resident_gib"] - before["perf/memory_resident_gib"] > 0.05
    assert after["perf/memory_peak_gib"] >= after["perf/memory_resident_gib"] - 0.01


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_datasheets_by_name(name: str, peak: float | None) -> None:
    assert peak_of_name(name) == peak


def test_the_measured_peak_is_of_the_fastest_product(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.cycle([0.004, 0.001, 0.002])
    shapes = set()

    def product(left: Tensor, right: Tensor, *, out: Tensor) -> None:
        shapes.add((*left.shape, *right.shape))
        clock.now += next(seconds)

    monkeypatch.setattr(peaks.time, "perf_counter", clock.perf_counter)
    monkeypatch.setattr(torch, "mm", product)
    assert matmul_flops(CPU, torch.float32) == pytest.approx(2 * 512**3 / 0.001)
    assert shapes == {(512, 512, 512, 512)}


def test_a_line_for_people() -> None:
    metrics = {
        "train/loss": 2.5,
        "train/grad_norm": 0.4,
        "train/learning_rate": 3e-4,
        "perf/tokens_per_second": 91234.0,
        "perf/mfu": 0.512,
        "perf/mfu_measured_peak": 0.7,
        "perf/memory_peak_gib": 61.25,
        "perf/seconds_left": 90061.0,
    }
    line = progress_line(250, 1000, metrics)
    assert line == (
        "step 250/1000 (25.0 %)  loss 2.5000  grad norm 0.400  lr 3.00e-04  91,234 tokens/s  "
        "MFU 51.2 %  61.2 GiB  1 day, 1:01:01 left"
    )
    del metrics["perf/mfu"]
    assert "MFU 70.0 % of measured peak" in progress_line(250, 1000, metrics)


def work(profiler: Profiler, steps: range, speed: PhaseTimer) -> None:
    for step in steps:
        profiler.boundary(step - 1)
        speed.begin("forward_backward")
        torch.ones(8, 8) @ torch.ones(8, 8)
        speed.end()
    profiler.boundary(steps[-1])


def traced(path: Path) -> dict[str, Any]:
    trace: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return trace


def test_traces_of_the_steps_that_were_asked_for(tmp_path: Path) -> None:
    profiler = Profiler(
        ProfileSettings(start_step=3, num_steps=2), tmp_path, 1, Lease.take(tmp_path), cuda=False
    )
    work(profiler, range(1, 8), PhaseTimer(CPU))
    profiler.request(7, num_steps=1)
    work(profiler, range(8, 10), PhaseTimer(CPU))
    folders = sorted(p.name for p in (tmp_path / PROFILE_FOLDER).iterdir())
    assert folders == ["step-00000003", "step-00000009"]
    for folder, steps in zip(folders, (2, 1), strict=True):
        names = [e.get("name", "") for e in traced(tmp_path / PROFILE_FOLDER / folder / "rank-1.json.gz")["traceEvents"]]  # fmt: skip  # noqa: E501
        assert names.count("aten::mm") == steps
        assert names.count("steel:forward_backward") >= steps, "the trainer's phases are labelled"
    assert not list(profiler.lease.folder.glob("*.gz"))


def test_a_trace_that_is_cut_short_has_what_there_was(tmp_path: Path) -> None:
    profiler = Profiler(
        ProfileSettings(start_step=2, num_steps=50), tmp_path, 0, Lease.take(tmp_path), cuda=False
    )
    work(profiler, range(1, 5), PhaseTimer(CPU))
    profiler.close()
    names = [e.get("name") for e in traced(tmp_path / "profile/step-00000002/rank-0.json.gz")["traceEvents"]]  # fmt: skip  # noqa: E501
    assert names.count("aten::mm") == 3
    profiler.close()


@pytest.mark.parametrize("wrong", [{"start_step": 1}, {"start_step": -2}, {"num_steps": 0}])
def test_steps_that_cannot_be_traced_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"profile.{next(iter(wrong))}"):
        validate(ProfileSettings(**wrong), "profile")
