"""Energy of a run's GPUs, by the counter of their driver.

Every rank on a GPU has this callback, none on a CPU.
NVML is read through nvidia-ml-py (module `pynvml`, extra `energy` of this package). Without it, or
without an answer of the driver, energy is not measured, and training goes on.
"""

import contextlib
import importlib
import time
from typing import TYPE_CHECKING, Any

import torch

from model.train.callbacks.callback import Callback
from model.train.callbacks.sessions import SessionLog
from model.train.distributed.signals import Stopped
from model.train.run.sessions import run_joules

if TYPE_CHECKING:
    from model.train.distributed.step_outcome import StepOutcome
    from model.train.trainer import Trainer

SAMPLE_SECONDS = 1.0
"""Time between two readings of the power of a GPU that has no counter of energy."""


class EnergyMeter:
    """Joules that one GPU drew since this was made; nothing here raises.

    A GPU from Volta on counts millijoules since its driver was loaded. The power that is drawn
    (NVML: mean of a second, on most GPUs), times the time since the last reading, stands in for
    the counter where there is none, where it does not answer, and where it began anew.

    Args:
        uuid: of the GPU, as NVML writes it: "GPU-" and 32 hexadecimal digits in five groups.
    """

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self.joules: float | None = None
        """At the last reading; None where the driver does not tell, from then on."""
        self._nvml: Any = None
        self._millijoules: int | None = None
        self._read_at = time.monotonic()
        # A driver that is older than its binding, or hides the device, fails in ways of its own.
        with contextlib.suppress(Exception):
            nvml = importlib.import_module("pynvml")
            nvml.nvmlInit()
            self._nvml = nvml
            self._device = nvml.nvmlDeviceGetHandleByUUID(uuid)
            self._millijoules = self._counter()
            if self._millijoules is not None or self._watts() is not None:
                self.joules = 0.0

    def read(self) -> float | None:
        """Read the device; returns `joules`."""
        now = time.monotonic()
        seconds, self._read_at = now - self._read_at, now
        if self.joules is None:
            return None
        before, self._millijoules = self._millijoules, self._counter()
        if before is not None and self._millijoules is not None and self._millijoules >= before:
            self.joules += (self._millijoules - before) / 1000
        else:
            watts = self._watts()
            self.joules = None if watts is None else self.joules + watts * seconds
        return self.joules

    def sample(self) -> None:
        """Read a device without a counter, unless that was done a moment ago."""
        if self.joules is None or self._millijoules is not None:
            return
        if time.monotonic() - self._read_at >= SAMPLE_SECONDS:
            self.read()

    def close(self) -> None:
        """Let go of NVML, which counts its users."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            with contextlib.suppress(Exception):
                nvml.nvmlShutdown()

    def _counter(self) -> int | None:
        with contextlib.suppress(Exception):
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device))
        return None

    def _watts(self) -> float | None:
        with contextlib.suppress(Exception):
            return float(self._nvml.nvmlDeviceGetPowerUsage(self._device)) / 1000
        return None


class EnergyMonitor(Callback):
    """Adds up the energy of all ranks' GPUs, from its making on, and over the sessions of a run.

    Each measurement of a step reads the devices. The sum goes into `perf/joules`, and as a line
    into the file of sessions, which no resume and no rollback cuts back: steps that were thrown
    away cost energy, too. What a killed session drew after its last line is not counted.

    Args:
        uuid: of this rank's GPU (`gpu_uuid`).
        sessions: the run's file of sessions; of rank 0 alone.
    """

    def __init__(self, uuid: str, sessions: SessionLog | None) -> None:
        self.meter, self.sessions = EnergyMeter(uuid), sessions
        self._earlier = 0.0 if sessions is None else run_joules(sessions.lines.path)
        self._measured = True  # alike on all ranks, who read together
        self._last = (0.0, time.monotonic())

    def on_train_begin(self, trainer: "Trainer") -> None:
        joules = self._of_all_ranks(trainer)
        if joules is not None:
            self._last = (joules, time.monotonic())
            self._note(trainer, joules)

    def on_phase(self, trainer: "Trainer", phase: str) -> None:
        self.meter.sample()

    def metrics(self, trainer: "Trainer", outcome: "StepOutcome") -> dict[str, float]:
        if not self._measured:
            return {}
        joules, now = self._of_all_ranks(trainer), time.monotonic()
        self._note(trainer, joules)
        if joules is None:
            return {}
        (before, then), self._last = self._last, (joules, now)
        measured = {"perf/watts": (joules - before) / max(now - then, 1e-9)}
        if self._earlier is not None:
            measured["perf/joules"] = self._earlier + joules
        return measured

    def on_train_end(self, trainer: "Trainer", error: BaseException | None) -> None:
        # All ranks come here together in these two cases alone.
        if self._measured and (error is None or isinstance(error, Stopped)):
            self._note(trainer, self._of_all_ranks(trainer))
            if self.sessions is not None:
                self.sessions.lines.position()  # on the disk

    def close(self) -> None:
        self.meter.close()

    def _of_all_ranks(self, trainer: "Trainer") -> float | None:
        """Joules of this session, of every GPU once; None, and never again, where one is silent."""
        if not self._measured:
            return None
        read = trainer.ranks.gather((self.meter.uuid, self.meter.read()))
        self._measured = all(joules is not None for _, joules in read)
        return sum(dict(read).values()) if self._measured else None

    def _note(self, trainer: "Trainer", joules: float | None) -> None:
        if self.sessions is not None:
            self.sessions.energy(trainer.progress.step, joules)


def add_energy(callbacks: dict[str, Callback], device: torch.device) -> None:
    """Add the entry `energy` to a rank's table of callbacks, after `sessions`; none on a CPU."""
    if device.type != "cuda":
        return
    sessions = callbacks.get("sessions")
    assert sessions is None or isinstance(sessions, SessionLog)
    callbacks["energy"] = EnergyMonitor(gpu_uuid(device), sessions)


def gpu_uuid(device: torch.device) -> str:
    """The name under which NVML knows a GPU.

    The index would be another one where CUDA_VISIBLE_DEVICES or CUDA_DEVICE_ORDER say so.
    """
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
