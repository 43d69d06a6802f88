"""Acquisitions that end in the middle while they take files over from an earlier one."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from corpus.refresh.earlier import Earlier
from tests.corpus.sources.acquired import (
    UNPACKED,
    A,
    B,
    C,
    acquired,
    corpora,
    counts,
    fetched,
    files_of,
    packed_files,
    place_of,
    run_in_store,
)
from tests.corpus.sources.fake_web import Web


@pytest.mark.parametrize("linked", [0, 1])
def test_stopped_while_it_takes_over(
    web: Web, store: Path, monkeypatch: pytest.MonkeyPatch, linked: int
) -> None:
    """Half an archive is at hand then; nothing of it is seen."""
    web.files = packed_files()
    location = f"{web.url}/d/"
    acquired(store, 1, corpora(location))
    fetched(web)
    give, calls = Earlier.give, threading.Semaphore(linked)

    def stop(self: Earlier, file: str, target: str, place: Path) -> None:
        give(self, file, target, place)
        if not calls.acquire(blocking=False):
            if place.is_dir():
                (place / "x.jsonl").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Earlier, "give", stop)
        with pytest.raises(KeyboardInterrupt):
            run_in_store(store, 2, corpora(location))
    assert not (place_of(store, 2) / "skypile").exists()
    second = acquired(store, 2, corpora(location))
    assert files_of(second) == UNPACKED
    assert counts(second) == (4, 0)
    assert fetched(web) == set()


def test_stopped_between_two_renames(
    web: Web, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = f"{web.url}/d/"
    acquired(store, 1, corpora(location))
    fetched(web)
    replace = Path.replace

    def stop(self: Path, target: Path) -> Path:
        if target.name == "b.jsonl":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            run_in_store(store, 2, corpora(location))
    assert [*(place_of(store, 2) / "skypile").rglob("*.jsonl")]
    assert counts(acquired(store, 2, corpora(location))) == (2, 0)
    assert fetched(web) == set()


def test_killed_in_the_middle_and_started_again(web: Web, store: Path, root: Path) -> None:
    """Files that were taken over stand, and only what is new is fetched; the counts know both."""
    location = f"{web.url}/d/"
    acquired(store, 1, corpora(location))
    web.files |= {"d/new.jsonl": C}
    fetched(web)
    asked, released = threading.Event(), threading.Event()

    def stall(path: str, start: int, data: bytes) -> bytes:
        asked.set()
        released.wait(120)
        return data

    web.spoil = stall
    program = root / "tests" / "corpus" / "sources" / "acquire_program.py"
    process = subprocess.Popen(
        [sys.executable, str(program), str(store), location, "2"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "NO_PROXY": "127.0.0.1"},
    )
    try:
        deadline = time.monotonic() + 120
        while not asked.wait(0.1):
            assert process.poll() is None
            assert time.monotonic() < deadline
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        released.set()
    there = {path.name for path in (place_of(store, 2) / "skypile").rglob("*.jsonl")}
    assert there == {"a.jsonl", "b.jsonl"}
    assert fetched(web) == {"new.jsonl"}
    second = acquired(store, 2, corpora(location))
    assert fetched(web) == {"new.jsonl"}
    assert counts(second) == (2, 1)
    assert files_of(second) == {"a.jsonl": A, "deep/b.jsonl": B, "new.jsonl": C}
