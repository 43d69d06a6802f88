"""Protocol of what watches a training.

    load_state ─▶ on_train_begin ─▶ ┌ on_phase …        data, forward_backward, all_reduce …
                                    │ on_step_end       the batch became a step, or was refused
                                    │ on_anomaly        … and this is what was found in it
                                    │ metrics           measurements for the line of this step
                                    │ on_metrics        a line of measurements is complete
                                    │ before_checkpoint
                                    │ state             goes into the checkpoint, where one is due
                                    └ after_checkpoint ─▶ on_train_end ─▶ close

`before_checkpoint`, `state` and `after_checkpoint` also come once before the first step.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.train.distributed.step_outcome import StepOutcome
    from model.train.trainer import Trainer


class Callback:
    """Base of all callbacks: methods that do nothing.

    They are called by the training thread, on every rank that has the callback, in the order of
    the table. They may read the trainer, call its `log`, `phase` and `stop_with_checkpoint`, and
    set its `validation_loss`. What they raise ends the training.
    """

    def load_state(self, state: Mapping[str, Any], *, rollback: bool) -> None:
        """Take over what `state` gave when the checkpoint was written that is gone on from.

        Called before `on_train_begin` (state is empty where there is no checkpoint, or none that
        knew this callback), and after a rollback.
        """

    def state(self) -> dict[str, Any]:
        """JSON values for the checkpoint that is being written; those of rank 0 are kept."""
        return {}

    def on_train_begin(self, trainer: "Trainer") -> None:
        """Training begins or goes on, from `trainer.progress`."""

    def on_phase(self, trainer: "Trainer", phase: str) -> None:
        """A part of the loop begins, or makes progress.

        In a step: data, forward_backward (again for each micro-batch), all_reduce, optimizer.
        Between steps: rollback, validation (again for each batch), checkpoint.
        """

    def on_step_end(self, trainer: "Trainer", outcome: "StepOutcome") -> None:
        """The host is done with a batch, which became a step if `outcome.trained`."""

    def on_anomaly(self, trainer: "Trainer", event: Mapping[str, Any]) -> None:
        """A batch was not finite or a spike; `event` (model/train/health.py) says what was done."""

    def metrics(self, trainer: "Trainer", outcome: "StepOutcome") -> dict[str, float]:
        """Measurements to add to the line of the step that was just made."""
        return {}

    def on_metrics(self, trainer: "Trainer", step: int, metrics: Mapping[str, float]) -> None:
        """Measurements after `step` completed steps, of the step or of what followed it."""

    def before_checkpoint(self, trainer: "Trainer") -> None:
        """Between two steps, before a checkpoint is written where one is due."""

    def after_checkpoint(self, trainer: "Trainer") -> None:
        """Between two steps, after that."""

    def keep_checkpoints(self, permanent: list[Path]) -> set[Path]:
        """These checkpoints are permanent now, and no others; returns those to be kept a while
        longer, because they are being read.

        Called on rank 0 after each save, by the thread that saves.
        """
        return set()

    def on_train_end(self, trainer: "Trainer", error: BaseException | None) -> None:
        """Training is over; `error` is what it ended with, None after its last step."""

    def close(self) -> None:
        """Release threads and files; the last call, also after an error."""
