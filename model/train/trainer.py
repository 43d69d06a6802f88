"""The training loop.

    resume ─▶ ┌ batch b: samples [b G, (b+1) G) split over ranks ─▶ loss, gradients          ┐
      ▲       │   one all-reduce: grad norm, loss per source, wishes: stop, requests …       │
      │       │   healthy? clip, AdamW: a step; not? weights untouched: skip, go back, stop  │
      │       └ every n steps: metrics, validation, checkpoint; when asked to stop, too      ┘
      └─────────────────────────────────────── more steps and data? ───────────────────────▶ end

The host waits for the device once a step (to read that all-reduce), never per micro-batch. What a
step does depends on (settings, step, batch, health, weights, AdamW state) alone, all of it in every
checkpoint, so a run that was killed and resumed repeats the very same numbers (on a GPU up to the
order in which attention's backward pass adds: docs/FOOTGUNS.md).
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch

from common.errors import ConfigError
from model.data import PackedDataset, StepLoader
from model.entry.launch import SHUTDOWN_SECONDS
from model.train.callbacks.export import Exporter
from model.train.callbacks.profiler import Profiler
from model.train.callbacks.speed import SpeedMonitor, data_position, progress_line
from model.train.callbacks.validation import validate
from model.train.callbacks.watchdog import Watchdog
from model.train.causal_validation import causal_loss, check_measurable
from model.train.checkpoint.progress import Progress
from model.train.checkpoint.retention import Entry
from model.train.checkpoint.staging import restore_steps, training_tensors
from model.train.checkpoint.writer import Checkpoints, Documents, Loaded
from model.train.config import PretrainSettings
from model.train.distributed.context import DistributedContext
from model.train.distributed.signals import StopFlag, Stopped
from model.train.distributed.step_outcome import StepOutcome, agree
from model.train.health import Health, HealthError, HealthState, NonFiniteError, describe
from model.train.loss import ModelWithLoss
from model.train.run.folder import DATA_STATE_FILE, PROGRESS_FILE
from model.train.run.handler import RequestHandler
from model.train.run.length import TrainingLength
from model.train.run.metrics import JsonLines, MetricSink
from model.train.run.sessions import recorded
from model.train.schedule import check_saved_length, learning_rate
from model.train.train_step import RANDOM_RULE, Gradients, TrainStep

log = logging.getLogger(__name__)

CLOSING_SECONDS = 10.0
"""How long a save in the background may take to become complete after training failed."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What is trained on, and the names of its sources."""

    loader: StepLoader
    validation: PackedDataset | None
    num_validation: int
    """Held-out samples used per validation; 0 = none."""
    sources: tuple[str, ...]
    state: Callable[[int], str]
    """The data position's JSON after so many samples."""
    check_state: Callable[[str], int]
    """Samples consumed, from that JSON; raises DataError when it belongs to other data."""


