"""metrics.jsonl: one line a measurement, cut where training resumes."""

import json
import resource
from pathlib import Path

import pytest

from common.errors import StageError
from model.train.run.folder import METRICS_FILE
from model.train.run.metrics import JsonlSink, last_value, newest_lines, newest_step, read_metrics


def logged(path: Path) -> list[tuple[int, dict[str, float]]]:
    return [(line["step"], line["metrics"]) for line in read_metrics(path)]


def test_lines_after_the_resumed_step_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "run" / METRICS_FILE
    sink = JsonlSink(path)
    sink.resume(0)
    for step in range(1, 6):
        sink.log(step, {"train/loss": 1 / step})
    sink.log(3, {"validation/loss": 9.0})
    before = path.read_text().splitlines()
    JsonlSink(path).resume(3)
    # What is kept is kept as it was, times included.
    assert path.read_text().splitlines() == [*before[:3], before[5]]
    assert last_value(path, "train/loss") == 1 / 3
    assert last_value(path, "validation/loss") == 9.0
    assert last_value(path, "nothing") is None


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    sink = JsonlSink(path)
    sink.log(1, {"train/loss": 2.0})
    with path.open("a") as file:
        file.write('{"step": 2, "time": 17')
    assert logged(path) == [(1, {"train/loss": 2.0})]
    sink.resume(2)
    sink.log(2, {"train/loss": 1.0})
    assert logged(path) == [(1, {"train/loss": 2.0}), (2, {"train/loss": 1.0})]
    for line in path.read_text().splitlines():
        json.loads(line)


def test_starting_over_empties_the_file(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / METRICS_FILE)
    sink.log(1, {"train/loss": 2.0})
    sink.resume(0)
    assert logged(sink.path) == []


def test_the_newest_lines_of_a_file_that_is_cut_and_written_on(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    assert newest_lines(path) == [] and newest_step(path) == 0
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 101)) + '{"st')
    assert newest_step(path) == 100
    assert [line["step"] for line in newest_lines(path, tail=40)] == [99, 100]
    assert len(newest_lines(path)) == 100


def test_a_position_is_found_again_whatever_came_after_it(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / METRICS_FILE)
    sink.log(1, {"train/loss": 2.0})
    position = sink.position()
    before = sink.path.read_bytes()
    sink.log(1, {"perf/checkpoint_stall_seconds": 0.1})
    sink.log(2, {"train/loss": 1.0})
    sink.cut(position)
    assert sink.path.read_bytes() == before
    sink.cut(0)
    assert logged(sink.path) == []


def test_a_file_that_lost_its_end_is_cut_at_a_whole_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = JsonlSink(tmp_path / METRICS_FILE)
    for step in (1, 2):
        sink.log(step, {"train/loss": 2.0})
    position = sink.position()
    sink.path.write_bytes(sink.path.read_bytes()[:-5])
    sink.cut(position)
    assert logged(sink.path) == [(1, {"train/loss": 2.0})]
    assert "metrics.jsonl: 5 bytes are missing" in caplog.text


def test_a_disk_that_refuses_a_line_is_told_with_the_file(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / METRICS_FILE)
    sink.log(1, {"train/loss": 2.0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(StageError, match=r"metrics\.jsonl could not be written"):
            sink.log(2, {"train/loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
