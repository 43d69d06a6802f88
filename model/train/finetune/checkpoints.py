"""Checkpoints of TRL's trainers that are known to be complete.

A checkpoint counts only with `complete.json`, which is written when every rank has saved its part:
Transformers would resume from the highest number, complete or not.
"""

import json
import logging
from pathlib import Path
from typing import Any

from common.files import crc32_of_file, sync, write_text
from model.train.run.lease import Lease

log = logging.getLogger("steel.finetune")

KEEP_LAST = 2
"""Checkpoints on disk: the newest might still be in the making."""
COMPLETE = "complete.json"
"""Inside a checkpoint: {"step", "files": {name: {"bytes", "crc32"}}}."""


def intact_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in which every file has the bytes that were written.

    A damaged one is named in the log, and the one before it is taken.
    """
    for path in reversed(complete_checkpoints(folder)):
        files = _marker(path)["files"]
        damaged = sorted(
            name
            for name, written in files.items()
            if crc32_of_file(path / name) != written["crc32"]
        )
        if not damaged:
            return path
        log.warning(
            "%s is damaged (%s has other bytes than were written); an earlier one is looked for",
            path,
            ", ".join(damaged),
        )
    return None


def complete_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            marker = _marker(path)
            whole = all(
                (path / name).stat().st_size == written["bytes"] and "crc32" in written
                for name, written in marker["files"].items()
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if whole:
            found.append((marker["step"], path))
    return [path for _, path in sorted(found)]


def remove_others(folder: Path, newest: Path | None, lease: Lease) -> None:
    """Remove what an interrupted save has left, and what is newer than the checkpoint to resume
    from: the trainer would count it as a checkpoint."""
    complete = complete_checkpoints(folder)
    kept = complete[: complete.index(newest) + 1] if newest is not None else []
    for path in folder.glob("checkpoint-*"):
        if path not in kept:
            why = "damaged" if path in complete else "incomplete (an interrupted save)"
            log.warning("%s is %s; it is removed", path.name, why)
            lease.remove(path)


def mark_complete(checkpoint: Path, step: int) -> None:
    """Make a checkpoint durable, then say so inside it."""
    files = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != COMPLETE]
    for path in files:
        sync(path)
    written = {
        str(path.relative_to(checkpoint)): {
            "bytes": path.stat().st_size,
            "crc32": crc32_of_file(path),
        }
        for path in files
    }
    write_text(checkpoint / COMPLETE, json.dumps({"step": step, "files": written}))
    sync(checkpoint.parent)


def is_last_step(checkpoint: Path) -> bool:
    """True if a checkpoint holds the last step: resumed from, the trainer would train one more."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


def num_steps(checkpoint: Path) -> int:
    """Steps that the trainer had made when it wrote a complete checkpoint."""
    return int(_marker(checkpoint)["step"])


def _marker(checkpoint: Path) -> dict[str, Any]:
    marker: dict[str, Any] = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
    return marker
