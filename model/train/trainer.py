"""The training loop.

    resume ─▶ ┌ batch b: samples [b G, (b+1) G) split over ranks ─▶ loss, gradients          ┐
      ▲       │   one all-reduce: grad norm, loss per source, flags: stop, requests …        │
      │       │   healthy? clip, update: a step; not? weights untouched: skip, go back, stop │
      │       └ every n steps: metrics, callbacks, checkpoint; when asked to stop, too       ┘
      └─────────────────────────────────────── more steps and data? ───────────────────────▶ end

The host waits for the device once a step (to read that all-reduce), never per micro-batch. What a
step does depends on (settings, step, batch, health, weights, optimizer state) alone, all of it in
every checkpoint, so a run that was killed and resumed repeats the very same numbers (on a GPU up to
the order in which attention's backward pass adds: docs/FOOTGUNS.md).

What only watches (validation, speed, logs, traces …) is a callback: model/train/callbacks.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, NoReturn, ParamSpec

from transformers import PreTrainedModel

from model.train.callbacks.callback import Callback
from model.train.checkpoint.progress import Progress
from model.train.checkpoint.retention import CheckpointInfo
from model.train.checkpoint.staging import training_tensors
from model.train.checkpoint.trainer_state import restore_callbacks, restore_position, trainer_files
from model.train.checkpoint.writer import Checkpoints, Files
from model.train.config import PretrainSettings
from model.train.distributed.context import DistributedContext
from model.train.distributed.signals import StopFlag, Stopped
from model.train.distributed.step_outcome import StepOutcome, reduce_over_ranks
from model.train.health import Health, HealthState, anomaly_event, error_of
from model.train.optim.schedule import is_multiple, learning_rate
from model.train.run.handler import FixedLength, RequestHandler
from model.train.run.lease import Lease
from model.train.train_step import Gradients, TrainStep
from model.train.training_data import StepData

log = logging.getLogger(__name__)

P = ParamSpec("P")

CLOSING_SECONDS = 10.0
"""Seconds that a save in the background has to become complete after training failed."""


@dataclass(kw_only=True)
class Trainer:
    """The loop and its state; built by `model.train.build`."""

    train_step: TrainStep
    open_data: Callable[[], StepData]
    """This rank's share of the data as the plan has them now."""
    request_handler: RequestHandler | FixedLength
    """Handles requests: appended data, another length."""
    settings: PretrainSettings
    ranks: DistributedContext
    lease: Lease
    """Of the run: this session may write, until a later one takes the run up."""
    checkpoints: Checkpoints
    constant_files: Files
    """Files of every checkpoint that are always the same: settings, model, tokenizer."""
    health: Health
    stop: StopFlag
    callbacks: dict[str, Callback]
    """By the name under which their state is in a checkpoint; called in this order."""
    save_validated: bool = False
    """Also write a checkpoint of each step that was validated, so that the best can be taken."""
    same_lines: bool = False
    """Measure the first step, every `log_interval`-th and the last, and none because it is saved:
    the lines are those of a run that was never stopped. Its length must be fixed."""
    data: StepData = field(init=False)
    progress: Progress = field(init=False, default_factory=Progress)
    validation_loss: float | None = field(init=False, default=None)
    """Loss on held-out samples after this very step, nats a token; None where not measured."""
    unlogged: StepOutcome | None = field(init=False, default=None)
    """Outcome of the last step that was made, while it is in no line of measurements."""
    saved_step: int = field(init=False, default=-1)
    """Step of the newest checkpoint that was written or loaded; -1 = none."""

    def __post_init__(self) -> None:
        self.data = self.open_data()
        self.train_step.on_micro_batch = lambda: self.phase("forward_backward")

    @property
    def model(self) -> PreTrainedModel:
        """The language model that is trained."""
        return self.train_step.model_with_loss.model

    @property
    def total_steps(self) -> int:
        """Steps of the whole run; a request may change it."""
        return self.request_handler.length.total_steps

    @property
    def at_end(self) -> bool:
        """True when there is no step to make any more, or no batch to make it of."""
        batches = self.data.num_batches
        return self.progress.step >= self.total_steps or self.progress.batch >= batches

    @property
    def num_consumed(self) -> int:
        """Samples [0, this) were trained on, or skipped."""
        return self.data.num_consumed(self.progress.batch)

    def fit(self) -> None:
        """Train to the end from wherever the output folder is.

        Raises:
            Stopped: a rank was asked to stop; a complete checkpoint was written.
            HealthError: see there; a checkpoint of the state before that batch was written.
            StageError: a checkpoint could not be written; the earlier ones are untouched.
            DataError, ConfigError: the checkpoint there belongs to other data or settings.
        """
        self.resume()
        self._notify(Callback.on_train_begin, self)
        try:
            self._train()
        except BaseException as error:
            self._notify(Callback.on_train_end, self, error)
            raise
        self._notify(Callback.on_train_end, self, None)

    def resume(self) -> None:
        """Continue from the newest intact checkpoint, if there is one."""
        loaded = self.checkpoints.load_newest(self._tensors())
        saved: dict[str, Any] = {}
        if loaded is not None:
            saved = restore_position(self, loaded)
            self.health.state = HealthState.from_dict(saved["health"])
            if self.ranks.is_main:
                done = self.progress.step
                log.info("resumed after step %d (%d samples)", done, self.num_consumed)
        restore_callbacks(self, saved, rollback=False)
        self.checkpoints.remove_leftovers()

    def _train(self) -> None:
        self._apply_requests()
        self._between_steps()
        while not self.at_end:
            outcome = self._step()
            if outcome.save_failed:
                self.checkpoints.wait()  # raises why
            if outcome.requests:
                self._apply_requests()
            self._report(outcome)
            if outcome.stop:  # before a validation, which the resumed run makes up for
                self.stop_with_checkpoint()
            self._between_steps()
        self.phase("checkpoint")
        self.checkpoints.wait()
        if self.progress.step < self.total_steps and self.ranks.is_main:
            log.warning(
                "the data end after step %d of %d: %d batches were skipped",
                self.progress.step,
                self.total_steps,
                self.health.num_skipped,
            )

    def _step(self) -> StepOutcome:
        """Read a batch, judge its gradients, and make a step of them or not."""
        step, batch = self.progress.step, self.progress.batch
        self.phase("data")
        micro_batches = self.data.step(batch)
        self.phase("forward_backward")
        gradients = self.train_step.gradients(
            micro_batches,
            batch=batch,
            num_sources=len(self.data.sources),
            num_tokens=self.data.num_tokens(batch),
        )
        self.phase("all_reduce")
        outcome = reduce_over_ranks(
            self.train_step,
            gradients,
            sources=self.data.sources,
            judge=self.health.judge,
            stop=self.stop.requested,
            requests=self.request_handler.due(step + 1),
            save_failed=self.checkpoints.failed,
        )
        self.phase("optimizer")
        if outcome.trained:
            rate = learning_rate(self.settings, step, self.request_handler.length)
            self.train_step.update(
                gradients, num_targets=outcome.num_targets, norm=outcome.grad_norm, rate=rate
            )
            self.health.trained(step, outcome.loss)
            self.progress.step += 1
            self.progress.batch += 1
        self._notify(Callback.on_step_end, self, outcome)
        if outcome.verdict.anomaly:
            self._handle_anomaly(outcome, gradients, step, batch)
        return outcome

    def _handle_anomaly(
        self, outcome: StepOutcome, gradients: Gradients, step: int, batch: int
    ) -> None:
        """Skip the batch, roll back or stop, as the verdict says, and tell the callbacks."""
        verdict = outcome.verdict
        bad = gradients.not_finite() if verdict.anomaly == "non-finite" else []
        event = anomaly_event(
            verdict,
            loss=outcome.loss,
            grad_norm=outcome.grad_norm,
            step=step,
            batch=batch,
            samples=(self.data.num_consumed(batch), self.data.num_consumed(batch + 1) - 1),
            culprits=sorted(sample for part in self.ranks.gather(bad) for sample in part),
        )
        if not outcome.trained:
            self.train_step.drop()
        if verdict.action == "rollback":
            event |= self._roll_back(batch)
        if event["action"] in ("skip", "rollback without checkpoint"):
            self.health.skipped(batch)
            self.progress.batch += 1
        self._notify(Callback.on_anomaly, self, event)
        if verdict.action == "stop":
            self._save_extra()
            raise error_of(event, self.checkpoints.folder)

    def _roll_back(self, batch: int) -> dict[str, Any]:
        """Go back to a checkpoint before this batch; the batches since then are skipped."""
        self.phase("rollback")
        self.checkpoints.wait()
        back = self.progress.step - self.settings.health.rollback_steps
        loaded = self.checkpoints.load_newest(self._tensors(), rollback_from=back)
        if loaded is None:
            return {"action": "rollback without checkpoint"}
        saved = restore_position(self, loaded)
        self.unlogged = None
        first = self.progress.batch
        self.progress.batch = batch + 1
        self.health.rolled_back(
            HealthState.from_dict(saved["health"]), to_step=loaded.step, first=first, last=batch
        )
        self.checkpoints.remove_after(loaded.step)
        restore_callbacks(self, saved, rollback=True)
        return {"to_step": loaded.step, "skipped": [first, batch]}

    def _apply_requests(self) -> None:
        """Do what was asked for: from here on other data, or another end (model/train/run)."""
        if self.request_handler.apply(self.progress.step, self.num_consumed):
            self.data.close()
            self.data = self.open_data()

    def _report(self, outcome: StepOutcome) -> None:
        """Measurements of the step that was just made, where they are due."""
        step = self.progress.step
        if outcome.trained:
            self.unlogged = outcome
        first = step == 1 and self.same_lines
        if self.at_end or first or is_multiple(step, self.settings.log_interval):
            self._log_last_step()
        if self.at_end and not outcome.trained:  # the data end in a batch that was skipped
            self.log(step, self.data.position(self.progress.batch))

    def _log_last_step(self) -> None:
        """Log the last step that was made, if it isn't yet. Every state that is saved has its line:
        a run may turn out to end there, and its figures are those of its last step."""
        outcome, self.unlogged = self.unlogged, None
        if outcome is None:
            return
        step = self.progress.step
        metrics = {
            "train/loss": outcome.loss,
            "train/grad_norm": outcome.grad_norm,
            "train/targets": float(outcome.num_targets),
            "train/learning_rate": learning_rate(
                self.settings, step - 1, self.request_handler.length
            ),
            **{f"train/loss_{name}": loss for name, loss in outcome.loss_by_source.items()},
            **self.train_step.measurements(outcome.statistics),
            **outcome.routing,
            **self.data.position(self.progress.batch),
        }
        if outcome.router_loss is not None:
            metrics["train/router_loss"] = outcome.router_loss
        for callback in self.callbacks.values():
            metrics |= callback.metrics(self, outcome)
        self.log(step, metrics)

    def _between_steps(self) -> None:
        """Give callbacks their turn, and write a checkpoint where one is due."""
        step, last = self.progress.step, self.at_end
        self.validation_loss = None
        self._notify(Callback.before_checkpoint, self)
        due = last or is_multiple(step, self.settings.checkpoints.interval)
        due |= self.save_validated and self.validation_loss is not None
        if step and due and (self.saved_step != step or self.validation_loss is not None):
            self._save(self.validation_loss, wait=last)
        self._notify(Callback.after_checkpoint, self)

    def stop_with_checkpoint(self) -> NoReturn:
        """Raise Stopped after a complete checkpoint; called by all ranks together."""
        self._save_extra()
        raise Stopped(self.progress.step)

    def _save_extra(self) -> None:
        """A complete checkpoint of this step, unless there is one: a batch that was skipped since
        then will be judged alike again."""
        if self.saved_step != self.progress.step:
            self._save(None, wait=True)
        self.checkpoints.wait()

    def _save(self, validation_loss: float | None, *, wait: bool) -> None:
        """Begin a checkpoint, or write it whole (`wait`)."""
        if not self.same_lines:
            self._log_last_step()
        self.phase("checkpoint")
        step = self.progress.step
        entry = CheckpointInfo(
            step=step,
            regular=is_multiple(step, self.settings.checkpoints.interval),
            validation_loss=validation_loss,
        )
        stall = self.checkpoints.save(entry, self._tensors(), trainer_files(self), wait=wait)
        self.saved_step = step
        metrics = {"perf/checkpoint_stall_seconds": stall}
        if (seconds := self.checkpoints.last_seconds) is not None:
            metrics["perf/checkpoint_seconds"] = seconds
        self.log(step, metrics)

    def _tensors(self) -> dict[str, Any]:
        return training_tensors(self.train_step.model_with_loss, self.train_step.optimizer)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Pass on measurements after `step` completed steps."""
        self._notify(Callback.on_metrics, self, step, metrics)

    def phase(self, name: str) -> None:
        """Tell the callbacks that a part of the loop begins, or makes progress."""
        self._notify(Callback.on_phase, self, name)

    def _notify(
        self, hook: Callable[Concatenate[Callback, P], None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call a method of every callback."""
        for callback in self.callbacks.values():
            getattr(callback, hook.__name__)(*args, **kwargs)

    def close(self) -> None:
        """Release threads and files, also after an error."""
        self.data.close()
        self.checkpoints.close(CLOSING_SECONDS)
        self._notify(Callback.close)
