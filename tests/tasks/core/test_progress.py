"""Progress: its pace over a month, its end, its estimates; lines of children without a flood."""

import logging
from pathlib import Path
from typing import Any

import pytest

from tasks.core.progress import ProgressReporter, child_log, reporter
from tasks.core.progress.child_log import BURST, REFILL_SECONDS, ChildLog
from tasks.core.progress.reporter import duration

DAY = 86_400.0
LOG = logging.getLogger("steel.test")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (reporter, child_log):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def artifacts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Artifacts as Prefect gets them."""
    shown: list[dict[str, Any]] = []

    def publish(log: Any, kind: str, **kwargs: Any) -> str:
        shown.append({"kind": kind, **kwargs})
        return "id"

    monkeypatch.setattr(reporter, "publish_artifact", publish)
    return shown


def run(clock: Clock, seconds: float, every: float) -> ProgressReporter:
    progress = ProgressReporter("pretrain smoke", LOG)
    steps = int(seconds / every)
    for step in range(1, steps + 1):
        clock.now += every
        progress.update(step, steps, f"step {step}/{steps}")
    return progress


@pytest.mark.parametrize(
    ("seconds", "every", "most_lines", "most_bars"),
    [(60.0, 0.25, 6, 6), (3600.0, 0.5, 250, 200), (DAY, 2, 700, 700), (30 * DAY, 60, 5000, 5000)],
)
def test_neither_lines_nor_changes_of_the_bar_become_a_flood(
    clock: Clock,
    artifacts: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    seconds: float,
    every: float,
    most_lines: int,
    most_bars: int,
) -> None:
    caplog.set_level(logging.INFO)
    run(clock, seconds, every)
    assert 4 <= len(caplog.records) <= most_lines
    assert 4 <= len(artifacts) <= most_bars
    assert [a["kind"] for a in artifacts[:2]] == ["progress", "new progress"]


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("of the texts", "pack: 20 % of the texts, 80 s left"),
        ("step 2/10, loss 3.1", "pack: 20 %, 80 s left, step 2/10, loss 3.1"),
        ("", "pack: 20 %, 80 s left"),
    ],
)
def test_a_line_reads_from_left_to_right(
    clock: Clock,
    artifacts: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    what: str,
    line: str,
) -> None:
    caplog.set_level(logging.INFO)
    progress = ProgressReporter("pack", LOG)
    clock.now += 20
    progress.update(2, 10, what, seconds_left=80)
    assert [record.getMessage() for record in caplog.records] == [line]
    assert artifacts[0]["description"] == line


def test_a_bar_is_not_sent_again_while_nothing_moves(
    clock: Clock, artifacts: list[dict[str, Any]]
) -> None:
    progress = ProgressReporter("pack", LOG)
    for _ in range(1000):  # all is read, and the shards are written
        clock.now += 1
        progress.update(5, 5, "of the texts")
    assert len(artifacts) == 1


@pytest.mark.parametrize("updates", [0, 1, 50])
def test_the_bar_ends_at_100_percent(
    clock: Clock, artifacts: list[dict[str, Any]], updates: int
) -> None:
    progress = ProgressReporter("clean", LOG)
    for step in range(updates):
        clock.now += 20
        progress.update(step, 100, "")
    clock.now += 20
    progress.finish()
    assert artifacts[-1]["progress"] == 100
    assert "done in" in artifacts[-1]["description"]


def test_a_stage_of_a_moment_has_no_bar(clock: Clock, artifacts: list[dict[str, Any]]) -> None:
    progress = ProgressReporter("acquire", LOG)
    clock.now += 1
    progress.update(1, 1, "")
    progress.finish()
    assert artifacts == []


def test_the_time_that_is_left_is_that_of_this_session(
    clock: Clock, artifacts: list[dict[str, Any]]
) -> None:
    progress = ProgressReporter("pretrain", LOG)
    clock.now += 60  # the ranks import torch, and load the checkpoint of step 900
    assert progress.seconds_left(900, 1000) is None
    for step in range(900, 951):
        progress.update(step, 1000, "")
        clock.now += 2
    assert progress.seconds_left(950, 1000) == pytest.approx(100)


def test_the_time_that_is_left_follows_the_speed_of_now(clock: Clock, artifacts: list[Any]) -> None:
    progress = ProgressReporter("pretrain", LOG)
    for step in range(2000):
        progress.update(step, 4000, "")
        clock.now += 10 if step < 1000 else 1
    assert progress.seconds_left(2000, 4000) == pytest.approx(2000, rel=0.01)


def test_another_unit_begins_another_measurement(clock: Clock, artifacts: list[Any]) -> None:
    progress = ProgressReporter("sft", LOG)
    for done in range(4):  # data sets
        progress.update(done, 3, "drawing the mixture")
        clock.now += 30
    for step in range(1, 101):
        progress.update(step, 1000, "")
        clock.now += 1
    assert progress.seconds_left(100, 1000) == pytest.approx(900, rel=0.02)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (-3, "0 s"),
        (119, "119 s"),
        (720, "12 min"),
        (12_000, "3 h 20 min"),
        (3e5, "3 d 11 h"),
    ],
)
def test_durations_are_said_as_people_do(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def line(text: str, level: str = "INFO") -> str:
    return f"2026-11-29 09:56:27,564 {level} {text}\n"


def test_lines_of_rank_0_are_passed_on_and_those_of_steps_are_not(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "pretrain.log"
    path.write_text(line("of an earlier session"))
    follower = ChildLog(path, LOG, "pretrain smoke")
    with path.open("a") as file:
        file.write(line("resumed from step 70"))
        file.write(line("step 71/200 (35.5 %)  loss 5.1"))
        file.write(line("step 80  validation loss 5.0"))
        file.write("a library prints this\n")
        file.write(line("loss is not finite in step 72", "WARNING"))
        file.write("2026-11-29 09:56:27,564 INFO half a li")
    follower.poll()
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", "pretrain smoke: resumed from step 70"),
        ("WARNING", "pretrain smoke: loss is not finite in step 72"),
    ]
    with path.open("a") as file:
        file.write("ne\n")
    follower.poll()
    assert caplog.records[-1].getMessage() == "pretrain smoke: half a line"


def test_a_thousand_warnings_a_second_are_no_flood(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "pretrain.log"
    follower = ChildLog(path, LOG, "pretrain")
    seconds = 300
    for second in range(seconds):
        with path.open("a") as file:
            file.writelines(line(f"warning {second}.{n}", "WARNING") for n in range(100))
        follower.poll()
        clock.now += 1
    follower.close()
    passed = [r for r in caplog.records if "more lines" not in r.getMessage()]
    told = [r for r in caplog.records if "more lines" in r.getMessage()]
    assert BURST <= len(passed) <= BURST + seconds / REFILL_SECONDS
    held_back = sum(int(r.getMessage().split("… ")[1].split()[0]) for r in told)
    assert held_back + len(passed) == 100 * seconds
    assert len(told) <= len(passed) + 1


def test_a_log_that_is_begun_anew_or_not_there_is_followed(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "x.log"
    follower = ChildLog(path, LOG, "x")
    follower.poll()
    path.write_text(line("a long first line of the log"))
    follower.poll()
    path.write_text(line("b"))
    follower.poll()
    assert [r.getMessage() for r in caplog.records] == ["x: a long first line of the log", "x: b"]
