"""Traces of single steps for chrome://tracing or Perfetto, when settings or a request ask for them.

    RUN/profile/step-00000010/rank-0.json.gz     steps 10, 11, …: kernels, copies, collectives

The step before the first recorded one warms the profiler up and is not in the trace. Each rank
writes its own file, under another name until it is whole.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from common.config import Config
from common.errors import ConfigError
from common.ranges import Ge, Limit, Steps
from model.train.callbacks.callback import Callback
from model.train.run.folder import PROFILE_FOLDER
from model.train.run.lease import Lease

if TYPE_CHECKING:
    from model.train.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProfileSettings(Config):
    """Steps that are traced. `steel profile RUN` asks a running training for more."""

    start_step: Steps = 0
    """Number of the first step in the trace, 2 or more; 0 = no trace."""
    num_steps: Annotated[int, Ge(1), Limit(1000)] = 3
    """Steps in the trace; 1 or more. A GPU's step of an hour's training takes about 100 MB."""
    shapes: bool = False
    """Record shapes of operators' inputs; slower."""
    memory: bool = False
    """Record allocations; slower."""

    def check(self) -> Iterator[ConfigError]:
        if self.start_step == 1:
            yield ConfigError(
                "start_step = 1; give 2 or more (the step before warms the profiler up), or 0 for "
                "no trace"
            )


class Profiler(Callback):
    """One rank's traces.

    Args:
        settings: what to record, and when at first.
        run: the folder that the run writes to.
        rank: this rank.
        lease: of the run.
        cuda: whether there are kernels to record.
    """

    def __init__(
        self, settings: ProfileSettings, run: Path, rank: int, lease: Lease, *, cuda: bool
    ) -> None:
        self.settings = settings
        self.folder = run / PROFILE_FOLDER
        self.rank = rank
        self.lease = lease
        self.cuda = cuda
        self._starts = {settings.start_step: settings.num_steps} if settings.start_step else {}
        self._active: Any = None
        self._last = 0

    def request(self, completed: int, num_steps: int) -> None:
        """Trace so many steps after the one that follows `completed` steps, too."""
        self._starts[completed + 2] = num_steps

    def after_checkpoint(self, trainer: "Trainer") -> None:
        self.boundary(trainer.progress.step)

    def boundary(self, completed: int) -> None:
        """Between two steps, `completed` of which are done; starts and ends traces."""
        if self._active is not None:
            self._active.step()
            if completed >= self._last:
                self.close()
        num_steps = self._starts.pop(completed + 2, 0)
        if not num_steps:
            return
        if self._active is not None:
            log.warning("a trace up to step %d goes on; the next one is left out", self._last)
            return
        self._start(completed + 2, num_steps)

    def close(self) -> None:
        """End a trace, if there is one, and write what it has."""
        if self._active is not None:
            active, self._active = self._active, None
            active.stop()

    def _start(self, first: int, num_steps: int) -> None:
        from torch.profiler import ProfilerActivity, profile, schedule

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])]
        target = self.folder / f"step-{first:08d}" / f"rank-{self.rank}.json.gz"

        def write(trace: Any) -> None:
            with self.lease.guard():
                prepared = self.lease.stage(target.name)
                trace.export_chrome_trace(str(prepared))
                self.lease.publish_file(prepared, target)
            log.info("trace of steps %d to %d in %s", first, first + num_steps - 1, target)

        self._last = first + num_steps - 1
        self._active = profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=1, active=num_steps, repeat=1),
            acc_events=True,  # there is one cycle; torch 2.11 warns of what others would lose
            on_trace_ready=write,
            record_shapes=self.settings.shapes,
            profile_memory=self.settings.memory,
        )
        self._active.start()
