"""Files that are absent or complete, never half written."""

import contextlib
import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def complete_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that appears as `path` when the block ends well.

    It is written aside, fsynced and renamed; what an interrupted attempt left aside is overwritten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.tmp")
    with aside.open("wb", buffering=1 << 20) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def sync(path: Path) -> None:
    """Make a finished file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_line(value: Any) -> bytes:
    """A value as one line of a JSON-lines file, in UTF-8 as people read it."""
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def find_document(path: Path, document: str) -> dict[str, Any] | None:
    """The line of a JSON-lines file of ours that has this `id`; None when none has it."""
    # Cheaper than parsing every line: an id is written as it is, inside quotes.
    needle = json.dumps(document, ensure_ascii=False).encode()
    if path.exists():
        with path.open("rb") as lines:
            for line in lines:
                if needle in line and (found := json.loads(line))["id"] == document:
                    return dict(found)
    return None


def glob_files(path: Path) -> tuple[Path, list[Path]]:
    """The last folder of a path that is written without a wildcard, and what matches, sorted."""
    cut = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
    base = Path(*path.parts[:cut])
    return base, sorted(base.glob(str(Path(*path.parts[cut:]))))


def read_json_lines(path: Path) -> Iterator[Any]:
    """The values of a JSON-lines file that we wrote ourselves."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)
