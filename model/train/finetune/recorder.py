"""Callback of TRL's trainers: metrics.jsonl, complete checkpoints, and the end on SIGTERM."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from common.errors import StageError
from model.train.distributed.signals import StopFlag
from model.train.finetune.checkpoints import complete_checkpoints, mark_complete
from model.train.finetune.trainer import KEEP_LAST
from model.train.run.lease import Lease
from model.train.run.metrics import JsonlSink


class Recorder(TrainerCallback):
    """metrics.jsonl, complete checkpoints, and the end on SIGTERM or a loss that is not finite."""

    NAMES: Mapping[str, str] = {
        "loss": "train/loss",
        "grad_norm": "train/grad_norm",
        "learning_rate": "train/learning_rate",
        "epoch": "train/epoch",
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

    def __init__(self, sink: JsonlSink, stop: StopFlag) -> None:
        self.sink, self.stop = sink, stop
        self.stopped = False
        self.lease: Lease | None = None
        self._tokens = 0.0
        self._time = time.monotonic()

    def follow(self, lease: Lease) -> None:
        """Write only while this lease is held; checkpoints go where it stands."""
        self.lease = self.sink.lease = lease

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._time = time.monotonic()
        if state.is_world_process_zero:
            self.sink.resume(state.global_step)

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
        logs = logs or {}
        if "loss" not in logs:
            return  # the trainer's summary at the end
        if not math.isfinite(logs["loss"]):
            raise StageError(
                f"the loss is {logs['loss']} after step {state.global_step}: lower the learning "
                "rate, or look for broken rows in the mixture"
            )
        if not state.is_world_process_zero:
            return
        metrics = {ours: float(logs[name]) for name, ours in self.NAMES.items() if name in logs}
        now = time.monotonic()
        if "num_tokens" in logs:  # counted by TRL since the start of this process
            rate = (logs["num_tokens"] - self._tokens) / max(now - self._time, 1e-9)
            metrics["perf/tokens_per_second"] = rate
            self._tokens = logs["num_tokens"]
        self._time = now
        self.sink.log(state.global_step, metrics)

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
