"""Energy of GPUs is added up over readings, ranks and sessions, and never costs a training.

NVML is a module made up here; no GPU is needed.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.train.callbacks import energy
from model.train.callbacks.callback import Callback
from model.train.callbacks.energy import EnergyMeter, EnergyMonitor, add_energy
from model.train.callbacks.sessions import SessionLog
from model.train.distributed.signals import Stopped
from model.train.run.folder import METRICS_FILE, SESSIONS_FILE
from model.train.run.metrics import JsonLines, read_metrics
from model.train.run.sessions import energy_counts, read_sessions, run_joules
from model.train.trainer import Trainer

MakeRun = Callable[..., Trainer]
GPU = "GPU-0"


class NVMLError(Exception):
    """As in the library."""


class FakeNvml:
    """Devices by UUID; what is None is not supported. Counts its users, as NVML does."""

    def __init__(self) -> None:
        self.millijoules: dict[str, int | None] = {GPU: 5_000_000}
        self.milliwatts: dict[str, int | None] = {GPU: 200_000}
        self.driver = True
        self.users = 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.users += 1

    def nvmlShutdown(self) -> None:
        self.users -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid not in self.millijoules:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, device: str) -> int:
        return self._told(self.millijoules[device])

    def nvmlDeviceGetPowerUsage(self, device: str) -> int:
        return self._told(self.milliwatts[device])

    def _told(self, value: int | None) -> int:
        if value is None:
            raise NVMLError("Not Supported")
        return value

    def draw(self, joules: float) -> None:
        for device, before in self.millijoules.items():
            assert before is not None
            self.millijoules[device] = before + round(1000 * joules)


class Clock:
    """Seconds that pass when told to."""

    now = 50.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    yield fake


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(energy, "time", clock)
    return clock


def test_a_counter_is_read_from_where_it_stands(nvml: FakeNvml, clock: Clock) -> None:
    meter = EnergyMeter(GPU)
    assert nvml.users == 1 and meter.read() == 0
    for joules, total in ((12.5, 12.5), (0, 12.5), (7, 19.5)):
        clock.now += 100
        nvml.draw(joules)
        meter.sample()
        assert meter.read() == pytest.approx(total)
    meter.close()
    meter.close()
    assert nvml.users == 0


def test_a_counter_that_begins_anew_adds_power_times_seconds(nvml: FakeNvml, clock: Clock) -> None:
    meter = EnergyMeter(GPU)
    nvml.draw(10)
    assert meter.read() == pytest.approx(10)
    clock.now += 3
    nvml.millijoules[GPU] = 4000
    assert meter.read() == pytest.approx(10 + 3 * 200), "neither less than before nor a lifetime"
    nvml.draw(5)
    assert meter.read() == pytest.approx(615)


def test_without_a_counter_power_is_integrated(nvml: FakeNvml, clock: Clock) -> None:
    nvml.millijoules[GPU] = None
    meter = EnergyMeter(GPU)
    expected = 0.0
    for watts, seconds in ((100, 2), (300, 1), (50, 4)):
        clock.now += seconds
        nvml.milliwatts[GPU] = 1000 * watts
        meter.sample()
        nvml.milliwatts[GPU] = 10**9
        meter.sample()  # a moment ago
        expected += watts * seconds
    assert meter.joules == pytest.approx(expected)


@pytest.mark.parametrize("fault", ["no library", "no driver", "no device", "nothing supported"])
def test_what_is_not_there_is_not_measured(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault == "no library":
        monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]
    elif fault == "no driver":
        nvml.driver = False
    elif fault == "nothing supported":
        nvml.millijoules[GPU] = nvml.milliwatts[GPU] = None
    meter = EnergyMeter("GPU-9" if fault == "no device" else GPU)
    meter.sample()
    assert meter.read() is None
    meter.close()
    assert nvml.users == 0


def test_a_device_that_falls_silent_stays_unknown(nvml: FakeNvml) -> None:
    meter = EnergyMeter(GPU)
    nvml.draw(10)
    assert meter.read() == pytest.approx(10)
    counter, nvml.millijoules[GPU], nvml.milliwatts[GPU] = nvml.millijoules[GPU], None, None
    assert meter.read() is None
    nvml.millijoules[GPU] = counter
    assert meter.read() is None, "part of it is not all of it"


class Drawing(Callback):
    """Draws 100 J a step, then does as a test wants; 7 J more after the last line of a session."""

    def __init__(self, nvml: FakeNvml, then: Callable[[Trainer], None]) -> None:
        self.nvml, self.then = nvml, then

    def on_step_end(self, trainer: Trainer, outcome: Any) -> None:
        self.nvml.draw(100)
        self.then(trainer)

    def on_train_end(self, trainer: Trainer, error: BaseException | None) -> None:
        self.nvml.draw(7)


def measured(
    run: Trainer, nvml: FakeNvml, then: Callable[[Trainer], None] = lambda trainer: None
) -> Trainer:
    """A trainer with the callback, on a GPU that draws 100 J a step."""
    sessions = run.callbacks["sessions"]
    assert isinstance(sessions, SessionLog)
    run.callbacks["drawing"] = Drawing(nvml, then)
    run.callbacks["energy"] = EnergyMonitor(GPU, sessions)
    return run


def joules_of_steps(folder: Path) -> dict[int, float]:
    return {
        line["step"]: line["metrics"]["perf/joules"]
        for line in read_metrics(folder / METRICS_FILE)
        if "perf/joules" in line["metrics"]
    }


LONG = {"steps": 6, "checkpoints": {"interval": 2}, "log_interval": 1}


def test_sessions_add_up_with_steps_that_were_thrown_away(
    make_run: MakeRun, nvml: FakeNvml, tmp_path: Path
) -> None:
    def fail(trainer: Trainer) -> None:
        if trainer.progress.step == 4:
            raise RuntimeError("no more")

    def stop(trainer: Trainer) -> None:
        if trainer.progress.step == 4:
            trainer.stop.requested = True

    run = measured(make_run(**LONG), nvml, fail)
    with pytest.raises(RuntimeError, match="no more"):
        run.fit()
    run.close()
    nvml.millijoules[GPU] = 7  # another machine, or its driver was loaded again
    run = measured(make_run(**LONG), nvml, stop)
    with pytest.raises(Stopped):
        run.fit()
    run.close()
    nvml.draw(10_000)  # what others do in between
    run = measured(make_run(**LONG), nvml)
    run.fit()
    run.close()
    path = tmp_path / "run" / SESSIONS_FILE
    first, second, third = read_sessions(path)
    assert first.joules == pytest.approx(300), "up to its last line"
    begun = second.step
    assert begun in (2, 3) and second.last_step is not None
    assert second.joules == pytest.approx(100 * (second.last_step - begun) + 7)
    assert third.joules == pytest.approx(100 * (6 - second.last_step) + 7)
    total = 300 + 100 * (6 - begun) + 7 + 7
    assert run_joules(path) == pytest.approx(total)
    assert energy_counts(path) == {"energy_joules": pytest.approx(total)}
    logged = joules_of_steps(tmp_path / "run")
    assert sorted(logged) == [1, 2, 3, 4, 5, 6]
    assert logged[6] == pytest.approx(total - 7) and logged[1] == pytest.approx(100)
    assert all("perf/watts" in line["metrics"] for line in read_metrics(path.parent / METRICS_FILE)
               if "perf/joules" in line["metrics"])  # fmt: skip


def test_one_session_without_leaves_the_whole_unmeasured(
    make_run: MakeRun, nvml: FakeNvml, tmp_path: Path
) -> None:
    path = tmp_path / "run" / SESSIONS_FILE
    short = {"checkpoints": {"interval": 2}, "schedule": "constant", "log_interval": 1}
    make_run(**short, steps=2).fit()  # on a CPU: no such callback
    run = measured(make_run(**short, steps=4), nvml)
    run.fit()
    assert [session.joules for session in read_sessions(path)] == [None, pytest.approx(207)]
    assert run_joules(path) is None and energy_counts(path) == {}
    assert joules_of_steps(tmp_path / "run") == {}


def test_a_driver_that_fails_in_a_training_does_not_end_it(
    make_run: MakeRun, nvml: FakeNvml, tmp_path: Path
) -> None:
    def fail(trainer: Trainer) -> None:
        if trainer.progress.step == 3:
            nvml.nvmlDeviceGetTotalEnergyConsumption = None  # type: ignore[assignment,method-assign]
            nvml.milliwatts.clear()

    run = measured(make_run(steps=5, log_interval=1), nvml, fail)
    run.fit()
    assert run.progress.step == 5
    assert sorted(joules_of_steps(tmp_path / "run")) == [1, 2]
    assert energy_counts(tmp_path / "run" / SESSIONS_FILE) == {}


def test_a_damaged_file_of_sessions_ends_no_training(
    make_run: MakeRun, nvml: FakeNvml, tmp_path: Path
) -> None:
    run = make_run(steps=2)
    path = tmp_path / "run" / SESSIONS_FILE
    for damage in ('{"event": "end", "step": 3}\n', "\x00\x00\n", "[]\n", '{"session": 1}\n'):
        path.write_text(damage)
        assert run_joules(path) is None and energy_counts(path) == {}
    measured(run, nvml).fit()
    assert run.progress.step == 2


def together(values: list[tuple[str, float | None]], path: Path) -> tuple[Any, EnergyMonitor]:
    """A trainer whose other ranks read these values."""
    ranks = SimpleNamespace(gather=lambda own: [own, *values])
    log = SimpleNamespace(number=1, run=path.parent)
    sessions = SessionLog.__new__(SessionLog)
    sessions.lines, sessions.session = JsonLines(path), log.number
    trainer = SimpleNamespace(ranks=ranks, progress=SimpleNamespace(step=1))
    return trainer, EnergyMonitor(GPU, sessions)


def test_each_gpu_counts_once_and_all_must_tell(nvml: FakeNvml, tmp_path: Path) -> None:
    others: list[tuple[str, float | None]] = [("GPU-1", 40.0), (GPU, 2.0), ("GPU-2", 0.5)]
    trainer, monitor = together(others, tmp_path / SESSIONS_FILE)
    monitor.on_train_begin(trainer)
    others[1] = (GPU, 12.0)
    nvml.draw(12)
    found = monitor.metrics(trainer, None)  # type: ignore[arg-type]
    assert found["perf/joules"] == pytest.approx(52.5)
    others[0] = ("GPU-1", None)
    assert monitor.metrics(trainer, None) == {}  # type: ignore[arg-type]
    trainer.ranks.gather = None  # from here on nobody asks
    assert monitor.metrics(trainer, None) == {}  # type: ignore[arg-type]
    monitor.on_train_end(trainer, None)
    lines = [line["joules"] for line in read_metrics(tmp_path / SESSIONS_FILE)]
    assert lines == [pytest.approx(42.5), pytest.approx(52.5), None]


def test_only_a_gpu_gets_the_callback(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    callbacks: dict[str, Callback] = {}
    add_energy(callbacks, torch.device("cpu"))
    assert not callbacks and not nvml.users
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=str(device.index))
    )
    add_energy(callbacks, torch.device("cuda", 0))
    found = callbacks["energy"]
    assert isinstance(found, EnergyMonitor) and found.meter.read() == 0, "GPU-0 was found"


def test_a_training_on_a_cpu_asks_nobody(make_run: MakeRun, nvml: FakeNvml) -> None:
    run = make_run(steps=1)
    assert "energy" not in run.callbacks and not nvml.users
