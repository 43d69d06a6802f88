"""The protocol of a source of files (folder, URL, hub), and checks of its names and checksums.

Source ── files() ──▶ StoredFile …      names are safe: below the data set's folder, no `..`
       ── open()  ──▶ for reading its front, or parts of it
       ── fetch() ──▶ a whole file on this machine
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from common.disk import format_bytes
from common.errors import DataError
from common.names import UnsafeName, safe_parts

CHECKSUM_NAMES = {"sha256": "SHA-256", "md5": "MD5", "git": "git's SHA-1"}
"""Kinds of checksums, and their usual names."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One file of a data set, where it is stored."""

    name: str
    """Path below the data set's folder, parts joined by `/`."""
    size: int | None
    """Bytes; None where the source does not say."""
    checksum: str = ""
    """`sha256:…`, `md5:…` or `git:…` in hexadecimal; empty where the source states none."""
    version: str = ""
    """Value that changes with the file; empty where the source has none."""
    handle: str = field(default="", repr=False)
    """Path or URL by which the source finds it. May hold secrets."""


class Source(Protocol):
    """A location with the files of one data set."""

    @property
    def origin(self) -> str:
        """Its name in messages, without secrets; with the commit where there is one."""

    @property
    def downloads(self) -> bool:
        """True if fetched files are copies that may be moved; False if they are only to be read."""

    def files(self) -> Sequence[StoredFile]:
        """All files, sorted by name. Raises DataError when they cannot be listed."""

    def open(self, file: StoredFile) -> IO[bytes]:
        """Read a file from its front, or parts of it, without fetching all of it."""

    def fetch(self, file: StoredFile) -> Path:
        """The whole file on this machine, size and stated checksum verified."""

    def identity(self, file: StoredFile) -> str:
        """A value that is the same only for the same bytes, without secrets; empty where nothing
        proves that. Asked for once more after a fetch, it is that of what was fetched."""

    def cancel(self) -> None:
        """Stop downloads in other threads."""


def safe_name(name: str, origin: str) -> str:
    """A file name that a server gave, checked. Raises DataError naming it."""
    try:
        return "/".join(safe_parts(name))
    except UnsafeName as why:
        raise DataError(f"{origin}: file {name!r} {why}; it is refused") from None


def is_hidden(name: str) -> bool:
    """True if the name of a file or of one of its folders begins with a dot, or is one of the marks
    that Word and macOS leave behind (`~$letter.docx`, `__MACOSX`)."""
    parts = PurePosixPath(name).parts
    return any(part.startswith((".", "~$")) or part == "__MACOSX" for part in parts)


def verify_file(path: Path, file: StoredFile, pinned: str, origin: str) -> None:
    """Raise DataError when a file's size or checksum is not what its source or the recipe says."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise DataError(
            f"{origin}: {file.name} has {size} bytes here, but {file.size} there. Run again to "
            "fetch it anew."
        )
    for expected, who in ((pinned, "the recipe"), (file.checksum, origin)):
        kind, _, digest = expected.partition(":")
        if expected and (found := file_checksum(path, kind)) != digest.lower():
            hint = "Run again to fetch it anew."
            if who == "the recipe":
                hint = "Correct the recipe's sha256, or get the file that it means."
            elif kind == "md5":
                hint += " If the bucket encrypts with a key of its own, its ETag is no MD5: give "
                hint += "the file's sha256 in the recipe."
            raise DataError(
                f"{origin}: {file.name} ({format_bytes(size)}) is damaged or another file: its "
                f"{CHECKSUM_NAMES[kind]} is {found}, but {who} says {digest}. {hint}"
            )
        if expected:
            return  # what a recipe pins is better than what a server says


def file_checksum(path: Path, kind: str) -> str:
    """A file's SHA-256, MD5 or git object id, in hexadecimal."""
    digest = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    if kind == "git":
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
