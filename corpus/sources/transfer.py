"""Transfer of a data set's files into its folder: moved, copied, unpacked or linked, then renamed.

    the same at their source as in an earlier acquisition ──linked──▶ scratch folder ──rename──▶
    others ──fetched──moved, copied or unpacked────────────────────▶                   <name>/…

Every file in the data set's folder is complete: a rerun leaves it alone.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import zstandard

from common.disk import require_free_space, total_bytes
from common.errors import DataError
from common.files import complete_file, write_json
from corpus.refresh.earlier import Earlier
from corpus.sources.archives import decompress_file, unpack_archive
from corpus.sources.compression import ArchiveType, archive_type, unpacked_name
from corpus.sources.remote import WORKERS
from corpus.sources.source import Source, StoredFile

EXPANSION = 6
"""Bytes that a compressed file unpacks to per byte, as a guess where it doesn't say itself."""


T = TypeVar("T")

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
    earlier: Sequence[Earlier] = ()
    """The data set in earlier acquisitions, the newest first."""

    def target_name(self, file: StoredFile) -> str:
        """Name that a file becomes: its own, one without `.gz`, or that of an archive's folder."""
        return unpacked_name(file.name, streams=self.decompress)

    def target(self, file: StoredFile) -> Path:
        """Path of that in the data set's folder."""
        return self.folder / self.target_name(file)

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


def transfer_all(
    destination: Destination, source: Source, files: Sequence[StoredFile]
) -> tuple[int, int]:
    """Take over, or fetch and transfer, every file that is not complete yet, several at a time.

    Returns the number of files taken over from earlier acquisitions, and the bytes of what they
    became. Raises DataError; whatever was finished stays.
    """
    total = sum(file.size or 0 for file in files)
    done = sum(file.size or 0 for file in files if destination.target(file).exists())

    def add(file: StoredFile) -> None:
        nonlocal done
        done += file.size or 0
        destination.progress(done, total, f"bytes of {destination.name}")

    taken = _take_over(destination, source, files, add)
    missing = [file for file in files if not destination.target(file).exists()]
    local = not source.downloads
    needed = sum(
        unpacked_bytes(file, streams=destination.decompress, local=local) for file in missing
    )
    require_free_space(destination.folder, needed, f"data set {destination.name!r}")
    with closing(_side_by_side(source.fetch, missing, source)) as fetched:
        for file, path in fetched:
            transfer(destination, source, file, path)
            add(file)
    targets = [destination.target(file) for file in taken]
    paths = (path for target in targets for path in (target, *target.rglob("*")))
    return len(taken), total_bytes(path for path in paths if path.is_file())


def share_disk(destination: Destination, paths: Sequence[Path]) -> None:
    """Let files of a data set whose bytes an earlier acquisition has, too, take room once."""
    aside = destination.scratch / "shared"
    aside.unlink(missing_ok=True)  # of an interrupted run
    for path in paths:
        name = path.relative_to(destination.folder).as_posix()
        any(one.share(path, name, aside) for one in destination.earlier)


def _side_by_side(
    work: Callable[[StoredFile], T], files: Sequence[StoredFile], source: Source
) -> Generator[tuple[StoredFile, T]]:
    """Yield files with what `work` makes of them, in the order in which they are ready."""
    with ThreadPoolExecutor(WORKERS) as pool:
        results = {pool.submit(work, file): file for file in files}
        try:
            for result in as_completed(results):
                yield results[result], result.result()
        except BaseException:
            source.cancel()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _take_over(
    destination: Destination,
    source: Source,
    files: Sequence[StoredFile],
    add: Callable[[StoredFile], None],
) -> list[StoredFile]:
    """Take files from earlier acquisitions. Returns them, with those that an interrupted run took.

    They are named in a note before the first of them has its final name.
    """
    note, places = destination.scratch / "taken_over.json", destination.scratch / "taken"
    shutil.rmtree(places, ignore_errors=True)  # of an interrupted run
    noted = set(json.loads(note.read_text(encoding="utf-8")) if note.exists() else ())
    taken = [f for f in files if f.name in noted and destination.target(f).exists()]
    missing = [file for file in files if not destination.target(file).exists()]

    def take(file: StoredFile) -> bool:
        return _linked(destination, source, file, places / destination.target_name(file))

    at_hand: set[str] = set()
    if destination.earlier:
        with closing(_side_by_side(take, missing, source)) as looked_at:
            for file, linked in looked_at:
                if linked:
                    at_hand.add(file.name)
                    add(file)
    ready = [file for file in missing if file.name in at_hand]
    write_json(note, sorted(file.name for file in [*taken, *ready]))
    for file in ready:
        destination.target(file).parent.mkdir(parents=True, exist_ok=True)
        (places / destination.target_name(file)).replace(destination.target(file))
    return [*taken, *ready]


def _linked(destination: Destination, source: Source, file: StoredFile, place: Path) -> bool:
    """Put at `place` what an earlier acquisition has of a file, if the file is the same today."""
    target, identity = destination.target_name(file), source.identity(file)
    earlier = next((one for one in destination.earlier if one.has(file.name, identity)), None)
    if earlier is not None:
        try:
            earlier.give(file.name, target, place)
        except DataError as error:
            destination.warn(f"{destination.name}: {error}; {file.name} is fetched anew")
            return False
        return True
    if source.downloads or target != file.name:
        return False
    path = source.fetch(file)  # where it lies, compared with what the recipe pins
    return any(one.link_same(path, target, place) for one in destination.earlier)


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
