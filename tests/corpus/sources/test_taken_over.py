"""A second acquisition fetches what is new or has changed, and gives the bytes of a first one."""

import base64
import errno
import gzip
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from common import disk as _disk
from common import recipes as _recipes
from common.errors import DataError
from common.files import remove_folder
from corpus.refresh.earlier import RECORD
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
)
from tests.corpus.sources.fake_web import Web


def stated(web: Web, kind: str) -> None:
    """Let the server say by this what a file is."""
    if kind == "Content-MD5":
        web.etags = False
        web.headers_of = lambda data: {
            "Content-MD5": base64.b64encode(hashlib.md5(data).digest()).decode()
        }
    elif kind == "weak ETag":
        web.headers_of = lambda data: {"ETag": f'W/"{hashlib.md5(data).hexdigest()}"'}
    elif kind == "ETag without a size":
        web.sizes = False
    elif kind == "nothing":
        web.etags = False


@pytest.mark.parametrize("kind", ["ETag", "Content-MD5"])
def test_unchanged_files_are_not_fetched_and_all_are_as_of_a_first_acquisition(
    web: Web, store: Path, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    stated(web, kind)
    location = f"{web.url}/d/"
    first = acquired(store, 1, corpora(location))
    assert fetched(web) == {"a.jsonl", "deep/b.jsonl"}
    assert counts(first) == (0, 2)
    web.files |= {"d/a.jsonl": C[: len(A)], "d/c.jsonl": C}  # as many bytes as before
    caplog.set_level(logging.INFO)
    second = acquired(store, 2, corpora(location))
    assert fetched(web) == {"a.jsonl", "c.jsonl"}
    assert counts(second) == (1, 2)
    assert second.manifest["counts"]["bytes_taken_over"] == len(B)
    words = f"1 file, {len(B) / 1000:.1f} kB taken over from an earlier acquisition, 2 files fetch"
    assert words in caplog.text
    anew = acquired(tmp_path / "another", 1, corpora(location))
    assert counts(anew) == (0, 3)
    assert second.manifest["files"] == anew.manifest["files"]  # sources.json, too
    third = acquired(store, 3, corpora(location))
    assert counts(third) == (3, 0)
    fetched(web)
    for earlier in (first, second):  # as `steel gc` does
        remove_folder(earlier.folder)
    assert files_of(third) == files_of(anew)
    assert counts(acquired(store, 4, corpora(location))) == (3, 0)


@pytest.mark.parametrize("kind", ["weak ETag", "ETag without a size", "nothing"])
def test_what_proves_nothing_is_fetched_and_takes_no_room_twice(
    web: Web, store: Path, kind: str
) -> None:
    stated(web, kind)
    first = acquired(store, 1, corpora(f"{web.url}/d/"))
    assert fetched(web) == {"a.jsonl", "deep/b.jsonl"}
    web.files["d/a.jsonl"] = C[: len(A)]
    second = acquired(store, 2, corpora(f"{web.url}/d/"))
    assert fetched(web) == {"a.jsonl", "deep/b.jsonl"}
    assert counts(second) == (0, 2)
    assert files_of(second) == {"a.jsonl": C[: len(A)], "deep/b.jsonl": B}
    for name, same in (("a.jsonl", False), ("deep/b.jsonl", True)):
        one, other = (result.folder / "skypile" / name for result in (first, second))
        assert one.samefile(other) is same


def test_a_version_counts_at_its_own_address_alone(web: Web, store: Path) -> None:
    web.headers = {"ETag": '"1"'}
    web.files = {"d/a.jsonl": A, "e/a.jsonl": C[: len(A)]}
    acquired(store, 1, corpora(f"{web.url}/d/"))
    assert files_of(acquired(store, 2, corpora(f"{web.url}/e/"))) == {"a.jsonl": C[: len(A)]}


def test_a_file_that_changed_between_its_listing_and_its_download_is_fetched_again(
    web: Web, store: Path
) -> None:
    """It goes back to the listed version later: what was fetched is not what that stands for."""
    web.files = {"d/a.jsonl": A}
    other = C[: len(A)]

    asked = [0]

    def answer(method: str, path: str) -> None:
        asked[0] += path == "/d/a.jsonl"
        if asked[0] == 2:  # the first is the listing's
            web.files["d/a.jsonl"] = other

    web.before = answer
    first = acquired(store, 1, corpora(f"{web.url}/d/a.jsonl"))
    assert files_of(first) == {"a.jsonl": other}
    web.before = lambda method, path: None
    web.files["d/a.jsonl"] = A
    assert files_of(acquired(store, 2, corpora(f"{web.url}/d/a.jsonl"))) == {"a.jsonl": A}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damaged", "again"),
    [
        ("", set()),
        ("one.jsonl", {"one.jsonl.gz"}),
        ("two/y/z.jsonl", {"two.zip"}),
        ("three/x.jsonl", {"three.tar.zst"}),
        ("four.jsonl", {"four.jsonl"}),
    ],
)
@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_packed_files_are_taken_over_unpacked_unless_a_byte_is_wrong(
    web: Web,
    store: Path,
    caplog: pytest.LogCaptureFixture,
    damaged: str,
    again: set[str],
    damage: Callable[[Path], None],
) -> None:
    web.files = packed_files()
    first = acquired(store, 1, corpora(f"{web.url}/d/"))
    assert files_of(first) == UNPACKED
    fetched(web)
    if damaged:
        damage(first.folder / "skypile" / damaged)
    second = acquired(store, 2, corpora(f"{web.url}/d/"))
    assert files_of(second) == UNPACKED
    assert fetched(web) == again
    assert counts(second) == (4 - len(again), len(again))
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert [damaged in warning for warning in warnings] == [True] * len(again)


