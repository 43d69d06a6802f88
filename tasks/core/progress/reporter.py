"""Progress of a stage as lines of the log and as a bar of Prefect.

Each line and each change of the bar is a row of Prefect's database and a message to whoever
watches (`prefect deployment run … --watch`), so their pace slows down with the age of the stage:

    age         10 s    10 min    1 h     1 day    1 month
    a line      10 s    10 s      36 s    10 min   10 min
    the bar     10 s    12 s      72 s    10 min   10 min      or by 5 points, at most each 10 s
"""

import time
from collections import deque
from typing import Any

from tasks.core.artifacts import Logger, artifact_key, publish_artifact

LONGEST_SECONDS = 600.0
"""Between two lines, or two changes of the bar, of a stage that goes on."""
WINDOW_SECONDS = 120.0
"""Of which the speed is taken: not of what an earlier session did."""
SHORT_SECONDS = 5.0
"""Length of a stage that ends before anybody would look at a bar."""
POINTS = 5.0
"""Percentage points that change the bar ahead of time."""


class ProgressReporter:
    """Says how far a stage is; `update` may be called as often as one likes."""

    LINE_SECONDS = 10.0
    """Between two lines at first; later 1 % of the stage's age."""
    ARTIFACT_SECONDS = 10.0
    """Between two changes of the bar at first; later 2 % of the stage's age."""

    def __init__(self, stage: str, log: Logger) -> None:
        self.stage, self.log = stage, log
        self.started = self.last_line = self.last_artifact = time.monotonic()
        self.artifact: Any = None
        self.shown = 0.0
        """Percentage that the bar has."""
        self._seen: deque[tuple[float, float]] = deque()
        """(time, done) of the last `WINDOW_SECONDS`."""
        self._total = 0.0

    def update(
        self, done: float, total: float, what: str, seconds_left: float | None = None
    ) -> None:
        """Note how far it is.

        done, total: in any unit; a new total begins a new measurement of the speed.
        what: is done, for the line; seconds_left: where whoever does the work knows better.
        """
        now = time.monotonic()
        self._note(now, done, total)
        percent = 100 * min(1.0, done / total) if total > 0 else 0.0
        age = now - self.started
        line_due = now - self.last_line >= _pace(self.LINE_SECONDS, age / 100)
        since = now - self.last_artifact
        bar_due = since >= _pace(self.ARTIFACT_SECONDS, age / 50) or (
            since >= self.ARTIFACT_SECONDS and percent - self.shown >= POINTS
        )
        if not (line_due or bar_due):
            return
        left = self.seconds_left(done, total) if seconds_left is None else seconds_left
        share, remaining = f"{percent:.0f} %", "" if left is None else f"{duration(left)} left"
        # Of what the percentage is stands beside it.
        parts = (
            [f"{share} {what}", remaining] if what.startswith("of ") else [share, remaining, what]
        )
        text = ", ".join(part for part in parts if part)
        if line_due:
            self.last_line = now
            self.log.info("%s: %s", self.stage, text)
        if bar_due and percent != self.shown:
            self.last_artifact = now
            self._show(percent, f"{self.stage}: {text}")

    def finish(self, what: str = "") -> None:
        """Show that all is done: the bar ends at 100 %. A stage of a moment gets none."""
        age = time.monotonic() - self.started
        if self.artifact is None and age < SHORT_SECONDS:
            return
        self._show(100.0, f"{self.stage}: done in {duration(age)} {what}")

    def seconds_left(self, done: float, total: float) -> float | None:
        """Estimate of the time until all is done; None as long as it would be a guess."""
        if not self._seen:
            return None
        then, first = self._seen[0]
        if done - first <= 0 or (
            done - first <= 0.02 * total and self._seen[-1][0] - then < WINDOW_SECONDS / 2
        ):
            return None
        return (total - done) * (self._seen[-1][0] - then) / (done - first)

    def _note(self, now: float, done: float, total: float) -> None:
        if total != self._total or (self._seen and done < self._seen[-1][1]):
            self._seen.clear()
            self._total = total
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()

    def _show(self, percent: float, text: str) -> None:
        self.shown = percent
        rounded = round(percent, 1)
        if self.artifact is None:
            self.artifact = publish_artifact(
                self.log,
                "progress",
                key=artifact_key(f"{self.stage} progress"),
                progress=rounded,
                description=text.strip(),
            )
        else:
            publish_artifact(
                self.log,
                "new progress",
                artifact_id=self.artifact,
                progress=rounded,
                description=text.strip(),
            )


def _pace(first: float, later: float) -> float:
    return min(max(first, later), max(first, LONGEST_SECONDS))


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min, 3 h 20 min, 4 d 7 h."""
    whole = round(max(0.0, seconds))
    if whole < 120:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
