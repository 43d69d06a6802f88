"""Begin, end and energy of each session of training, in sessions.jsonl. Rank 0's callback.

A session without an end was killed, or replaced by the next one. How the file reads:
model/train/run/sessions.py.
"""

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.provenance import git_commit, software_versions
from model.kernels import replacements, used
from model.train.callbacks.callback import Callback
from model.train.distributed.context import resolve_precision
from model.train.distributed.device import device_name
from model.train.distributed.signals import Stopped
from model.train.distributed.tested_kernels import kernels_of
from model.train.run.lease import Lease
from model.train.run.metrics import JsonLines

if TYPE_CHECKING:
    from model.train.trainer import Trainer


def resolved_settings(trainer: "Trainer") -> dict[str, Any]:
    """Values that a training uses where its configuration says `auto` or 0; the model's size."""
    settings, ranks = trainer.settings, trainer.ranks
    dtype = str(resolve_precision(settings, ranks.device)).removeprefix("torch.")
    model = trainer.train_step.model_with_loss.model
    kernels = kernels_of(model.config, cuda=ranks.device.type == "cuda")
    replaced = replacements()
    return {
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": trainer.total_steps,
        "warmup_steps": settings.warmup_steps,
        "eval_interval": settings.eval_interval,
        "precision": "fp8" if settings.precision == "fp8" else dtype,
        "attn_implementation": getattr(model.config, "_attn_implementation", None) or "unknown",
        "num_processes": ranks.world_size,
        "device": device_name(ranks.device),
        "kernels": {operation: used(operation, name) for operation, name in kernels.items()},
        **({"kernels_replaced": replaced} if replaced else {}),
    }


class SessionLog(Callback):
    """Records who took up the run, and how that ended; the file is only ever added to."""

    def __init__(self, path: Path, lease: Lease) -> None:
        self.lines, self.session = JsonLines(path, lease), lease.number

    def on_train_begin(self, trainer: "Trainer") -> None:
        self.lines.append(
            event="begin",
            session=self.session,
            step=trainer.progress.step,
            batch=trainer.progress.batch,
            num_processes=trainer.ranks.world_size,
            device=device_name(trainer.ranks.device),
            host=socket.gethostname(),
            commit=git_commit(),
            software=software_versions(),
            resolved=resolved_settings(trainer),
        )
        self.lines.position()  # on the disk, whatever happens next

    def on_train_end(self, trainer: "Trainer", error: BaseException | None) -> None:
        how = "done" if error is None else f"failed: {type(error).__name__}"
        if isinstance(error, Stopped):
            how = "stopped"
        self.lines.append(event="end", session=self.session, step=trainer.progress.step, how=how)
        self.lines.position()

    def energy(self, step: int, joules: float | None) -> None:
        """Note the energy of this session so far; None: it could not be read to here."""
        self.lines.append(event="energy", session=self.session, step=step, joules=joules)

    def close(self) -> None:
        self.lines.close()