def test_a_copy_where_there_are_no_links_is_verified_too(
    web: Web, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = acquired(store, 1, corpora(f"{web.url}/d/"))
    flip(first.folder / "skypile" / "a.jsonl")
    fetched(web)

    def no_link(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(os, "link", no_link)
    second = acquired(store, 2, corpora(f"{web.url}/d/"))
    assert fetched(web) == {"a.jsonl"}
    assert files_of(second) == {"a.jsonl": A, "deep/b.jsonl": B}
    b = "skypile/deep/b.jsonl"
    assert not (second.folder / b).samefile(first.folder / b)


@pytest.fixture
def pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Let the recipe of skypile pin a.jsonl."""
    original = _recipes.read_yaml(_recipes.recipe_path("corpora", "skypile"))
    path = tmp_path / "data_recipes" / "corpora" / "skypile.yaml"
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(_recipes, "RECIPES", tmp_path / "data_recipes")

    def write(content: bytes) -> None:
        pinned = {"sha256": {"a.jsonl": hashlib.sha256(content).hexdigest()}}
        path.write_text(yaml.safe_dump(original | pinned), encoding="utf-8")

    write(A)
    return write


def test_a_pinned_file_is_taken_over_while_the_recipe_pins_the_same(
    web: Web, store: Path, pin: Callable[[bytes], None]
) -> None:
    acquired(store, 1, corpora(f"{web.url}/d/"))
    fetched(web)
    assert counts(acquired(store, 2, corpora(f"{web.url}/d/"))) == (2, 0)
    assert fetched(web) == set()
    pin(C)
    with pytest.raises(DataError, match=r"a\.jsonl.*the recipe says"):
        acquired(store, 3, corpora(f"{web.url}/d/"))


def test_samples_neither_take_over_nor_are_taken_over(web: Web, store: Path) -> None:
    web.files = packed_files()
    sampled, whole = corpora(f"{web.url}/d/", limit=8), corpora(f"{web.url}/d/")
    sample = files_of(acquired(store, 1, sampled))
    assert sum(data.count(b"\n") for data in sample.values()) == 8
    second = acquired(store, 2, whole)
    assert counts(second) == (0, 4)
    assert files_of(second) == UNPACKED
    again = acquired(store, 3, sampled)
    assert counts(again) == (0, 0)
    assert files_of(again) == sample


def test_an_acquisition_without_a_record_is_fetched_and_shares_its_disk(
    web: Web, store: Path
) -> None:
    first = acquired(store, 1, corpora(f"{web.url}/d/"))
    (first.folder / RECORD).unlink()
    second = acquired(store, 2, corpora(f"{web.url}/d/"))
    assert counts(second) == (0, 2)
    assert (second.folder / "skypile/a.jsonl").samefile(first.folder / "skypile/a.jsonl")
    (second.folder / RECORD).write_bytes(b'{"skypile": {"a.jso')
    assert counts(acquired(store, 3, corpora(f"{web.url}/d/"))) == (0, 2)


def test_of_a_local_folder_the_bytes_decide(tmp_path: Path, store: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    contents = {"a.jsonl": A, "b.jsonl": B, "p.jsonl.gz": gzip.compress(C, mtime=0)}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    first = acquired(store, 1, corpora(str(folder)))
    changed, before = folder / "a.jsonl", (folder / "a.jsonl").stat()
    changed.write_bytes(C[: len(A)])
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # size and time are as they were
    second = acquired(store, 2, corpora(str(folder)))
    assert files_of(second) == {"a.jsonl": C[: len(A)], "b.jsonl": B, "p.jsonl": C}
    assert counts(second) == (1, 2)
    for name, same in (("a.jsonl", False), ("b.jsonl", True), ("p.jsonl", True)):
        one, other = (result.folder / "skypile" / name for result in (first, second))
        assert one.samefile(other) is same
    assert not (second.folder / "skypile/b.jsonl").samefile(folder / "b.jsonl")


def test_room_is_asked_for_what_is_fetched_alone(
    tmp_path: Path, store: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(A * 1000)
    web.files = {"d/a.jsonl": A * 1000}
    for number, location in enumerate((str(folder), f"{web.url}/d/")):
        acquired(store, 10 * number + 1, corpora(location))
        free = _disk.RESERVE + len(A) * 500
        usage = _disk.shutil.disk_usage(tmp_path)._replace(free=free)
        with monkeypatch.context() as patch:
            patch.setattr(_disk.shutil, "disk_usage", lambda _, usage=usage: usage)
            assert counts(acquired(store, 10 * number + 2, corpora(location))) == (1, 0)
            with pytest.raises(DataError, match="are free there"):
                acquired(tmp_path / f"empty-{number}", 1, corpora(location))
