"""A fault at a named place of a run, in whatever process of it comes there.

    PYTHONPATH=tests/faults/hook STEEL_TEST_FAULT='{"event": …}' python -m flows.cli run …

Python imports this module in every process of the run. An audit hook then sees each file that is
opened or renamed, each folder that is listed and each program that is started, and at the `count`th
one whose name matches

    kill   SIGKILL to the process group of `steel` and to this process ("group"), to `steel` alone
           ("steel"), or to this process alone ("here")
    SIG…   the signal of this name to this process alone
    fill   the disk is filled to its last byte
    wait   this thread waits, before it, until the file `go` is in `folder`

It does so once: a file in `folder` says that it was done. Imports nothing of the project.
"""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

BLOCKS = (1 << 20, 1 << 12, 1)
"""Bytes that are written at once to fill a disk."""


class Fault:
    """Hook that counts the events at a place, of all processes together, and strikes once."""

    def __init__(
        self, *, event: str, pattern: str, count: int, do: str, folder: str, ballast: str = ""
    ) -> None:
        self.event, self.pattern, self.count = event, re.compile(pattern), count
        self.do, self.folder, self.ballast = do, Path(folder), Path(ballast)
        self.busy = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Look at one event: `open` (path, …), `os.listdir` (path), `os.rename` (from, to, …),
        `subprocess.Popen`."""
        event = "os.listdir" if event == "os.scandir" else event  # Python's versions differ
        if event != self.event or self.busy:
            return
        self.busy = True
        try:
            if self.pattern.search(self._name(arguments)) and self._is_the_one():
                self._strike()
        finally:
            self.busy = False

    def _name(self, arguments: tuple[Any, ...]) -> str:
        if self.event == "subprocess.Popen":
            return " ".join(map(os.fsdecode, arguments[1]))
        named = arguments[1 if self.event == "os.rename" else 0]
        return os.fsdecode(named) if isinstance(named, str | bytes | os.PathLike) else ""

    def _is_the_one(self) -> bool:
        """Count this event; True for the one, the first time."""
        with (self.folder / "events").open("ab") as events:
            events.write(b".")
            events.flush()
            if os.fstat(events.fileno()).st_size < self.count:
                return False
        try:
            (self.folder / "done").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _strike(self) -> None:
        if self.do == "fill":
            with self.ballast.open("wb", buffering=0) as file:
                for size in BLOCKS:
                    try:
                        while file.write(bytes(size)):
                            pass
                    except OSError:
                        continue
            return
        if self.do == "wait":
            while not (self.folder / "go").exists():
                time.sleep(0.01)
            return
        if self.do in ("group", "steel"):
            steel = int((self.folder / "steel").read_text())
            if self.do == "group":
                os.killpg(steel, signal.SIGKILL)
            else:
                os.kill(steel, signal.SIGKILL)
        if self.do in ("group", "here"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.do.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[self.do])


if "STEEL_TEST_FAULT" in os.environ:
    sys.addaudithook(Fault(**json.loads(os.environ["STEEL_TEST_FAULT"])))
