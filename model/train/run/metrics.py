"""Measurements of a run in metrics.jsonl, and files of one JSON object a line in general.

    {"step": 20, "time": 1763900000.1, "metrics": {"train/loss": 5.31, …}}

Trackers mirror that file; training never waits for them. A checkpoint notes how long the file was,
and a training that resumes from it cuts everything later: each step is there once.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from common.errors import StageError
from common.files import complete_file
from model.train.run.lease import Lease

log = logging.getLogger(__name__)


class JsonLines:
    """A file of one JSON object a line that is appended to and cut back.

    Args:
        path: of the file.
        lease: of the run that it belongs to: lines then go to a file that this session made itself
            and holds open, which begins as a copy of what was there. None: one process writes.
    """

    def __init__(self, path: Path, lease: Lease | None = None) -> None:
        self.path, self.lease = path, lease
        self._held: int | None = None

    def append(self, **values: Any) -> None:
        """Add a line, with the time. Raises StageError when the disk refuses it."""
        line = (json.dumps({"time": time.time(), **values}) + "\n").encode()
        # One write per line: a reader that follows the file never sees lines of two writers mixed.
        try:
            if self.lease is None:
                with self.path.open("ab") as file:
                    file.write(line)
                return
            if self._held is None:
                self._replace(lambda old: _whole_lines(old.read()))
            assert self._held is not None
            with self.lease.guard():
                _write(self._held, line)
        except OSError as error:
            raise StageError(
                f"{self.path} could not be written: {error}. Checkpoints are untouched; make room "
                "there and start again"
            ) from error

    def position(self) -> int:
        """Make the file durable; return its length in bytes."""
        if self._held is not None:
            os.fsync(self._held)
            return os.fstat(self._held).st_size
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def cut(self, position: int) -> None:
        """Cut to a position, or to the end of the last whole line where the file is shorter."""
        self._replace(lambda old: self._first(old, position))

    def close(self) -> None:
        """Release the file."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _first(self, file: IO[bytes], position: int) -> bytes:
        content = file.read(position)
        if len(content) < position:
            log.warning(
                "%s: %d bytes are missing that were there when the checkpoint was written",
                self.path.name,
                position - len(content),
            )
            content = _whole_lines(content)
        return content

    def _replace(self, keep: Callable[[IO[bytes]], bytes]) -> None:
        """Put a file in place that begins with what `keep` takes of the one that is there."""
        content = b""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as old:
            content = keep(old)
        if self.lease is None:
            with complete_file(self.path) as file:
                file.write(content)
            return
        self.close()
        with self.lease.complete_file(self.path) as file:
            file.write(content)
            file.flush()
            self._held = os.dup(file.fileno())


class JsonlSink(JsonLines):
    """Measurements in a file of lines; also for trainers that know only their step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add measurements after `step` completed steps."""
        self.append(step=step, metrics=dict(metrics))

    def resume(self, step: int, keep: Callable[[int], bool] = lambda step: True) -> None:
        """Remove everything after `step` completed steps, wherever it stands in the file, and the
        lines of steps that are not to be kept."""
        kept = [
            json.dumps(line)
            for line in read_metrics(self.path)
            if line["step"] <= step and keep(line["step"])
        ]
        self._replace(lambda old: "".join(f"{line}\n" for line in kept).encode())


def _whole_lines(content: bytes) -> bytes:
    """Leave out a last line that a kill cut short."""
    return content[: content.rfind(b"\n") + 1]


def _write(descriptor: int, data: bytes) -> None:
    """Write all of it; the system may take a part at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file; a last line that a kill cut short is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield json.loads(line)


def last_value(path: Path, name: str) -> float | None:
    """The newest value of one metric, or None when it was never logged."""
    values = [line["metrics"][name] for line in read_metrics(path) if name in line["metrics"]]
    return values[-1] if values else None


def newest_lines(path: Path, tail: int = 1 << 16) -> list[dict[str, Any]]:
    """The whole lines in the last `tail` bytes, however long the file is.

    For those who follow a growing file: a resumed run cuts it back, perhaps between two looks, so a
    remembered position could lie in the middle of a line.
    """
    if not path.exists():
        return []
    with path.open("rb") as file:
        begin = max(0, file.seek(0, os.SEEK_END) - tail)
        file.seek(begin)
        lines = file.read().split(b"\n")[:-1]  # what follows the last newline is half a line
    return [json.loads(line) for line in (lines[1:] if begin else lines)]


def newest_step(path: Path) -> int:
    """The newest step that was measured, 0 when none was."""
    lines = newest_lines(path)
    return int(lines[-1]["step"]) if lines else 0
