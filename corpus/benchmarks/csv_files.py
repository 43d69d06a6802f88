"""CSV files of a folder, and those in its archives, which are read into memory and not unpacked."""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.errors import DataError
from common.paths import display
from corpus.sources.compression import archive_type

MAX_FILE_BYTES = 64 * 2**20
"""Largest size of one CSV file; the largest real one has 0.6 MB."""

READABLE = ("", "gz", "bz2", "xz")
"""Compressions of archives that are read here; after `acquire` there are no archives."""

_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    zlib.error,
    lzma.LZMAError,
)


def csv_files(
    files: Path | Sequence[tuple[Path, str]],
) -> Iterator[tuple[tuple[str, ...], str, bytes, bool]]:
    """Yield (names, place for messages, content, plain) of each CSV file; plain files first.

    A file of an archive `val.zip` has two names, with and without the folder `val/`. Raises
    DataError for a damaged archive or a file that is too large.
    """
    if isinstance(files, Path):
        found = [(path, path.relative_to(files).as_posix()) for path in sorted(files.rglob("*"))]
        files = [(path, name) for path, name in found if path.is_file()]
    for path, name in files:
        if path.suffix == ".csv":
            _check_size(display(path), path.stat().st_size)
            yield (name,), display(path), path.read_bytes(), True
    for path, _ in files:
        packed = archive_type(path.name, streams=False)
        if packed is not None and packed.codec in READABLE:
            stem = path.name[: -len(packed.suffix)]
            for member, content in _members(path, is_zip=packed.suffix == ".zip"):
                yield (member, f"{stem}/{member}"), f"{display(path)}:{member}", content, False


def _members(path: Path, *, is_zip: bool) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the CSV files of an archive."""
    try:
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if info.filename.endswith(".csv"):
                        _check_size(f"{display(path)}:{info.filename}", info.file_size)
                        yield info.filename, archive.read(info)
        else:
            with tarfile.open(path, "r:*") as tar:
                for entry in tar:
                    if entry.isfile() and entry.name.endswith(".csv"):
                        _check_size(f"{display(path)}:{entry.name}", entry.size)
                        file = tar.extractfile(entry)
                        assert file is not None
                        yield entry.name.removeprefix("./"), file.read()
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(
            f"{display(path)} is damaged ({error}): remove it and acquire it again"
        ) from error


def _check_size(place: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise DataError(f"{place} has {size:,} bytes; no benchmark file is that large")
