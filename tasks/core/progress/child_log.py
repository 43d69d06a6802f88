"""Lines of a child's log, passed on to the log of the run: what rank 0 says, and no flood.

JOB.log (all ranks) ──new lines──▶ without those of steps ──▶ at most BURST at once,
                                   (the progress has them)    then one each REFILL_SECONDS
                                                              ──▶ Prefect; "… 37 more in LOG"
"""

import logging
import re
import time
from pathlib import Path

from common.paths import display
from tasks.core.artifacts import Logger

BURST = 20
"""Lines that are passed on at once."""
REFILL_SECONDS = 15.0
"""Seconds until one more may be: some 6,000 lines a day at the most."""
MAX_LINE = 1000
"""Characters of a line; the log has it whole."""
MAX_READ = 1 << 18
"""Bytes read at a time; of more than that only the last are looked at."""

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ (?P<level>[A-Z]+) (?P<text>.*)", re.DOTALL)
STEP = re.compile(r"step \d+(/\d+ \(|  validation loss )|step \d+  checkpoint, ")
"""Lines that come with every step; the progress tells them at its own pace."""


class ChildLog:
    """Follows a growing log. Records of the program's own logging are passed on: rank 0's, and
    warnings of the others. What libraries print stays in the file."""

    def __init__(self, path: Path, log: Logger, title: str) -> None:
        self.path, self.log, self.title = path, log, title
        self._position = path.stat().st_size if path.exists() else 0
        self._allowed, self._refilled = float(BURST), time.monotonic()
        self._held_back = 0

    def poll(self) -> None:
        """Pass on what is new."""
        for line in self._new_lines():
            found = LINE.match(line)
            if found is None or STEP.match(found["text"]):
                continue
            level = logging.getLevelName(found["level"])
            self._pass_on(level if isinstance(level, int) else logging.INFO, found["text"])

    def close(self) -> None:
        """Pass on the rest, and say how many lines were held back."""
        self.poll()
        self._tell_held_back()

    def _pass_on(self, level: int, text: str) -> None:
        now = time.monotonic()
        self._allowed = min(BURST, self._allowed + (now - self._refilled) / REFILL_SECONDS)
        self._refilled = now
        if self._allowed < 1:
            self._held_back += 1
            return
        self._allowed -= 1
        self._tell_held_back()
        self.log.log(level, "%s: %s", self.title, text[:MAX_LINE])

    def _tell_held_back(self) -> None:
        if self._held_back:
            self.log.info(
                "%s: … %d more lines in %s", self.title, self._held_back, display(self.path)
            )
            self._held_back = 0

    def _new_lines(self) -> list[str]:
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._position:  # begun anew
                    self._position = 0
                begin = max(self._position, size - MAX_READ)
                file.seek(begin)
                read = file.read(size - begin)
        except OSError:
            return []
        whole, newline, _ = read.rpartition(b"\n")
        self._position = begin + len(whole) + len(newline)
        return whole.decode(errors="replace").split("\n") if newline else []
