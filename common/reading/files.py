"""A file that a person may have written or damaged, as text or as JSON; DataError names it.

Nothing is opened that is no regular file (a pipe waits for ever, /dev/zero never ends), and no more
is read than the limit.
"""

import errno
import io
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import DataError, shown
from common.paths import display

MAX_TEXT_BYTES = 4 << 20
"""Bytes of a configuration or a recipe."""

MAX_JSON_BYTES = 1 << 30
"""Bytes of a JSON file that Steel or a library wrote: a manifest of a million shards has fewer."""

REASONS: Mapping[int, str] = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist: a part of its path is a file and no folder",
    errno.EISDIR: "is a folder and no file",
    errno.EACCES: "may not be read or written by this user: change its permissions",
    errno.EPERM: "may not be read or written by this user: change its permissions",
    errno.ELOOP: "is a link that leads back to itself",
    errno.ENAMETOOLONG: "has a name that is too long for the disk",
    errno.EROFS: "lies on a disk that cannot be written: choose another place",
    errno.ENOSPC: "lies on a full disk: free some space, or choose another place",
    errno.EDQUOT: "lies on a disk whose quota is used up: free some space, or choose another place",
    errno.EIO: "cannot be read: the disk reports an error",
    errno.ESTALE: "lies on a network disk that has gone: mount it again",
    errno.EEXIST: "is in the way: remove it, or give it another name",
    errno.EMFILE: "cannot be opened: too many files are open (ulimit -n)",
    errno.ETXTBSY: "is being executed",
    errno.EXDEV: "lies on another disk",
}
"""Errors of the operating system that a user can mend, in words that follow a path."""


def reason(error: OSError) -> str | None:
    """Words for an error of the operating system that a user can mend; None for others."""
    return REASONS.get(error.errno or 0)


def user_error(error: OSError) -> DataError | None:
    """An error of the operating system about a file, for a user to mend; None for others."""
    why, name = reason(error), error.filename
    if why is None or name is None or isinstance(name, int):
        return None
    return DataError(f"{shown_path(Path(os.fsdecode(name)))} {why}")


def read_text(path: Path, *, limit: int = MAX_TEXT_BYTES) -> str:
    """The text of a regular file of at most `limit` bytes, in UTF-8.

    Raises DataError naming the file when there is none, or it is too large, a folder, a device, a
    pipe, unreadable, or not UTF-8.
    """
    where = shown_path(path)
    try:
        mode = path.stat().st_mode
        with path.open("rb") if stat.S_ISREG(mode) else io.BytesIO() as file:
            size = path.stat().st_size
            data = b"" if size > limit else file.read(limit + 1)
    except OSError as error:
        why = reason(error) or f"cannot be read: {error.strerror}"
        raise DataError(f"{where} {why}") from error
    except ValueError as error:  # a NUL in the name
        raise DataError(f"{where} cannot be a file: {error}") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise DataError(f"{where} is {kind} and no file; name the file")
    if max(size, len(data)) > limit:
        raise DataError(
            f"{where} has {max(size, len(data)):,} bytes; a file of its kind has at most {limit:,}"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not UTF-8: byte {error.start} is {data[error.start]:#04x}. Save it so"
        ) from None


def read_json(path: Path, *, limit: int = MAX_JSON_BYTES) -> Any:
    """The value in a JSON file. Raises DataError naming the file for any damage.

    A key that is given twice is damage too: one of its values would be lost.
    """
    return parse_json(read_text(path, limit=limit), shown_path(path))


def read_json_object(path: Path, *, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file. Raises DataError naming the file for any damage."""
    value = read_json(path, limit=limit)
    if not isinstance(value, dict):
        raise DataError(f"{shown_path(path)} must hold a JSON object, not {type(value).__name__}")
    return value


def parse_json(text: str | bytes, where: str) -> Any:
    """A JSON text as a value. Raises DataError that begins with `where`."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise DataError(f"{where} is damaged: its values are nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{where} is damaged, it is no JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {shown(twice)} is given twice")
    return result


def shown_path(path: Path) -> str:
    """A path for a message: as a person wrote it, shortened where it is very long."""
    text = display(path)
    return text if len(text) <= 500 else f"{text[:240]}…{text[-240:]}"
