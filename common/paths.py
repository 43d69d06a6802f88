"""The project's root, and paths as configurations, command lines and messages write them."""

import os
from pathlib import Path

from common.errors import ConfigError, shown
from common.urls import is_url

ROOT = Path(__file__).resolve().parents[1]
"""The project's root: relative paths in configurations start here."""

RECIPES = ROOT / "data_recipes"

SYSTEM_FOLDERS = ("/proc", "/sys", "/dev")

MAX_PATH = 4095
"""Bytes of a path that Linux takes."""
MAX_PART = 255
"""Bytes of one part of a path that disks take."""


def resolve(path: str | Path) -> Path:
    """Absolute form of a configured path; relative ones start at the project's root.

    Raises ConfigError for what can be no path: see `checked`.
    """
    return ROOT / checked(path)


def is_system_folder(path: Path) -> bool:
    """Return True for a folder of devices or of the kernel's own files, and for what lies below.

    Such files are endless, vanish, or stand for hardware; /dev/shm is memory, and is none.
    """
    return any(path.is_relative_to(folder) for folder in SYSTEM_FOLDERS) and not (
        path.is_relative_to("/dev/shm")
    )


def absolute(path: str | Path, start: Path) -> Path:
    """Absolute form of a path without `..` and links; relative ones start at a folder.

    Raises ConfigError for what can be no path, and links that lead back to themselves.
    """
    whole = start / checked(path)
    try:
        return whole.resolve()
    except (OSError, RuntimeError):
        raise ConfigError(f"{shown(str(path))} is a link that leads back to itself") from None


def checked(path: str | Path) -> Path:
    """A path that someone wrote, with `~` expanded.

    Raises ConfigError for an empty one, a NUL, a name that is too long, an unknown `~user`, a URL.
    """
    text = str(path)
    if is_url(text):  # else a folder of this name would be made, password included
        raise ConfigError(f"path {shown(text)} is a URL; give a path of this machine")
    if not text or "\0" in text:
        why = "holds a NUL" if text else "is empty"
        raise ConfigError(f"path {shown(text)} {why}; give the path of a file or a folder")
    parts = [len(os.fsencode(part)) for part in text.split("/")] if _encodable(text) else [MAX_PATH]
    if sum(parts) + len(parts) > MAX_PATH or max(parts) > MAX_PART:
        raise ConfigError(
            f"path {shown(text)} is too long for a disk: {MAX_PART} bytes a name, {MAX_PATH} in all"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"path {shown(text)}: {error}; write the folder itself") from None


def _encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def display(path: str | Path) -> str:
    """A path as a person wrote it: relative to the project's root where it lies inside."""
    path = Path(path)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
