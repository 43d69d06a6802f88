"""Files that are absent or complete, whoever writes them and whenever they are read."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import StageError
from common.files import (
    PARTIAL,
    complete_file,
    publish_folder,
    write_json,
    write_shared,
    write_status,
)


def test_an_interrupted_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "value.json"
    write_json(path, {"钢": 1})
    with pytest.raises(KeyboardInterrupt), complete_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert json.loads(path.read_text("utf-8")) == {"钢": 1}
    write_json(path, {"钢": 2})
    assert json.loads(path.read_text("utf-8")) == {"钢": 2}
    assert [p.name for p in path.parent.iterdir()] == ["value.json"]


def test_a_process_that_wakes_up_late_spoils_no_file(tmp_path: Path) -> None:
    """Stopped while it wrote, and gone on with while another one writes, and after that."""
    path = tmp_path / "answers.jsonl"
    for moment in ("while", "after"):
        late = complete_file(path)
        file = late.__enter__()
        file.write(b"old " * 10)
        with complete_file(path) as new:
            new.write(b"new")
            if moment == "while":
                file.write(b"old " * 10)
                with pytest.raises(StageError, match="is being written by another process"):
                    late.__exit__(None, None, None)
        if moment == "after":
            file.write(b"old " * 10)
            with pytest.raises(StageError, match="is being written by another process"):
                late.__exit__(None, None, None)
        assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_status_is_whole_though_many_write_it(tmp_path: Path) -> None:
    path = tmp_path / "status"
    write_status(path, [0] * 1000)
    stop = threading.Event()

    def write(number: int) -> None:
        while not stop.is_set():
            write_status(path, [number] * 1000)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(300):
            values = json.loads(path.read_text())
            assert len(values) == 1000 and len(set(values)) == 1
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert list(tmp_path.iterdir()) == [path]


def test_a_published_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    final = tmp_path / "model"
    for content in ("first", "second"):
        partial = tmp_path / f"model{PARTIAL}"
        (partial / "inner").mkdir(parents=True)
        (partial / "inner" / content).write_text(content)
        publish_folder(partial, final)
        assert [p.name for p in (final / "inner").iterdir()] == [content]
    assert list(tmp_path.iterdir()) == [final]


def test_what_many_write_at_once_is_whole_and_leaves_nothing(tmp_path: Path) -> None:
    path, content = tmp_path / "a[1].jsonl", b"x" * 100_000
    (tmp_path / "a[1].jsonl.77.partial").write_bytes(b"of one that was killed")
    (tmp_path / "another.jsonl.77.partial").write_bytes(b"stays")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: write_shared(path, content), range(40)))
    assert path.read_bytes() == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a[1].jsonl", "another.jsonl.77.partial"]


def test_a_full_disk_leaves_nothing_of_what_many_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_shared(tmp_path / "a", b"x")
    with pytest.raises(FileNotFoundError):
        write_shared(tmp_path / "no" / "a", b"x")
    assert list(tmp_path.iterdir()) == []
