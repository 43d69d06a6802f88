"""A refresh beside a training: killed, twice at once, while it runs and while it is stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.paths import ROOT
from corpus.sample_data import SampleDataConfig, write_dataset
from model.train.run.folder import (
    JOB_FILE,
    JOURNAL_FILE,
    REFUSED_FOLDER,
    REQUESTS_FOLDER,
    SESSIONS_FILE,
)
from tests.flows.schedules.small_pipeline import CORPORA, write_config, write_corpora

# Trainings and refreshes, each a cleaning of its own; the first test waits for the training, too.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PATIENCE_SECONDS = 600
Start = Callable[[str], "subprocess.Popen[str]"]


@contextmanager
def processes(folder: Path) -> Iterator[Start]:
    """Start `train` or `refresh` in a process of its own; none outlives the block."""
    started: list[subprocess.Popen[str]] = []

    def make(action: str) -> "subprocess.Popen[str]":
        module = "tests.flows.schedules.small_pipeline"
        command = [sys.executable, "-m", module, action, folder / "c.yaml", folder / "store"]
        with (folder / f"{action}-{len(started)}.log").open("w") as log:
            process = subprocess.Popen(
                list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
            )
        started.append(process)
        return process

    try:
        yield make
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A training of many steps, stopped after its first checkpoint; its folder, and a copy of it.

    A training takes minutes to begin, so that all tests go on from this one, each from the state
    in the copy, at the same place: keys know the places of corpora.
    """
    folder = tmp_path_factory.mktemp("refreshed")
    write_config(folder / "c.yaml", write_corpora(folder / "data"), steps=200_000, epochs=20_000)
    with processes(folder) as start:
        training = start("train")
        store = folder / "store"
        until(lambda: [*store.glob("pretrain/*.partial/checkpoints/step-*/*")], training)
        stop(training)
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, copy)
    return folder, copy


