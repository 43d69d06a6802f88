"""Checkpoints of a pretraining: held, measured once each, on the path to the newest weights."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, DataError, StageError
from common.files import write_json
from model.train.checkpoint.folders import MARKER, folder_name
from model.train.run.folder import CHECKPOINTS_FOLDER, JOB_FILE, PROGRESS_FILE
from tasks.checkpoint_scores import CheckpointScoresConfig
from tasks.checkpoint_scores import watch as watch_module
from tasks.checkpoint_scores.curves import (
    curves,
    metrics_of,
    newest_curves,
    on_path,
    publish,
    read_records,
)
from tasks.checkpoint_scores.questions import read_questions
from tasks.checkpoint_scores.run import PretrainingRun, hold, read_checkpoint
from tasks.checkpoint_scores.texts import held_out_texts
from tasks.checkpoint_scores.watch import Watcher
from tasks.core.lock import StageLock
from tests.model.train import ranks
from tests.processes import kill_all, started_with, wait_until
from tests.tasks.checkpoint_watcher import KEY, questions_of
from tests.tiny_benchmarks import write_benchmarks
from tests.tiny_texts import SENTENCES, write_packed_texts

PATIENCE_SECONDS = 900


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packed_texts(tmp_path_factory.mktemp("packed"))


# ── held-out texts ───────────────────────────────────────────────────────────────────────────────


def test_held_out_documents_come_back_byte_for_byte(packed: Path) -> None:
    found = held_out_texts(packed, max_bytes=10**6)
    assert set(found) == {"zh", "en"}
    texts = [text for one in found.values() for text in one.texts]
    assert texts and set(texts) < set(SENTENCES) and len(texts) == len(set(texts))
    assert not any(one.num_unrestored for one in found.values())


def test_fewer_bytes_are_the_first_of_the_same_documents(packed: Path) -> None:
    whole = held_out_texts(packed, max_bytes=10**6)
    for size in (1, 100, 300):
        for source, one in held_out_texts(packed, max_bytes=size).items():
            assert one.texts == whole[source].texts[: len(one.texts)]
            assert sum(len(t.encode()) for t in one.texts[:-1]) < size


def test_a_tokenizer_that_does_not_give_back_a_text_is_counted(tmp_path: Path) -> None:
    packed = ranks.write_packed(tmp_path)  # words, whose spaces and digests are others
    found = held_out_texts(packed, max_bytes=10**6)
    assert all(one.texts == [] and one.num_unrestored > 0 for one in found.values())


# ── runs and checkpoints ─────────────────────────────────────────────────────────────────────────


def write_checkpoint(folder: Path, step: int, content: str = "weights", batch: int = 0) -> Path:
    """A checkpoint for tests that only copy it."""
    path = folder / CHECKPOINTS_FOLDER / folder_name(step)
    (path / "tokenizer").mkdir(parents=True)
    (path / "__0_0.distcp").write_text(content)
    (path / "tokenizer/tokenizer.json").write_text("{}")
    write_json(path / PROGRESS_FILE, {"step": step, "batch": batch or step})
    names = ("__0_0.distcp", "tokenizer/tokenizer.json", PROGRESS_FILE)
    files = {
        name: {"bytes": (path / name).stat().st_size, "crc32": content if "0_0" in name else "x"}
        for name in names
    }
    marker = {"step": step, "regular": True, "validation_loss": None, "files": files}
    write_json(path / MARKER, marker)
    return path


def test_a_held_checkpoint_outlives_its_removal_and_copies_no_bytes(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "run", 4)
    checkpoint = read_checkpoint(path)
    held = hold(checkpoint, tmp_path / "held")
    assert held is not None
    assert (held / "__0_0.distcp").stat().st_ino == (path / "__0_0.distcp").stat().st_ino
    shutil.rmtree(path)
    assert read_checkpoint(held).digest == checkpoint.digest
    assert (held / "tokenizer/tokenizer.json").read_text() == "{}"


@pytest.mark.parametrize("number", range(4))
def test_a_checkpoint_that_goes_while_it_is_held_is_gone(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_checkpoint(tmp_path / "run", 4)
    checkpoint = read_checkpoint(path)
    link, calls = os.link, iter(range(100))

    def remove_first(source: Path, target: Path) -> None:
        if next(calls) == number:
            shutil.rmtree(path)
        link(source, target)

    monkeypatch.setattr(os, "link", remove_first)
    assert hold(checkpoint, tmp_path / "held") is None
    assert list((tmp_path / "held").iterdir()) == []


def test_another_checkpoint_of_the_step_is_not_taken_for_the_one_seen(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "run", 4)
    seen = read_checkpoint(path)
    shutil.rmtree(path)
    write_checkpoint(tmp_path / "run", 4, content="others")
    assert read_checkpoint(path).digest != seen.digest
    assert hold(seen, tmp_path / "held") is None


def test_without_hard_links_a_checkpoint_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_checkpoint(tmp_path / "run", 4)

    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "other file system")

    monkeypatch.setattr(os, "link", no_links)
    held = hold(read_checkpoint(path), tmp_path / "held")
    assert held is not None and (held / "__0_0.distcp").read_text() == "weights"


def test_a_run_is_found_by_folder_key_and_beginning(tmp_path: Path) -> None:
    partial = tmp_path / "pretrain" / f"{KEY}.partial"
    partial.mkdir(parents=True)
    places = (str(partial), str(partial).removesuffix(".partial"), KEY, KEY[:6])
    for words in places:
        run = PretrainingRun.find(tmp_path, words)
        assert (run.key, run.folder, run.finished) == (KEY, partial, False)
    (tmp_path / "pretrain" / f"{KEY[:6]}ff").mkdir()
    with pytest.raises(DataError, match="is the beginning of"):
        PretrainingRun.find(tmp_path, KEY[:6])
    for words in ("nothing", KEY[:2], ".."):
        with pytest.raises(DataError, match="there is no pretraining"):
            PretrainingRun.find(tmp_path, words)


def test_a_run_that_ends_is_found_under_its_new_name(tmp_path: Path) -> None:
    partial = tmp_path / "pretrain" / f"{KEY}.partial"
    write_checkpoint(partial, 4)
    run = PretrainingRun.find(tmp_path, KEY)
    assert [c.step for c in run.checkpoints()] == [4]
    finished = partial.rename(tmp_path / "pretrain" / KEY)
    assert run.checkpoints() == []
    write_json(finished / "manifest.json", {})
    assert run.finished and [c.step for c in run.checkpoints()] == [4]


# ── questions ────────────────────────────────────────────────────────────────────────────────────


def started(store: Path, packed: Path, **changes: Any) -> PretrainingRun:
    """A run whose job is written, and which has not made a step."""
    folder = store / "pretrain" / f"{KEY}.partial"
    model = {**ranks.TINY, "max_position_embeddings": 2048, **changes.pop("model", {})}
    values = ranks.settings(model=model, eval_interval=0, **changes)
    ranks.write_job(packed, folder, values)
    return PretrainingRun(folder.with_name(KEY))


def test_only_what_decides_about_figures_is_in_the_key(packed: Path, tmp_path: Path) -> None:
    run = started(tmp_path, packed)
    benchmarks = write_benchmarks(tmp_path / "benchmarks")

    def key(**changes: Any) -> str:
        return questions_of(run, benchmarks, **changes).key

    assert key() == key(gpu=3, threads=7, batch_size=1, stopped_minutes=0)
    changed = [key(limit=1), key(num_fewshot=2), key(cloze=False), key(bytes_per_source=100)]
    assert len({key(), *changed}) == 5


def test_a_routing_that_looks_ahead_is_asked_by_letters_alone(packed: Path, tmp_path: Path) -> None:
    run = started(tmp_path, packed, model={"routing": "sequence"})
    questions = questions_of(run, write_benchmarks(tmp_path / "benchmarks"))
    assert not questions.texts and not questions.cloze
    assert "looks ahead" in " ".join(questions.notes)


def test_settings_that_measure_nothing_or_cannot_be_asked_are_refused(
    packed: Path, tmp_path: Path
) -> None:
    run = started(tmp_path, packed)
    config = CheckpointScoresConfig(bytes_per_source=0)
    with pytest.raises(ConfigError, match="nothing is measured"):
        read_questions(config, run, {}, {}, on_bad_row="fail")
    benchmarks = write_benchmarks(tmp_path / "benchmarks")
    with pytest.raises(DataError, match="worked examples"):
        questions_of(run, benchmarks, num_fewshot=9)


# ── points of the curves ─────────────────────────────────────────────────────────────────────────


def record(step: int, *, skipped: int = 0, finished: float = 0, **more: Any) -> dict[str, Any]:
    batch = step + skipped
    figures = {"p_right": {"mean": step / 100}}
    return {
        "step": step,
        "batch": batch,
        "tokens": batch * 256,
        "finished": finished,
        "benchmarks": {"ceval": {"letters": figures}},
        "bits_per_byte": {"a": {"bits_per_byte": 2.0, "bits": 20, "bytes": 10}},
        **more,
    }


def test_checkpoints_that_a_rollback_discarded_are_off_the_curves() -> None:
    before = [record(10), record(20), record(27), record(30)]
    after = [record(20, skipped=4), record(30, skipped=4)]  # rolled back from 30 to 10
    assert [(r["step"], r["batch"]) for r in on_path([*before, *after])] == [
        (10, 10),
        (20, 24),
        (30, 34),
    ]
    assert on_path(before) == before
    assert on_path(reversed(before)) == before, "in whatever order they were measured"


def test_points_are_by_tokens_and_each_source_counts_by_its_bytes() -> None:
    bits = {
        "a": {"bits_per_byte": 2.0, "bits": 20, "bytes": 10},
        "b": {"bits_per_byte": 1.0, "bits": 30, "bytes": 30},
    }
    found = curves([record(10, bits_per_byte=bits), record(20)])
    assert found["tokens"] == [2560, 5120]
    assert found["metrics"]["bits_per_byte/all"] == [50 / 40, 2.0]
    assert found["metrics"]["bits_per_byte/b"] == [1.0, None]
    assert metrics_of(record(30))["ceval/letters/p_right"] == 0.3


# ── the whole, beside a training ─────────────────────────────────────────────────────────────────


def test_two_watchers_of_one_run_exclude_each_other(packed: Path, tmp_path: Path) -> None:
    run = started(tmp_path, packed)
    questions = questions_of(run, write_benchmarks(tmp_path / "benchmarks"))
    watcher = Watcher(run, questions, store=tmp_path)
    watcher.folder.parent.mkdir(parents=True)
    with (
        StageLock(watcher.folder.with_suffix(".lock"), what="another"),
        pytest.raises(StageError, match="is being made by process"),
    ):
        watcher(watch=False)


def test_a_run_that_stays_stopped_is_left_and_a_damaged_checkpoint_named(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "MISSED_SECONDS", 0)
    run = started(tmp_path, packed)
    questions = questions_of(run, write_benchmarks(tmp_path / "benchmarks"), stopped_minutes=0.001)
    whole = write_checkpoint(run.folder, 4)
    damaged = write_checkpoint(run.folder, 8)
    (damaged / "__0_0.distcp").unlink()
    result = Watcher(run, questions, store=tmp_path)(watch=True, poll_seconds=0.01)
    assert set(result.failed) == {4, 8}, "the first is no checkpoint of a model"
    assert "model.json" in result.failed[4] and "missing" in result.failed[8]
    assert not result.ended and not result.measured and whole.is_dir()
    assert not (result.folder / "work").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_checkpoint_of_a_live_training_is_measured_once_though_the_watcher_is_killed(
    packed: Path, tmp_path: Path, root: Path
) -> None:
    saved = {"interval": 4, "keep_last": 100}
    run = started(tmp_path, packed, steps=12, checkpoints=saved, log_interval=1)
    benchmarks = write_benchmarks(tmp_path / "benchmarks")
    mark = {"STEEL_TEST_WATCHER": str(tmp_path)}
    log = tmp_path / "watcher.log"
    patient: dict[str, Any] = {"seconds": PATIENCE_SECONDS, "log": log}

    def start(module: str, *arguments: object, **env: str) -> "subprocess.Popen[bytes]":
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                cwd=root,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), **env},
            )

    def watch() -> "subprocess.Popen[bytes]":
        return start("tests.tasks.checkpoint_watcher", tmp_path, benchmarks, **mark)

    def records() -> list[dict[str, Any]]:
        return [r for f in tmp_path.glob("checkpoint_scores/*/*") for r in read_records(f)]

    try:
        with StageLock(run.finished_folder.with_name(f"{KEY}.lock"), what="the training"):
            training = start("model.entry.pretrain", run.folder / JOB_FILE)
            watcher = watch()
            wait_until(records, "a checkpoint is measured", process=watcher, **patient)
            work = Watcher(run, questions_of(run, benchmarks), store=tmp_path).folder / "work"
            at_it = (work / "score_checkpoint.json").exists
            wait_until(at_it, "the next one is being measured", process=watcher, **patient)
            watcher.send_signal(signal.SIGKILL)  # in the midst of the second one
            watcher.wait()
            gone = lambda: not started_with(*next(iter(mark.items())))  # noqa: E731
            wait_until(gone, "what the watcher started is gone", **patient)
            watcher = watch()
            assert training.wait(PATIENCE_SECONDS) == 0, log.read_text()
            run.folder.rename(run.finished_folder)
            write_json(run.finished_folder / "manifest.json", {})
        assert watcher.wait(PATIENCE_SECONDS) == 0, log.read_text()
    finally:
        kill_all(*next(iter(mark.items())))
    found = records()
    assert [r["step"] for r in found] == [4, 8, 12]
    assert [r["tokens"] for r in found] == [step * 8 * 32 for step in (4, 8, 12)]
    assert len({r["digest"] for r in found}) == len({r["model"] for r in found}) == 3
    said = log.read_text()
    for step in (4, 8, 12):
        assert said.count(f"step {step}, ") == 1, "measured once"
    [folder] = {path.parent for path in tmp_path.glob("checkpoint_scores/*/*/curves.json")}
    points = json.loads((folder / "curves.json").read_text())
    for name in ("bits_per_byte/zh", "ceval/letters/p_right", "mmlu/cloze/bits_per_byte"):
        assert None not in points["metrics"][name] and len(points["metrics"][name]) == 3
    assert points["metrics"]["bits_per_byte/all"][-1] < points["metrics"]["bits_per_byte/all"][0]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "work").exists()

    # Afterwards nothing is measured again, and the same figures come of a store without records.
    questions = questions_of(run, benchmarks)
    again = Watcher(run, questions, store=tmp_path)(watch=True)
    assert (again.known, again.measured, again.ended) == (3, [], True)
    shutil.rmtree(folder / "steps")
    shutil.rmtree(tmp_path / "cache")
    for path in sorted((run.folder / CHECKPOINTS_FOLDER).iterdir())[:-1]:
        shutil.rmtree(path)
    once = Watcher(run, questions, store=tmp_path)(watch=False)
    assert once.measured == [12]
    [remeasured] = read_records(folder)
    volatile = ("seconds", "finished")
    assert {k: v for k, v in remeasured.items() if k not in volatile} == {
        k: v for k, v in found[-1].items() if k not in volatile
    }
    assert publish(folder)["steps"] == [12]


def test_the_newest_curves_of_a_run_are_an_input_of_the_report(tmp_path: Path) -> None:
    assert newest_curves(tmp_path, KEY) is None
    keys = set()
    for number, points in enumerate(([record(10)], [record(10), record(20)])):
        folder = tmp_path / "checkpoint_scores" / KEY / str(number)
        for one in points:
            write_json(folder / "steps" / f"step-{one['step']}.json", one)
        publish(folder)
        os.utime(folder / "curves.json", (number, number))
        found = newest_curves(tmp_path, KEY)
        assert found is not None and found.folder == folder
        keys.add(found.key)
    assert len(keys) == 2, "the report is made anew when a curve grows"
