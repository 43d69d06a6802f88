"""Checkpoints of TRL's trainers that are known to be complete.

A checkpoint counts only with `complete.json`, which is written when every rank has saved its part:
Transformers would resume from the highest number, complete or not.
"""

import json
import logging
from pathlib import Path

from common.files import sync, write_text
from model.train.run.lease import Lease

log = logging.getLogger("steel.finetune")

COMPLETE = "complete.json"
"""Inside a checkpoint: {"step", "files": {name: bytes}}."""


def complete_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            marker = json.loads((path / COMPLETE).read_text(encoding="utf-8"))
            whole = all(
                (path / name).stat().st_size == size for name, size in marker["files"].items()
            )
        except (OSError, ValueError, KeyError):
            continue
        if whole:
            found.append((marker["step"], path))
    return [path for _, path in sorted(found)]


def remove_incomplete(folder: Path, lease: Lease) -> None:
    """Remove what an interrupted save has left: the trainer would count it as a checkpoint."""
    complete = complete_checkpoints(folder)
    for path in folder.glob("checkpoint-*"):
        if path not in complete:
            log.warning("%s is incomplete (an interrupted save); it is removed", path.name)
            lease.remove(path)


def mark_complete(checkpoint: Path, step: int) -> None:
    """Make a checkpoint durable, then say so inside it."""
    files = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != COMPLETE]
    for path in files:
        sync(path)
    sizes = {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}
    write_text(checkpoint / COMPLETE, json.dumps({"step": step, "files": sizes}))
    sync(checkpoint.parent)


def is_last_step(checkpoint: Path) -> bool:
    """True if a checkpoint holds the last step: resumed from, the trainer would train one more."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])
