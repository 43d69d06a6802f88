"""A refresh beside a training: killed, twice at once, while it runs and while it is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.paths import ROOT
from corpus.sample_data import SampleDataConfig, write_dataset
from model.train.run.folder import REQUESTS_FOLDER
from tests.flows.schedules.small_pipeline import CORPORA, write_config, write_corpora

pytestmark = pytest.mark.slow  # a training and six refreshes, each a cleaning of its own

PATIENCE_SECONDS = 1200
Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `train` or `refresh` in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def make(action: str) -> "subprocess.Popen[str]":
        module = "tests.flows.schedules.small_pipeline"
        command = [sys.executable, "-m", module, action, tmp_path / "c.yaml", tmp_path / "store"]
        with (tmp_path / f"{action}-{len(started)}.log").open("w") as log:
            process = subprocess.Popen(
                list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
            )
        started.append(process)
        return process

    yield make
    for process in started:
        process.kill()
        process.communicate()


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
        found: list[dict[str, Any]] = json.loads((run / "journal.json").read_text())["entries"]
    except FileNotFoundError:
        return []
    return found


def test_new_files_join_a_running_and_a_stopped_training_once(start: Start, tmp_path: Path) -> None:
    data, store = tmp_path / "data", tmp_path / "store"
    locations = write_corpora(data)
    write_config(tmp_path / "c.yaml", locations, steps=200_000, epochs=20_000)
    training = start("train")
    until(lambda: [*store.glob("pretrain/*.partial/checkpoints/step-*/*")], training)
    (run,) = store.glob("pretrain/*.partial")

    # Killed when the new part is packed and not yet asked for; then two at once.
    add_file(data, "first.json", 99)
    killed = start("refresh")
    until(lambda: len([*store.glob("pack/*/manifest.json")]) == 2, killed)
    os.kill(killed.pid, signal.SIGKILL)
    both = [start("refresh"), start("refresh")]
    statuses = sorted(answer(process)["status"] for process in both)
    assert statuses in (["nothing is new", "requested"], ["done", "nothing is new"])
    until(lambda: len(journal(run)) == 1, training)  # it goes on, and has them
    assert answer(start("refresh"))["status"] == "nothing is new"
    (texts,) = store.glob("new_texts/*/manifest.json")
    assert json.loads(texts.read_text())["counts"]["copies"] >= 1  # the edited row
    (documents,) = store.glob("new_documents/*/manifest.json")
    assert json.loads(documents.read_text())["counts"]["known_documents"] == 1

    # Stopped: the next part waits, and joins when the same configuration is run again.
    training.send_signal(signal.SIGTERM)
    training.wait()
    add_file(data, "second.json", 123)
    later = answer(start("refresh"))
    assert later["status"] == "requested"
    assert later["samples"] > 0
    assert len([*(run / REQUESTS_FOLDER).glob("*.json")]) == 1
    again = start("train")
    until(lambda: len(journal(run)) == 2, again)
    assert [*store.glob("pretrain/*.partial")] == [run]
    again.send_signal(signal.SIGTERM)
    again.wait()
    # No text joined twice: every packed part has its own documents.
    folders = [entry["folder"] for entry in journal(run)]
    assert len(set(folders)) == 2
    assert {*CORPORA} >= {path.parent.name for path in store.glob("new_texts/*/*/*.jsonl")}
    texts_of = [
        {json.loads(line)["text"] for path in part.glob("*/*.jsonl") for line in path.open()}
        for part in [*store.glob("clean/*"), *store.glob("new_texts/*")]
        if "new" not in json.loads((part / "manifest.json").read_text())["label"]
    ]
    assert sum(map(len, texts_of)) == len(set().union(*texts_of))
