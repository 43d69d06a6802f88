"""Free space of disks: required before work starts, and recognised when it runs out."""

import contextlib
import errno
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.errors import DataError, SteelError
from common.paths import display

RESERVE = 64 * 1024**2
"""Bytes that must stay free besides what the work itself writes: logs, databases, manifests."""

FULL_BELOW = 1024**2
"""Free bytes below which a disk counts as full when something ended on it without a word."""


def nearest_existing(path: Path) -> Path:
    """A path itself, or the nearest folder around it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def free_bytes(path: Path) -> int:
    """Bytes that are free on the disk on which a path is, or would be."""
    return shutil.disk_usage(nearest_existing(path)).free


def require_free_space(
    folder: Path, bytes_needed: int, what: str, remedy: str = "choose another disk with --store"
) -> None:
    """Raise DataError unless the disk under `folder` can take `bytes_needed` bytes for `what`.

    The folder need not exist yet: its nearest existing parent is looked at.
    """
    free = free_bytes(folder)
    if free < bytes_needed + RESERVE:
        raise DataError(
            f"{what} needs about {format_bytes(bytes_needed + RESERVE)} in {display(folder)}, but "
            f"only {format_bytes(free)} are free there. Free some space, or {remedy}."
        )


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of that, …"""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


FULL = (errno.ENOSPC, errno.EDQUOT)
WORDS_FOR_FULL = ("No space left on device", "Disk quota exceeded", "database or disk is full")
"""Words of libraries that raise errors of their own: safetensors, torch, SQLite."""


def is_disk_full(error: BaseException) -> bool:
    """True if an error, or one that caused it, is a full disk or quota."""
    return any(
        (isinstance(link, OSError) and link.errno in FULL)
        or any(words in str(link) for words in WORDS_FOR_FULL)
        for link in error_chain(error)
    )


@contextlib.contextmanager
def told_when_full(what: str) -> Iterator[None]:
    """Turn whatever a full disk raises into one DataError that says what to do.

    Errors that are meant for users already stay as they are. what: the work, as in "sft chinese".
    """
    try:
        yield
    except SteelError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise disk_full_error(what, error) from error


def disk_full_error(what: str, error: BaseException | None = None) -> DataError:
    """The error that tells a user. error: what was raised, if it is known."""
    detail = f" ({error})" if error is not None and str(error) else ""
    return DataError(
        f"{what}: The disk is full{detail}. What is finished is kept. Free some space, and run "
        "again."
    )


def total_bytes(paths: Iterable[Path]) -> int:
    """Sum of the sizes of files."""
    return sum(path.stat().st_size for path in paths)


def format_bytes(num_bytes: float) -> str:
    """A number of bytes for people: `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
