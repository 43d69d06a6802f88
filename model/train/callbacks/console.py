"""Lines for people in the log. Rank 0's callback."""

import datetime
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from model.train.callbacks.callback import Callback
from model.train.callbacks.causal_validation import causal_loss

if TYPE_CHECKING:
    from model.train.trainer import Trainer

log = logging.getLogger(__name__)


class ConsoleLog(Callback):
    """Logs a line for each line of measurements."""

    def on_metrics(self, trainer: "Trainer", step: int, metrics: Mapping[str, float]) -> None:
        if "train/loss" in metrics:
            log.info("%s", progress_line(step, trainer.total_steps, metrics))
        elif "validation/loss" in metrics:
            log.info("step %d  validation loss %.4f", step, causal_loss(metrics))
        elif "perf/checkpoint_stall_seconds" in metrics:
            waited = metrics["perf/checkpoint_stall_seconds"]
            log.info("step %d  checkpoint, training waited %.2f s", step, waited)


def progress_line(step: int, total_steps: int, metrics: Mapping[str, float]) -> str:
    """Progress, loss, speed, memory and time left of a step."""
    mfu = metrics.get("perf/mfu", metrics["perf/mfu_measured_peak"])
    against = "" if "perf/mfu" in metrics else " of measured peak"
    used = metrics["perf/memory_peak_gib"]
    left = datetime.timedelta(seconds=round(metrics["perf/seconds_left"]))
    return (
        f"step {step}/{total_steps} ({100 * step / total_steps:.1f} %)  "
        f"loss {metrics['train/loss']:.4f}  grad norm {metrics['train/grad_norm']:.3f}  "
        f"lr {metrics['train/learning_rate']:.2e}  "
        f"{metrics['perf/tokens_per_second']:,.0f} tokens/s  MFU {100 * mfu:.1f} %{against}  "
        f"{used:.1f} GiB  {left} left"
    )
