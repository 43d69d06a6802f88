"""Source: files on this machine, given as a file, a folder or a glob."""

import glob
import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from common.disk import total_bytes
from common.errors import DataError
from common.files import glob_files
from common.names import UnsafeName, safe_parts
from common.paths import ROOT, SYSTEM_FOLDERS, is_system_folder, resolve
from common.reading.files import shown_path
from corpus.recipes import how_to_obtain
from corpus.sources.source import StoredFile, is_hidden, verify_file


class LocalSource:
    """A file, folder or glob, read where it lies."""

    downloads = False

    def __init__(
        self, location: str, *, pins: Mapping[str, str] | None = None, origin: str = ""
    ) -> None:
        """
        Args:
            location: the file, folder or glob.
            pins: `sha256:…` by file name, from the recipe.
            origin: its name in messages; the location unless given.
        """
        self.location = location
        self.origin = origin or location
        self._pins = pins or {}

    def files(self) -> list[StoredFile]:
        """All files that are not hidden."""
        return [
            StoredFile(name=name, size=path.stat().st_size, handle=str(path))
            for path, name in local_files(self.location)
        ]

    def open(self, file: StoredFile) -> IO[bytes]:
        """The file itself."""
        return Path(file.handle).open("rb")

    def fetch(self, file: StoredFile) -> Path:
        """The file itself: nothing is copied."""
        path = Path(file.handle)
        if pinned := self._pins.get(file.name):
            verify_file(path, file, pinned, self.origin)
        return path

    def identity(self, file: StoredFile) -> str:
        """Empty: a size and a time prove nothing, and the bytes themselves can be compared."""
        return ""

    def cancel(self) -> None:
        """Do nothing: there are no downloads."""


def local_files(location: str) -> Iterator[tuple[Path, str]]:
    """(file, name below the data set's folder) for a file, folder or glob, sorted.

    Raises DataError for a place that no data set can be (`_check_place`), for a pattern that makes
    no sense, and for a file whose name an archive could not have either: ids and reports hold it,
    so it must be text.
    """
    path = resolve(location)
    _check_place(path)
    if path.is_file():
        _check_name(path, path.name)
        yield path, path.name
        return
    if path.is_dir():
        found, base = sorted(path.rglob("*")), path
    elif glob.has_magic(location):
        # Names start below the last folder that is written without a wildcard.
        try:
            base, found = glob_files(path)
        except ValueError as error:
            raise DataError(f"{shown_path(path)} is no pattern of files: {error}") from error
    else:
        return
    for file in found:
        relative = file.relative_to(base).as_posix()
        if file.is_file() and not is_hidden(relative):
            _check_name(file, relative)
            yield file, relative


def _check_place(path: Path) -> None:
    """Refuse, before a folder is looked through, one that all of Steel or of the system lies in."""
    base, pattern = _split(path)
    at = shown_path(path)
    if ".." in pattern:
        raise DataError(f"{at} has `..` behind a wildcard; write the folder itself")
    # Of links, the folder that they lead to.
    real = Path(os.path.realpath(base))
    entered = [real]
    if pattern and real == Path(real.anchor):
        entered += [Path(top) for top in SYSTEM_FOLDERS if fnmatch(top[1:], pattern[0])]
    whole = not pattern or "**" in pattern
    if any(map(is_system_folder, entered)) or (whole and ROOT.is_relative_to(real)):
        raise DataError(
            f"{at} is no folder of data: all of Steel or of the system lies in it, or it is one "
            "of the system's. Name the folder of the data set itself"
        )


def lies_in(place: Path, location: str) -> bool:
    """Return True if a place, such as the store, belongs to what a folder or glob takes.

    Raises DataError as `local_files`.
    """
    path = resolve(location)
    _check_place(path)
    base, pattern = _split(path)
    place, base = Path(os.path.realpath(place)), Path(os.path.realpath(base))
    if not place.is_relative_to(base) or (not pattern and not path.is_dir()):
        return False
    if not pattern or "**" in pattern:
        return True
    return any(file.resolve().is_relative_to(place) for file, _ in local_files(location))


def _split(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The last folder that is written without a wildcard, and the parts behind it.

    A file or folder that is there is taken by its name, wildcards or not.
    """
    parts = path.parts
    cut = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    if cut == len(parts) or path.exists():
        return path, ()
    return Path(*parts[:cut]), parts[cut:]


def _check_name(path: Path, name: str) -> None:
    try:
        safe_parts(name)
    except UnsafeName as why:
        raise DataError(
            f"{shown_path(path.parent)}: file {path.name!r} {why}; it is refused. Rename it, or "
            "move it away"
        ) from None


def check_local(kind: str, name: str, location: str) -> None:
    """Raise DataError when nothing is there, or only empty files."""
    path = resolve(location)
    at = shown_path(path)
    try:
        files = list(local_files(location))
    except DataError as error:
        raise DataError(f"Data set {name!r}: {error}") from None
    remedy = (
        "Put its files there, or give another location: a path, a URL, 'hub' or 'sample-data'. "
        f"{how_to_obtain(kind, name)}"
    ).strip()
    if not files:
        missing = "matches no file" if glob.has_magic(location) else "does not exist"
        if path.is_dir():
            missing = "holds no file"
        raise DataError(f"Data set {name!r}: {at} {missing}. {remedy}")
    if not total_bytes(path for path, _ in files):
        raise DataError(f"Data set {name!r} is empty: all files of {at} have 0 bytes. {remedy}")
