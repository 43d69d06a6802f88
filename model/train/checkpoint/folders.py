"""Folders of checkpoints: names, completeness, damaged files. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.files import crc32_of_file
from common.reading.files import MAX_JSON_BYTES, read_json_object, read_text
from model.train.checkpoint.retention import CheckpointInfo

MARKER = "complete.json"


def folder_name(step: int) -> str:
    """Name of the checkpoint after so many optimizer steps."""
    return f"step-{step:08d}"


def complete_checkpoints(folder: Path) -> list[Path]:
    """Folders of complete checkpoints, oldest first."""
    found = [p for p in folder.glob("step-*") if not p.suffix and _is_marked(p)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def read_marker(checkpoint: Path) -> dict[str, Any]:
    """Read a complete checkpoint's marker: step, world_size, regular, validation_loss, files.

    Raises DataError when it is not complete.
    """
    path = checkpoint / MARKER
    try:
        marker = read_json_object(path)
    except DataError as error:
        raise DataError(f"{checkpoint} is no complete checkpoint: {error}") from error
    files = marker.get("files")
    if not isinstance(files, dict) or not all(
        isinstance(entry, dict) and {"bytes", "crc32"} <= entry.keys() for entry in files.values()
    ):
        raise DataError(f"{checkpoint} is no complete checkpoint: {path} lists no files")
    return marker


def read_info(checkpoint: Path) -> CheckpointInfo:
    """Read what retention needs to know of a complete checkpoint."""
    marker = read_marker(checkpoint)
    return CheckpointInfo(
        step=int(marker["step"]),
        regular=bool(marker["regular"]),
        validation_loss=marker["validation_loss"],
    )


def find_damage(checkpoint: Path, *, part: int = 0, parts: int = 1) -> str:
    """Say what is wrong with this part of a checkpoint's files; "" when nothing is."""
    found = ""
    for number, (name, entry) in enumerate(read_marker(checkpoint)["files"].items()):
        if number % parts != part:
            continue
        path = checkpoint / name
        if not path.exists():
            found = f"{name} is missing"
        elif path.stat().st_size != entry["bytes"]:
            found = f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}"
        elif crc32_of_file(path) != entry["crc32"]:
            found = f"{name} has another checksum than when it was written"
    return found


def read_files(checkpoint: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the text of a checkpoint's JSON files by name. Raises DataError for a damaged one."""
    return {name: read_text(checkpoint / name, limit=MAX_JSON_BYTES) for name in names}


def _is_marked(checkpoint: Path) -> bool:
    try:
        read_marker(checkpoint)
    except DataError:
        return False
    return True
