"""Cleaning up a store: what stays, what goes, and what an interrupted removal leaves."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import files
from model.train.run.folder import JOURNAL_FILE
from tasks.core.lock import StageLock
from tasks.core.results.entries import entries
from tasks.core.results.in_use import Uses, to_be_removed
from tasks.core.results.leftovers import leftovers
from tasks.core.results.unneeded import Unneeded, remove, unneeded
from tests.tasks.core.results.stages import finished, interrupted, key, pipeline


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    pipeline(store, 0x100, name="mine")
    pipeline(store, 0x200, name="smoke")
    return store


def keys(found: list[Unneeded]) -> set[str]:
    return {one.key for one in found if one.kind != "leftover"}


def test_what_the_newest_results_need_stays(store: Path) -> None:
    gone = unneeded(store, (), keep=1, models=True)
    # Of the older report, everything but the report itself.
    assert keys(gone) == {key(0x100 + n) for n in range(5)}
    assert {one.kind for one in gone} == {"stage", "model"}
    assert keys(unneeded(store, (), keep=2, models=True)) == set()
    everything = {key(0x100 + n) for n in range(5)} | {key(0x200 + n) for n in range(5)}
    assert keys(unneeded(store, (), keep=0, models=True)) == everything


def test_what_a_configuration_needs_stays(store: Path) -> None:
    gone = unneeded(store, {key(0x103)}, keep=0, models=True)
    assert {key(0x100 + n) for n in range(4)} & keys(gone) == set()
    assert key(0x104) in keys(gone)
    # A key of data that were appended to a training names the training.
    finished(store, "dpo", 0x300, inputs={"policy": f"{key(0x203)}+ab12cd34"})
    gone = unneeded(store, {key(0x300)}, keep=0, models=True)
    assert not {key(0x200), key(0x203)} & keys(gone)


def test_what_a_record_names_stays(store: Path) -> None:
    (store / "records").mkdir()
    (store / "records" / "mine.json").write_text(json.dumps({"acquired": key(0x101)}))
    gone = keys(unneeded(store, (), keep=0))
    assert key(0x201) in gone and not {key(0x100), key(0x101)} & gone


def test_models_go_only_when_they_are_asked_for(store: Path) -> None:
    gone = keys(unneeded(store, (), keep=0))
    assert not {key(0x102), key(0x103), key(0x202), key(0x203)} & gone
    assert key(0x101) in gone


def test_what_an_unfinished_training_reads_stays_while_it_stands(store: Path) -> None:
    folder = interrupted(store, "pretrain", 0x300, inputs={"packed": key(0x101)})
    with StageLock(store / "pretrain" / f"{key(0x300)}.lock", what="a training"):
        gone = keys(unneeded(store, (), keep=0, models=True))
        assert not {key(0x300), key(0x100), key(0x101)} & gone
    gone = keys(unneeded(store, (), keep=0, models=True))
    assert {key(0x300), key(0x100), key(0x101)} <= gone
    # Appended data are named in its journal.
    (folder / ".scratch" / "begun.json").write_text("{}")
    (folder / JOURNAL_FILE).write_text(json.dumps([{"data": f"../../pack/{key(0x101)}"}]))
    with StageLock(store / "pretrain" / f"{key(0x300)}.lock", what="a training"):
        assert key(0x101) not in keys(unneeded(store, (), keep=0, models=True))


def test_what_was_interrupted_a_moment_ago_stays(store: Path) -> None:
    folder = interrupted(store, "pack", 0x300)
    assert key(0x300) in keys(unneeded(store, (), keep=0))
    (folder / "more").touch()
    assert key(0x300) not in keys(unneeded(store, (), keep=0))


def test_what_a_living_process_uses_stays(store: Path) -> None:
    program = (
        "import sys, pathlib; from tasks.core.results.in_use import Uses; uses = Uses();"
        "print(uses.hold(pathlib.Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    folder = store / "pack" / key(0x101)
    child = subprocess.Popen(
        [sys.executable, "-c", program, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdin is not None
    assert child.stdout.readline() == "True\n"
    listed = unneeded(store, (), keep=0, models=True)
    assert not {key(0x100), key(0x101)} & keys(listed)
    assert key(0x201) in keys(listed)
    # One that came into use after it was listed.
    late = Unneeded(kind="stage", path=folder, words="", reason="", num_bytes=0, key=key(0x101))
    assert not remove(store, late)
    assert (folder / "manifest.json").is_file()
    child.kill()
    child.wait()
    child.stdout.close()
    child.stdin.close()
    assert key(0x101) in keys(unneeded(store, (), keep=0))
    assert remove(store, late)
    assert not folder.exists()


def test_a_stage_that_is_being_removed_cannot_be_used(store: Path) -> None:
    folder = store / "pack" / key(0x101)
    uses = Uses()
    with to_be_removed(folder) as free:
        assert free
        assert not uses.hold(folder)
    assert uses.hold(folder)
    with to_be_removed(folder) as free:
        assert not free
    del uses
    with to_be_removed(folder) as free:
        assert free
    assert not Uses().hold(store / "pack" / "nothing")


def test_a_removal_that_is_interrupted_leaves_nothing_partial(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = unneeded(store, (), keep=1, models=True)

    def killed(path: Path, **_: object) -> None:
        raise KeyboardInterrupt

    real = shutil.rmtree
    monkeypatch.setattr(files.shutil, "rmtree", lambda p, **k: None if k else killed(p))
    with pytest.raises(KeyboardInterrupt):
        remove(store, removed[0])
    monkeypatch.setattr(files.shutil, "rmtree", real)
    assert not removed[0].path.exists()
    left = unneeded(store, (), keep=1, models=True)
    assert keys(left) == keys(removed) - {removed[0].key}
    assert [one.path.name for one in left if one.kind == "leftover"] == [
        f"{removed[0].key}.old.partial"
    ]
    for one in left:
        assert remove(store, one)
    assert unneeded(store, (), keep=1, models=True) == []
    assert {entry.key for entry in entries(store)} == {
        key(0x105),
        *(key(0x200 + n) for n in range(6)),
    }
    assert not list(store.glob("*/*.lock"))


CHECKPOINTS = {"checkpoints": {"interval": 10, "keep_last": 2, "keep_every": 0, "keep_best": 1}}


def training(store: Path) -> Path:
    """A finished training with five checkpoints, of which the first is the best."""
    folder = finished(store, "pretrain", 0x900, config=CHECKPOINTS)
    manifest = json.loads((folder / "manifest.json").read_text())
    for step in (10, 20, 30, 40, 50):
        place = folder / "checkpoints" / f"step-{step:08d}"
        place.mkdir(parents=True)
        loss = 1.0 if step == 10 else 2.0
        marker = {"step": step, "regular": True, "validation_loss": loss, "files": {}}
        (place / "complete.json").write_text(json.dumps(marker))
        entry = {"path": f"checkpoints/{place.name}/complete.json", "bytes": 9, "md5": "0" * 32}
        manifest["files"].append(entry)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    os.utime(folder / "manifest.json", (0x900, 0x900))
    return folder


def test_old_checkpoints_go_and_the_manifest_no_longer_lists_them(tmp_path: Path) -> None:
    folder = training(tmp_path)
    found = unneeded(tmp_path, (), keep=1)
    assert sorted(one.path.name for one in found) == ["step-00000020", "step-00000030"]
    one = unneeded(tmp_path, (), keep=1, keep_checkpoints=1)
    assert len(one) == 3  # the best one stays
    for checkpoint in found:
        assert remove(tmp_path, checkpoint)
    there = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert there == ["step-00000010", "step-00000040", "step-00000050"]
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert [entry["path"].split("/")[1] for entry in listed[1:]] == there
    assert (folder / "manifest.json").stat().st_mtime == 0x900
    with StageLock(tmp_path / "pretrain" / f"{key(0x900)}.lock", what="a training"):
        (late,) = unneeded(tmp_path, (), keep=1, keep_checkpoints=1)
        assert not remove(tmp_path, late)
        assert late.path.is_dir()


def test_caches_go_when_nobody_has_read_them_for_long(store: Path) -> None:
    old, new = store / "cache" / "old.npz", store / "cache" / "new.npz"
    old.parent.mkdir()
    for path in (old, new):
        path.write_bytes(b"12345")
    os.utime(old, (0, 0))
    (found,) = (one for one in unneeded(store, (), keep=9) if one.kind == "cache")
    assert (found.path, found.num_bytes) == (old, 5)
    interrupted(store, "sft", 0x300)
    with StageLock(store / "sft" / f"{key(0x300)}.lock", what="a training"):
        assert not [one for one in unneeded(store, (), keep=9) if one.kind == "cache"]
    assert remove(store, found) and new.exists() and not old.exists()


def test_leftovers(store: Path, own_temporary_folder: Path) -> None:
    assert leftovers(store) == []
    stale = store / "pack" / f"{key(7)}.lock"
    stale.write_text(json.dumps({"host": os.uname().nodename, "pid": 2**22 + 1, "started": "1"}))
    token = store / "pack" / f"{key(7)}.lock.abc"
    token.touch()
    os.utime(token, (0, 0))
    half = store / "cache" / "entry.123.partial"
    half.mkdir(parents=True)
    os.utime(half, (0, 0))
    chat = own_temporary_folder / "steel-chat-abc"
    chat.mkdir()
    os.utime(chat, (0, 0))
    (own_temporary_folder / "steel-mine").mkdir()  # of a user, not of Steel
    os.utime(own_temporary_folder / "steel-mine", (0, 0))
    answers = store / "cache" / "answers" / "ab.jsonl.123-4.partial"
    answers.parent.mkdir(parents=True)
    answers.touch()
    os.utime(answers, (0, 0))
    (done,) = (one.folder for one in entries(store) if one.key == key(0x203))
    scratch, other = done.with_suffix(".scratch"), done.with_name(f"{key(9)}.scratch")
    for place in (scratch, other):  # the stage of the other one goes on from it
        place.mkdir()
        os.utime(place, (0, 0))
    assert {path for path, _, _ in leftovers(store)} == {
        *(stale, token, half, chat, answers, scratch)
    }
    answers.unlink()
    scratch.rmdir()
    # What changes is in use, and so is what a process names.
    (chat / "file").touch()
    os.utime(half, (time.time(), time.time()))
    assert {path for path, _, _ in leftovers(store)} == {stale, token}
    with StageLock(store / "pack" / f"{key(8)}.lock", what="a stage"):
        assert {path for path, _, _ in leftovers(store)} == {stale, token}
