"""A store's cache: entries are found again byte for byte, or made again."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DataError
from corpus.content_cache import CHECKSUMS, made_once
from tests.processes import PATIENCE_SECONDS

FILES = {"model.bin": bytes(range(256)) * 40, "notes.json": b'{"documents": 3}\n'}


def maker(
    folder: Path, calls: list[str], files: dict[str, bytes] = FILES
) -> Callable[[], list[str]]:
    def make() -> list[str]:
        calls.append(folder.name)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return list(files)

    return make


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def folders(tmp_path: Path, *names: str) -> list[Path]:
    made = [tmp_path / name for name in names]
    for folder in made:
        folder.mkdir()
    return made


def test_what_is_found_is_what_was_made(tmp_path: Path) -> None:
    first, second, other = folders(tmp_path, "first", "second", "other")
    calls: list[str] = []
    assert not made_once(tmp_path / "cache", "model", ["a", 1], first, maker(first, calls))
    assert made_once(tmp_path / "cache", "model", ["a", 1], second, maker(second, calls))
    assert not made_once(tmp_path / "cache", "model", ["a", 2], other, maker(other, calls))
    assert calls == ["first", "other"]
    assert content(first) == content(second) == FILES


@given(data=st.data())
def test_a_flipped_byte_is_noticed_and_made_again(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tmp_path = tmp_path_factory.mktemp("flipped")
    first, second, third = folders(tmp_path, "first", "second", "third")
    calls: list[str] = []
    made_once(tmp_path / "cache", "model", "a", first, maker(first, calls))
    (entry,) = (tmp_path / "cache").iterdir()
    damaged = entry / data.draw(st.sampled_from(sorted(FILES)))
    stored = bytearray(damaged.read_bytes())
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged.write_bytes(stored)
    assert not made_once(tmp_path / "cache", "model", "a", second, maker(second, calls))
    assert made_once(tmp_path / "cache", "model", "a", third, maker(third, calls))
    assert calls == ["first", "second"]
    assert content(third) == FILES


@pytest.mark.parametrize("lost", [*FILES, CHECKSUMS])
def test_a_lost_file_is_made_again(lost: str, tmp_path: Path) -> None:
    first, second = folders(tmp_path, "first", "second")
    calls: list[str] = []
    made_once(tmp_path / "cache", "model", "a", first, maker(first, calls))
    (entry,) = (tmp_path / "cache").iterdir()
    (entry / lost).unlink()
    assert not made_once(tmp_path / "cache", "model", "a", second, maker(second, calls))
    assert content(second) == FILES
    assert content(entry).keys() == {*FILES, CHECKSUMS}


def test_nothing_is_kept_of_what_failed(tmp_path: Path) -> None:
    (folder,) = folders(tmp_path, "folder")

    def fail() -> list[str]:
        (folder / "model.bin").write_bytes(b"half")
        raise DataError("too little text")

    with pytest.raises(DataError, match="too little"):
        made_once(tmp_path / "cache", "model", "a", folder, fail)
    assert not (tmp_path / "cache").exists()


def _make_at_once(
    cache: Path, folder: Path, barrier: "multiprocessing.synchronize.Barrier"
) -> None:
    def make() -> list[str]:
        barrier.wait(PATIENCE_SECONDS)  # none of them has kept anything yet
        return maker(folder, [])()

    made_once(cache, "model", "a", folder, make)


def test_processes_that_make_the_same_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    made = folders(tmp_path, *map(str, range(4)))
    workers = [
        context.Process(target=_make_at_once, args=(tmp_path / "cache", folder, barrier))
        for folder in made
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE_SECONDS)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert all(content(folder) == FILES for folder in made)
    (entry,) = (tmp_path / "cache").iterdir()
    assert content(entry).keys() == {*FILES, CHECKSUMS}
    (late,) = folders(tmp_path, "late")
    assert made_once(tmp_path / "cache", "model", "a", late, maker(late, []))
