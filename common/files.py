"""Files and folders that are absent or complete, never half written; and digests of what they hold.

Everything is published the same way: written under a name with the suffix `.partial` in the same
folder, flushed to the disk, renamed, and the folder flushed too. A power cut leaves the old file or
the new one and never half of one.
"""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import stat
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from common.errors import DataError, StageError
from common.paths import display
from common.reading.files import user_error

PARTIAL = ".partial"
"""Suffix of files that are still being written; after a crash they may be deleted."""

_CHUNK = 1 << 22


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those around it, unless they are there. Raises DataError for a file in
    its place, and where this user may not write."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise DataError(
                f"{display(path)} should be a folder and is a file: move it away"
            ) from error
        raise user_error(error) or error from error


@contextlib.contextmanager
def complete_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that appears as `path` only when the block ends well.

    What an interrupted attempt left under the partial name is removed. It may still be open in a
    process that was stopped: what that one writes, it writes to a file of its own, and it raises
    StageError instead of publishing what another process has begun.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    partial.unlink(missing_ok=True)
    with partial.open("xb", buffering=1 << 20) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
        if not _is_name_of(partial, file.fileno()):
            raise StageError(f"{path} is being written by another process: this one ends")
    partial.replace(path)
    sync(path.parent)


def _is_name_of(path: Path, descriptor: int) -> bool:
    """Return True if a path names the very file that is open."""
    own = os.fstat(descriptor)
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def write_text(path: Path, text: str) -> None:
    """Publish a text file in UTF-8: a reader sees the old content or the new, never a part."""
    with complete_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Publish a JSON file, indented for people."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_status(path: Path, value: Any) -> None:
    """Replace a small JSON file at once, without flushing it: for what no restart needs.

    Several processes and threads may write one at the same time.
    """
    own = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")
    try:
        own.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        own.replace(path)
    except OSError:
        own.unlink(missing_ok=True)  # its name is this process's own: nobody else would remove it
        raise


def write_shared(path: Path, content: bytes) -> None:
    """Publish a file that several processes may write at once, each the same bytes.

    What killed ones have left of it, each under a name of its own, is removed.
    """
    own = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")
    try:
        with own.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        own.replace(path)
    except FileNotFoundError:
        if not path.exists():  # else another one has published the same, and tidied up
            raise
    except OSError:
        own.unlink(missing_ok=True)
        raise
    for left in path.parent.glob(f"{glob.escape(path.name)}.*{PARTIAL}"):
        left.unlink(missing_ok=True)
    sync(path.parent)


def settle(folder: Path) -> None:
    """Make all files of a folder survive a power cut, and readable for whom the folder is.

    Some libraries write files for their owner alone (safetensors: mode 0600).
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            if wanted := stat.S_IMODE(path.parent.stat().st_mode) & 0o666 & ~mode:
                path.chmod(mode | wanted)
        sync(path)
    sync(folder)


def publish_folder(partial: Path, final: Path) -> None:
    """Give a finished folder its final name, replacing what had it; files are fsynced first."""
    settle(partial)
    if final.exists():
        # A folder cannot be replaced in one rename; the old one steps aside under a name that
        # nothing reads, so the worst a kill can leave is neither, never a mixture.
        old = final.with_name(f"{final.name}.old{PARTIAL}")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        partial.rename(final)
        shutil.rmtree(old)
    else:
        partial.rename(final)
    sync(final.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder, if there is one, in a way that half of it never looks complete."""
    old = folder.with_name(f"{folder.name}.old{PARTIAL}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
        shutil.rmtree(old)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name without copying its bytes; where that cannot be, copy it."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without them
        shutil.copyfile(source, target)


def same_bytes(one: Path, other: Path) -> bool:
    """True if two files hold the same; all of both is read where they do."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb", buffering=0) as first, other.open("rb", buffering=0) as second:
        while (chunk := first.read(_CHUNK)) == second.read(_CHUNK):
            if not chunk:
                return True
    return False


def json_line(value: Any) -> bytes:
    """A value as one line of a JSON-lines file, in UTF-8 as people read it."""
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def read_json_lines(path: Path) -> Iterator[Any]:
    """The values of a JSON-lines file that Steel wrote itself."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)


def find_document(path: Path, document: str) -> dict[str, Any] | None:
    """The line of one of Steel's JSON-lines files that has this `id`; None when none has it."""
    # Cheaper than parsing every line: an id is written as it is, inside quotes.
    needle = json.dumps(document, ensure_ascii=False).encode()
    if path.exists():
        with path.open("rb") as lines:
            for line in lines:
                if needle in line and (found := json.loads(line))["id"] == document:
                    return dict(found)
    return None


def glob_files(path: Path) -> tuple[Path, list[Path]]:
    """The last folder of a path that is written without a wildcard, and what matches, sorted.

    Raises ValueError for a pattern that makes no sense.
    """
    cut = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
    if path.parts.count("**") > 1:
        # Each one looks at all folders below all that the one before it has found.
        raise ValueError("it has `**` more than once")
    base = Path(*path.parts[:cut])
    return base, sorted(base.glob(str(Path(*path.parts[cut:]))))


def canonical_json(value: object) -> str:
    """One spelling for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest_of(value: object) -> str:
    """MD5 (32 hex digits) of a value's canonical JSON. Guards against accidents, not attacks."""
    return hashlib.md5(canonical_json(value).encode(), usedforsecurity=False).hexdigest()


def hash_of(value: object) -> str:
    """32 hexadecimal digits of a value's canonical JSON, for names of what is kept."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_of_file(path: Path) -> str:
    """MD5 (32 hex digits) of every byte of a file, read in bounded memory."""
    md5 = hashlib.md5(usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            md5.update(chunk)
    return md5.hexdigest()


def crc32_of_file(path: Path) -> str:
    """CRC-32 (8 hex digits) of every byte of a file: finds damage, at over 1 GB/s."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def hashing_threads() -> int:
    """Threads that hash at once: this rank's share of the machine's cores, at most eight.

    Hashing releases the GIL. Eight threads take about 5 GB/s, more than most disks give.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(8, (cores or 1) // ranks))
