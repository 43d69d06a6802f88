"""How far a job is, for the process that started it."""

import json
import time
from pathlib import Path


class Progress:
    """How far the job is, in a small file that the parent reads."""

    EVERY = 0.5

    def __init__(self, path: Path) -> None:
        self.path, self.last = path, 0.0

    def say(self, done: int, total: int, what: str) -> None:
        """Write the file, at most every `EVERY` seconds, except at the ends."""
        now = time.monotonic()
        if now - self.last < self.EVERY and 0 < done < total:
            return
        self.last = now
        aside = self.path.with_name(f"{self.path.name}.tmp")
        aside.write_text(json.dumps([done, total, what]), encoding="utf-8")
        aside.replace(self.path)
