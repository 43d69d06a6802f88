"""Files that are absent or complete, never half written."""

import contextlib
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


def json_line(value: Any) -> bytes:
    """A value as one line of a JSON-lines file, in UTF-8 as people read it."""
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def read_json_lines(path: Path) -> Iterator[Any]:
    """The values of a JSON-lines file that we wrote ourselves."""
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)