@pytest.fixture
def folder(stopped: tuple[Path, Path]) -> Path:
    """The folder of the stopped training, as it was."""
    place, copy = stopped
    shutil.rmtree(place)
    shutil.copytree(copy, place)
    return place


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start `train` or `refresh` beside this training."""
    with processes(folder) as make:
        yield make


@pytest.fixture
def run(folder: Path) -> Path:
    """Folder of the training."""
    (found,) = folder.glob("store/pretrain/*.partial")
    return found


def until(condition: Callable[[], Any], *processes: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        assert all(process.poll() is None for process in processes), "it has ended"
        time.sleep(0.1)


def answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, out
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def add_file(data: Path, name: str, seed: int) -> list[str]:
    """A file of new rows, of a known one, and of a known one with one character changed."""
    rows = json.loads((data / "wikipedia_cn" / WIKIPEDIA).read_text("utf-8"))
    folder = data.parent / f"more-{seed}"
    write_dataset("corpora", "wikipedia_cn", folder, SampleDataConfig(seed=seed, scale=0.05))
    new = json.loads((folder / WIKIPEDIA).read_text("utf-8"))
    text = rows[5]["completion"]
    edited = {**rows[5], "completion": f"{text[:40]}改{text[41:]}"}
    content = json.dumps([*new, rows[2], edited], ensure_ascii=False)
    (data / "wikipedia_cn" / name).write_text(content, "utf-8")
    return [row["completion"] for row in new]


WIKIPEDIA = "wikipedia-cn-20230720-filtered.json"


def journal(run: Path) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads((run / JOURNAL_FILE).read_text())["entries"]
    except FileNotFoundError:
        return []
    return found


def resume(start: Start, run: Path) -> "subprocess.Popen[str]":
    """Let the training go on."""
    training = start("train")
    until(lambda: (run / SESSIONS_FILE).read_text().count('"begin"') == 2, training)
    return training


def stop(training: "subprocess.Popen[str]") -> None:
    training.send_signal(signal.SIGTERM)
    training.communicate(timeout=PATIENCE_SECONDS)


def counts(store: Path, stage: str) -> dict[str, Any]:
    """Counts of the only result of a stage."""
    (manifest,) = store.glob(f"{stage}/*/manifest.json")
    found: dict[str, Any] = json.loads(manifest.read_text())["counts"]
    return found


def trained_texts(store: Path, run: Path) -> list[str]:
    """All texts that were packed for a training and the parts that joined it."""
    packed = Path(json.loads((run / JOB_FILE).read_text())["packed"])
    folders = [packed, *((run / entry["folder"]).resolve().parent for entry in journal(run))]
    texts = []
    for folder in folders:
        key = json.loads((folder / "manifest.json").read_text())["inputs"]["cleaned"]
        (cleaned,) = store.glob(f"*/{key}/manifest.json")
        for path in sorted(cleaned.parent.glob("*/[0-9]*.jsonl")):
            lines = path.read_text("utf-8").split("\n")
            texts += [json.loads(line)["text"] for line in lines if line]
    return texts


def check_texts(store: Path, run: Path, new: list[str]) -> None:
    """Every new text that cleaning left as it was is trained on, and no text twice."""
    texts = trained_texts(store, run)
    assert len(texts) == len(set(texts))
    assert len({*new} & {*texts}) > len(new) // 2


def test_new_files_join_a_running_training_once(start: Start, folder: Path, run: Path) -> None:
    store = folder / "store"
    training = resume(start, run)
    new = add_file(folder / "data", "first.json", 99)
    assert answer(start("refresh"))["status"] in ("requested", "done")
    until(lambda: len(journal(run)) == 1, training)  # it goes on, and has them
    stop(training)
    assert counts(store, "new_texts")["copies"] >= 1  # the edited row
    assert counts(store, "new_documents")["known_documents"] == 1
    check_texts(store, run, new)


def test_a_killed_refresh_is_taken_up_by_one_of_two(start: Start, folder: Path, run: Path) -> None:
    """Killed when the new part is packed and not yet asked for; then two at once."""
    store = folder / "store"
    add_file(folder / "data", "first.json", 99)
    killed = start("refresh")
    until(lambda: len([*store.glob("pack/*/manifest.json")]) == 2, killed)
    os.kill(killed.pid, signal.SIGKILL)
    both = [start("refresh"), start("refresh")]
    statuses = sorted(answer(process)["status"] for process in both)
    # The first one may have been killed after its request.
    assert statuses in (["nothing is new", "requested"], ["nothing is new"] * 2)
    assert len([*(run / REQUESTS_FOLDER).glob("*.json")]) == 1


def test_new_files_wait_for_a_stopped_training(start: Start, folder: Path, run: Path) -> None:
    """They join when the same configuration is run again, though its corpora are others now."""
    store = folder / "store"
    new = add_file(folder / "data", "first.json", 99)
    first = answer(start("refresh"))
    assert first["status"] == "requested"
    assert first["samples"] > 0
    new += add_file(folder / "data", "second.json", 123)  # beside what waits
    assert answer(start("refresh"))["status"] == "requested"
    assert len([*(run / REQUESTS_FOLDER).glob("*.json")]) == 2
    again = start("train")
    until(lambda: len(journal(run)) == 2, again)
    assert [*store.glob("pretrain/*.partial")] == [run]
    stop(again)
    assert {path.parent.name for path in store.glob("new_texts/*/*/*.jsonl")} <= {*CORPORA}
    check_texts(store, run, new)


def test_a_refused_part_is_taken_up_again(start: Start, folder: Path, run: Path) -> None:
    """A trainer refuses a request on a full disk, for one: its texts are asked for once more."""
    new = add_file(folder / "data", "first.json", 99)
    assert answer(start("refresh"))["status"] == "requested"
    (request,) = (run / REQUESTS_FOLDER).glob("*.json")
    refused = run / REQUESTS_FOLDER / REFUSED_FOLDER
    refused.mkdir()
    request.rename(refused / request.name)
    later = answer(start("refresh"))
    assert later["status"] == "requested"
    assert later["documents"] >= len(new) // 2