@dataclass(kw_only=True)
class Trainer:
    """Everything a run needs, built by `model.train.build`."""

    model_with_loss: ModelWithLoss
    optimizer: torch.optim.Optimizer
    open_data: Callable[[], TrainingData]
    """This rank's share of the data as the plan has them now."""
    request_handler: RequestHandler
    """Handles requests: appended data, another length."""
    settings: PretrainSettings
    ranks: DistributedContext
    checkpoints: Checkpoints
    documents: Documents
    """What every checkpoint says besides the position: settings, model, tokenizer."""
    exporter: Exporter | None
    """Rank 0's, where checkpoints are exported."""
    health: Health
    sink: MetricSink | None
    """Rank 0's; None on the others."""
    events: JsonLines | None
    """What health found, by batch. Rank 0's."""
    stop: StopFlag
    speed: SpeedMonitor
    profiler: Profiler
    watchdog: Watchdog | None = None
    sessions: JsonLines | None = None
    """Who took up the run, and when. Rank 0's."""
    data: TrainingData = field(init=False)
    train_step: TrainStep = field(init=False)
    progress: Progress = field(init=False, default_factory=Progress)
    _saved: int = field(init=False, default=-1)
    """Step of the newest checkpoint that was written or loaded; -1 = none."""

    def __post_init__(self) -> None:
        self.request_handler.profile = self.profiler.request
        self.data = self.open_data()
        check_measurable(self.model_with_loss, self.data.num_validation)
        self.train_step = TrainStep(
            model_with_loss=self.model_with_loss,
            optimizer=self.optimizer,
            settings=self.settings,
            ranks=self.ranks,
            beat=lambda: self._beat("step"),
        )

    @property
    def total_steps(self) -> int:
        """Steps of the whole run; a request may change it."""
        return self.request_handler.length.total_steps

    def fit(self) -> None:
        """Train to the end from wherever the output folder is.

        Raises:
            Stopped: a rank was asked to stop; a complete checkpoint was written.
            HealthError: see there; a checkpoint of the state before that batch was written.
            StageError: a checkpoint could not be written; the earlier ones are untouched.
            DataError, ConfigError: the checkpoint there belongs to other data or settings.
        """
        self.resume()
        with recorded(self.sessions, self.ranks, lambda: self.progress):
            self._train()

    def _train(self) -> None:
        self._change()
        self._boundary(None)
        while self._more:
            outcome = self._step()
            if outcome.save_failed:
                self.checkpoints.wait()
            if outcome.requests:
                self._change()
            self._boundary(outcome)
        self._beat("checkpoint")
        self.checkpoints.wait()
        if self.progress.step < self.total_steps and self.ranks.is_main:
            log.warning(
                "the data end after step %d of %d: %d batches were skipped",
                self.progress.step,
                self.total_steps,
                self.health.num_skipped,
            )

    def close(self) -> None:
        """Release threads and files, also after an error."""
        self.profiler.close()
        self.data.loader.close()
        self.checkpoints.close(CLOSING_SECONDS)
        if self.exporter is not None:
            self.exporter.stop()

    def resume(self) -> None:
        """Continue from the newest intact checkpoint, if there is one."""
        loaded = self.checkpoints.load_newest(
            training_tensors(self.model_with_loss, self.optimizer)
        )
        metrics = events = 0
        if loaded is not None:
            saved = self._restore(loaded)
            self.health.state = HealthState.from_dict(saved["health"])
            metrics, events = saved["metrics_position"], saved["events_position"]
            if self.ranks.is_main:
                log.info("resumed after step %d (%d samples)", self.progress.step, self._consumed)
        if self.sink is not None:
            self.sink.cut(metrics)
        if self.events is not None:
            self.events.cut(events)
        self.checkpoints.tidy()

    def _restore(self, loaded: Loaded) -> dict[str, Any]:
        """Take over a loaded checkpoint's position; returns the rest of trainer.json."""
        restore_steps(self.optimizer)
        self.progress, saved = Progress.from_json(loaded.documents[PROGRESS_FILE])
        length = TrainingLength.from_dict(saved["length"])
        check_saved_length(self.settings, self.request_handler.length, length, self.progress.step)
        consumed = self.data.check_state(loaded.documents[DATA_STATE_FILE])
        if consumed != self._consumed:
            raise ConfigError(
                f"pretrain: checkpoint {loaded.step} in {self.checkpoints.folder} consumed "
                f"{consumed} samples, which global_batch_size = "
                f"{self.settings.global_batch_size} does not give; "
                "use the global_batch_size it was trained with"
            )
        self._saved = loaded.step
        return saved

    def _change(self) -> None:
        """Do what was requested: from here on other data, or another end (run/handler.py)."""
        if self.request_handler.apply(self.progress.step, self._consumed):
            self.data.loader.close()
            self.data = self.open_data()

    @property
    def _more(self) -> bool:
        """Whether there is a step to make, and a batch to make it of."""
        batches = self.data.loader.num_steps
        return self.progress.step < self.total_steps and self.progress.batch < batches

    @property
    def _consumed(self) -> int:
        """Samples [0, this) were trained on, or skipped."""
        return self.progress.batch * self.settings.global_batch_size

    def _step(self) -> StepOutcome:
        """One batch: gradients, judgement, and what follows from it."""
        self._beat("data")
        step, batch = self.progress.step, self.progress.batch
        self.speed.begin("data")
        micro_batches = self.data.loader.step(batch)
        self.speed.begin("forward_backward")
        gradients = self.train_step.gradients(
            micro_batches, batch=batch, num_sources=len(self.data.sources)
        )
        self.speed.begin("agree")
        outcome = agree(
            self.train_step,
            gradients,
            sources=self.data.sources,
            judge=self.health.judge,
            stop=self.stop.requested,
            requests=self.request_handler.due(step + 1),
            save_failed=self.checkpoints.failed,
        )
        self.speed.begin("optimizer")
        if outcome.trained:
            rate = learning_rate(self.settings, step, self.request_handler.length)
            self.train_step.update(gradients, norm=outcome.grad_norm, rate=rate)
            self.health.trained(step, outcome.loss)
            self.progress.step += 1
            self.progress.batch += 1
        self.speed.end_step()
        if outcome.verdict.what:
            self._react(outcome, gradients, step, batch)
        if self.watchdog is not None:
            self.watchdog.stepped(self.progress.step)
        return outcome

    def _react(self, outcome: StepOutcome, gradients: Gradients, step: int, batch: int) -> None:
        """Something was found: note it, and skip, roll back or stop."""
        verdict = outcome.verdict
        first = batch * self.settings.global_batch_size
        bad = gradients.not_finite() if verdict.what == "non-finite" else []
        event: dict[str, Any] = {
            "step": step + 1,
            "batch": batch,
            "what": verdict.what,
            "action": "warn" if outcome.trained else verdict.action,
            "loss": _json_number(outcome.loss),
            "grad_norm": _json_number(outcome.grad_norm),
            "z": verdict.z,
            "samples": [first, first + self.settings.global_batch_size - 1],
            "culprits": sorted(sample for part in self.ranks.gather(bad) for sample in part),
        }
        if not outcome.trained:
            self.train_step.drop()
        if verdict.action == "rollback":
            event |= self._roll_back(batch)
        if event["action"] in ("skip", "rollback without checkpoint"):
            self.health.skipped(batch)
            self.progress.batch += 1
        if self.events is not None:
            self.events.append(**event)
        if self.ranks.is_main:
            log.warning("%s", describe(event))
        if verdict.action == "stop":
            self._save_extra()
            kind = NonFiniteError if verdict.what == "non-finite" else HealthError
            raise kind(
                f"{describe(event)} The weights are those after step {step}, saved in "
                f"{self.checkpoints.folder}. Look at these samples, lower learning_rate, or let "
                f"health.{verdict.what.replace('-', '_')} skip them."
            )

    def _roll_back(self, batch: int) -> dict[str, Any]:
        """Back to a checkpoint before this batch; the batches since then are skipped."""
        self._beat("rollback")
        self.checkpoints.wait()
        back = self.progress.step - self.settings.health.rollback_steps
        loaded = self.checkpoints.load_newest(
            training_tensors(self.model_with_loss, self.optimizer), rollback_from=back
        )
        if loaded is None:
            return {"action": "rollback without checkpoint"}
        saved = self._restore(loaded)
        first = self.progress.batch
        self.progress.batch = batch + 1
        self.health.rolled_back(
            HealthState.from_dict(saved["health"]), to_step=loaded.step, first=first, last=batch
        )
        self.checkpoints.forget_after(loaded.step)
        if self.sink is not None:
            self.sink.cut(saved["metrics_position"])
        return {"to_step": loaded.step, "skipped": [first, batch]}

    def _boundary(self, outcome: StepOutcome | None) -> None:
        """What is due between two batches; None: before the first one of this process.

        A stop comes before a validation, so a run may resume with a validation still to be made.
        """
        step, last = self.progress.step, not self._more
        if outcome is not None:
            if outcome.trained and (last or _every(step, self.settings.log_interval)):
                self._report(step, outcome)
            elif last:  # the data end in a batch that was skipped
                self._log(step, self._position())
            if outcome.stop:
                self._stop()
        loss = None
        validation_due = last or _every(step, self.settings.eval_interval)
        if step and self.data.num_validation and validation_due and self.progress.validated != step:
            loss = self._validate(step)
        save_due = last or _every(step, self.settings.checkpoints.interval)
        if step and save_due and (self._saved != step or loss is not None):
            self._save(loss, wait=last)
        self.profiler.boundary(step)

    def _stop(self) -> NoReturn:
        self._save_extra()
        raise Stopped(self.progress.step)

    def _report(self, step: int, outcome: StepOutcome) -> None:
        rate = learning_rate(self.settings, step - 1, self.request_handler.length)
        metrics = {
            "train/loss": outcome.loss,
            "train/grad_norm": outcome.grad_norm,
            "train/learning_rate": rate,
            **{f"train/loss_{name}": loss for name, loss in outcome.loss_by_source.items()},
            **self._position(),
            **self.speed.read(self.total_steps - step),
        }
        if outcome.verdict.z is not None:
            metrics["health/loss_z"] = outcome.verdict.z
        if self.health.num_skipped:
            metrics["health/skipped_batches"] = float(self.health.num_skipped)
        self._log(step, metrics)
        if self.ranks.is_main:
            log.info("%s", progress_line(step, self.total_steps, metrics))

    def _position(self) -> dict[str, float]:
        order = self.data.loader.dataset.order
        return data_position(order, self._consumed, self.progress.batch)

    def _validate(self, step: int) -> float:
        """Loss on the held-out samples. Raises Stopped when asked to meanwhile."""
        started = time.perf_counter()
        assert self.data.validation is not None
        metrics = validate(
            self.train_step,
            self.data.validation,
            num_samples=self.data.num_validation,
            sources=self.data.sources,
            beat=lambda: self._beat("validation"),
            stop=lambda: self.stop.requested,
        )
        if metrics is None:
            self._stop()
        metrics["perf/validation_seconds"] = time.perf_counter() - started
        self._log(step, metrics)
        if self.ranks.is_main:
            log.info("step %d  validation loss %.4f", step, causal_loss(metrics))
        self.progress.validated = step
        return causal_loss(metrics)

    def _save_extra(self) -> None:
        """A complete checkpoint of this step, unless there is one: a batch that was skipped since
        then will be judged alike again."""
        if self._saved != self.progress.step:
            self._save(None, wait=True)
        self.checkpoints.wait()

    def _save(self, validation_loss: float | None, *, wait: bool) -> None:
        """Begin a checkpoint, or write it whole (`wait`)."""
        self._beat("checkpoint")
        step = self.progress.step
        trainer = self.progress.to_json(
            length=self.request_handler.length.to_dict(),
            health=self.health.state.to_dict(),
            random=RANDOM_RULE,
            world_size=self.ranks.world_size,
            metrics_position=self.sink.position() if self.sink is not None else 0,
            events_position=self.events.position() if self.events is not None else 0,
        )
        entry = Entry(
            step=step,
            regular=_every(step, self.settings.checkpoints.interval),
            validation_loss=validation_loss,
        )
        stall = self.checkpoints.save(
            entry,
            training_tensors(self.model_with_loss, self.optimizer),
            {
                **self.documents,
                DATA_STATE_FILE: self.data.state(self._consumed),
                PROGRESS_FILE: trainer,
            },
            wait=wait,
        )
        self._saved = step
        self._log(step, {"perf/checkpoint_stall_seconds": stall} | self._last_save())
        if self.ranks.is_main:
            how = "written" if wait else "begun"
            log.info("step %d  checkpoint %s, training waited %.2f s", step, how, stall)

    def _last_save(self) -> dict[str, float]:
        """How long the last finished save took; warns when a stop would not have the time."""
        seconds = self.checkpoints.last_seconds
        if seconds is None:
            return {}
        if self.ranks.is_main and 2 * seconds > SHUTDOWN_SECONDS:
            log.warning(
                "a checkpoint takes %.0f s: SIGTERM, after which ranks have %d s, may come too "
                "late for one more; the training then resumes from the newest complete one",
                seconds,
                SHUTDOWN_SECONDS,
            )
        return {"perf/checkpoint_seconds": seconds}

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        if self.sink is not None:
            self.sink.log(step, metrics)

    def _beat(self, phase: str) -> None:
        if self.watchdog is not None:
            self.watchdog.beat(phase, self.progress.step)


def _json_number(value: float) -> float | str:
    """JSON has no infinity and no NaN."""
    return value if math.isfinite(value) else str(value)


def _every(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
