"""Free space of disks: required before work starts, and recognised when it runs out."""

import errno
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.errors import DataError
from common.paths import display

RESERVE = 64 * 1024**2
"""Bytes that must stay free besides what the work itself writes: logs, databases, manifests."""


def require_free_space(
    folder: Path, bytes_needed: int, what: str, remedy: str = "choose another disk with --store"
) -> None:
    """Raise DataError unless the disk under `folder` can take `bytes_needed` bytes for `what`.

    The folder need not exist yet: its nearest existing parent is looked at.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
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


def is_disk_full(error: BaseException) -> bool:
    """True if an error, or one that caused it, is a full disk or quota."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return any(isinstance(e, OSError) and e.errno in full for e in error_chain(error))


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
