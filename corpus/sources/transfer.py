"""Transfer of fetched files into a data set's folder: moved, copied or unpacked, then renamed.

    fetched ──▶ scratch folder ──rename──▶ <name>/…

Every file in the data set's folder is complete: a rerun leaves it alone.
"""

import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import zstandard

from common.disk import require_free_space
from common.errors import DataError
from common.files import complete_file
from corpus.sources.archives import decompress_file, unpack_archive
from corpus.sources.compression import ArchiveType, archive_type, unpacked_name
from corpus.sources.remote import WORKERS
from corpus.sources.source import Source, StoredFile

EXPANSION = 6
"""Bytes that a compressed file unpacks to per byte, as a guess where it doesn't say itself."""


Progress = Callable[[float, float, str], None]
"""Called with what is done, the total, and the unit that both are counted in."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Folders that one data set is written to, and the callables that are told about it."""

    name: str
    """Name of the data set."""
    folder: Path
    """Folder of the finished files."""
    scratch: Path
    """Existing folder for everything unfinished; must survive interruptions."""
    decompress: bool
    """If true, single `.gz` and `.zst` files are decompressed (corpora)."""
    progress: Progress = lambda done, total, unit: None
    """Called now and then with the progress."""
    warn: Callable[[str], None] = lambda message: None
    """Called with what a user should know although the work goes on."""

    def target(self, file: StoredFile) -> Path:
        """Path that a file becomes: itself, a file without `.gz`, or the folder of an archive."""
        return self.folder / unpacked_name(file.name, streams=self.decompress)

    def clear(self) -> None:
        """Remove everything of the data set, to begin again."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.scratch)
        self.scratch.mkdir()


def check_names(files: Sequence[StoredFile], origin: str, *, streams: bool) -> None:
    """Raise DataError when two files would become one, such as `a.jsonl` and `a.jsonl.gz`."""
    becomes: dict[str, str] = {}
    for file in files:
        name = unpacked_name(file.name, streams=streams)
        if name in becomes:
            raise DataError(
                f"{origin}: {becomes[name]} and {file.name} would both become {name}. Take only "
                "one of them: give a glob, or remove the other."
            )
        becomes[name] = file.name
    for name, file_name in becomes.items():
        for parent in Path(name).parents:
            if str(parent) in becomes:
                raise DataError(
                    f"{origin}: {becomes[str(parent)]} would become {parent}, but {file_name} "
                    "lies in a folder of that name. Take only one of them: give a glob, or remove "
                    "the other."
                )


def transfer_all(destination: Destination, source: Source, files: Sequence[StoredFile]) -> None:
    """Fetch and transfer every file that is not complete yet, several at a time.

    Raises DataError; whatever was finished stays.
    """
    missing = [file for file in files if not destination.target(file).exists()]
    local = not source.downloads
    needed = sum(
        unpacked_bytes(file, streams=destination.decompress, local=local) for file in missing
    )
    require_free_space(destination.folder, needed, f"data set {destination.name!r}")
    total = sum(file.size or 0 for file in files)
    done = total - sum(file.size or 0 for file in missing)
    with ThreadPoolExecutor(WORKERS) as pool:
        fetches: dict[Future[Path], StoredFile] = {
            pool.submit(source.fetch, file): file for file in missing
        }
        try:
            for fetch in as_completed(fetches):
                file = fetches[fetch]
                transfer(destination, source, file, fetch.result())
                done += file.size or 0
                destination.progress(done, total, f"bytes of {destination.name}")
        except BaseException:
            source.cancel()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def unpacked_bytes(file: StoredFile, *, streams: bool, local: bool = False) -> int:
    """Bytes that a file takes once it is unpacked, about; a local file is looked into."""
    packed, size = archive_type(file.name, streams=streams), file.size or 0
    if packed is None or (packed.is_container and packed.suffix == ".tar"):
        return size
    stated = _stated_bytes(Path(file.handle), packed) if local else 0
    return max(size, stated) if stated else size * EXPANSION


def _stated_bytes(path: Path, packed: ArchiveType) -> int:
    """Unpacked size that a file itself states; 0 where it states none, or can't."""
    size = path.stat().st_size
    try:
        if packed.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                return sum(info.file_size for info in archive.infolist())
        with path.open("rb") as file:
            if packed.codec == "zst":
                return max(0, zstandard.frame_content_size(file.read(18)))
            if packed.codec == "gz" and 18 < size < 2**29:  # it has 32 bits for it
                file.seek(-4, os.SEEK_END)
                return int.from_bytes(file.read(4), "little")
    except (OSError, zipfile.BadZipFile, zstandard.ZstdError):
        pass  # damaged: unpacking it will say so
    return 0


def transfer(destination: Destination, source: Source, file: StoredFile, path: Path) -> None:
    """Move, copy or unpack a fetched file to its target. Raises ArchiveRefused."""
    target = destination.target(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    packed = archive_type(file.name, streams=destination.decompress)
    shown = f"{source.origin}: {file.name}" if file.name not in source.origin else source.origin
    if packed is None and source.downloads:
        path.replace(target)
        return
    if packed is None:
        with path.open("rb") as data, complete_file(target) as out:
            shutil.copyfileobj(data, out, 1 << 20)
        return
    unfinished = cleared(destination.scratch / "unpacking")
    if packed.is_container:
        unpack_archive(path, unfinished, packed, shown, streams=destination.decompress)
    else:
        with complete_file(unfinished) as out:
            decompress_file(path, out, packed, shown)
    unfinished.replace(target)
    if source.downloads:
        path.unlink()


def cleared(path: Path) -> Path:
    """The path, after what an interrupted attempt has left there (or with a suffix) is removed."""
    for old in path.parent.glob(f"{path.name}*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    return path
