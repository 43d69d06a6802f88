"""Callback of TRL's trainers: metrics.jsonl, complete checkpoints, and the end on SIGTERM."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from common.errors import StageError
from model.train.distributed.signals import StopFlag
from model.train.finetune.checkpoints import KEEP_LAST, complete_checkpoints, mark_complete
from model.train.finetune.config import FinetuneSettings
from model.train.finetune.order import SampleOrder
from model.train.optim.schedule import is_multiple
from model.train.run.lease import Lease
from model.train.run.metrics import JsonlSink


class Recorder(TrainerCallback):
    """metrics.jsonl, complete checkpoints, and the end on SIGTERM or a loss that is not finite."""

    NAMES: Mapping[str, str] = {
        "loss": "train/loss",
        "aux_loss": "train/router_loss",
        "grad_norm": "train/grad_norm",
        "learning_rate": "train/learning_rate",
        "entropy": "train/entropy",
        "mean_token_accuracy": "train/token_accuracy",
        "rewards/chosen": "train/reward_chosen",
        "rewards/rejected": "train/reward_rejected",
        "rewards/accuracies": "train/preference_accuracy",
        "rewards/margins": "train/reward_margin",
        "logps/chosen": "train/logp_chosen",
        "logps/rejected": "train/logp_rejected",
    }
    """Names in the trainer's log -> ours; others are left out."""
    PLAIN: Mapping[str, str] = {"loss": "loss", "grad_norm": "gradient norm"}
    """Measurements that must be finite, in words."""

    def __init__(self, sink: JsonlSink, stop: StopFlag) -> None:
        self.sink, self.stop = sink, stop
        self.stopped = False
        self.lease: Lease | None = None
        self.log_interval = 1
        self.position: Callable[[int], dict[str, float]] = lambda step: {}
        self._tokens = 0.0
        self._time = time.monotonic()

    def follow(self, lease: Lease) -> None:
        """Write only while this lease is held; checkpoints go where it stands."""
        self.lease = self.sink.lease = lease

    def use_order(self, order: SampleOrder, settings: FinetuneSettings) -> None:
        """Write a line every `log_interval` steps, and where in the data each step is."""
        self.log_interval, self.position = settings.log_interval, order.position

    def is_regular(self, step: int) -> bool:
        """True for a step whose line is written in any run, stopped in between or not."""
        return step == 1 or is_multiple(step, self.log_interval)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._time = time.monotonic()
        if state.is_world_process_zero:
            # The line that was written because of a stop has no place in the history.
            self.sink.resume(state.global_step, keep=self.is_regular)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        requested = self.stop.requested
        if dist.is_initialized() and dist.get_world_size() > 1:
            # All ranks must stop at the same step, whichever of them got the signal.
            flag = torch.tensor(float(requested), device=args.device)
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            requested = bool(flag)
        if requested:
            self.stopped = True
            control.should_save = control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        logs, step = logs or {}, state.global_step
        if "loss" not in logs:
            return  # the trainer's summary at the end
        # metrics.jsonl has what is due; each checkpoint would hold a line of every step.
        state.log_history.clear()
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise StageError(
                    f"the {self.PLAIN[name]} is {logs[name]} in step {step}, which no checkpoint "
                    "holds: lower the learning rate, or look for broken rows in the mixture"
                )
        last = self.stopped or step >= state.max_steps
        if not state.is_world_process_zero or not (last or self.is_regular(step)):
            return
        metrics = {ours: float(logs[name]) for name, ours in self.NAMES.items() if name in logs}
        metrics |= self.position(step)
        now = time.monotonic()
        if "num_tokens" in logs:  # counted by TRL since the start of this process
            rate = (logs["num_tokens"] - self._tokens) / max(now - self._time, 1e-9)
            metrics["perf/tokens_per_second"] = rate
            self._tokens = logs["num_tokens"]
        self._time = now
        self.sink.log(step, metrics)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if dist.is_initialized():
            dist.barrier()  # every rank has written its random state
        if state.is_world_process_zero:
            self.sink.position()  # durable before the checkpoint counts
            checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            mark_complete(checkpoint, state.global_step)
            if self.lease is not None:
                self._publish(checkpoint, self.lease)

    def _publish(self, checkpoint: Path, lease: Lease) -> None:
        """Give a checkpoint its place, and remove those that are too many there."""
        lease.publish_folder(checkpoint, lease.run / checkpoint.name)
        for old in complete_checkpoints(lease.run)[:-KEEP_LAST]:
            lease.remove(old)
