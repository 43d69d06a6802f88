"""Refuse work that the disk cannot hold, before it starts."""

import errno
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.errors import DataError
from common.paths import display

RESERVE = 64 * 1024**2
"""Bytes that must stay free besides what the work itself writes: logs, databases, manifests."""


def require_free_space(folder: Path, bytes_needed: int, what: str) -> None:
    """Raise DataError unless the disk under `folder` can take `bytes_needed` bytes for `what`.

    The folder need not exist yet: its nearest existing parent is looked at.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < bytes_needed + RESERVE:
        raise DataError(
            f"{what} needs about {human(bytes_needed + RESERVE)} in {display(folder)}, but only "
            f"{human(free)} are free there. Free some space, or choose another disk with --store."
        )


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, what caused that, …"""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def disk_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, is a full disk or quota."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return any(isinstance(e, OSError) and e.errno in full for e in chain(error))


def total_bytes(paths: Iterable[Path]) -> int:
    """Sum of the sizes of files."""
    return sum(path.stat().st_size for path in paths)


def human(num_bytes: float) -> str:
    """A number of bytes for people: `1.5 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
