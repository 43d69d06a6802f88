"""Acquire from URLs: every shape of location, interruption, damage, and secrets."""

import base64
import hashlib
import importlib.util
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
import yaml

from common import recipes as _recipes
from common.config import validate
from common.errors import ConfigError, DataError
from corpus.sources import remote, retry
from tasks.acquire import AcquireConfig, acquire
from tasks.core.stage import plain, stage_key
from tests.corpus.sources.fake_web import Web, serving
from tests.processes import wait_until
from tests.tasks.running import RecordingTrack, run_stage

LINES = b"".join(b'{"text": "%d"}\n' % i for i in range(50))
SIGNED = "X-Amz-Signature=5f3cSECRET&X-Amz-Credential=AKIASECRET"


def corpora(location: str) -> AcquireConfig:
    return AcquireConfig(kind="corpora", datasets={"skypile": location})


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def random_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(retry, "PAUSE", 0.01)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(Web()) as server:
        yield server


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder in fsspec's file system in memory."""
    fs = fsspec.filesystem("memory")
    fs.pipe(
        {
            "/lake/a.jsonl": LINES,
            "/lake/deep/b.jsonl": LINES * 2,
            "/lake/.hidden": b"no",
            "/lake/notes.md": b"# notes",
        }
    )
    yield "memory://lake"
    fs.rm("/lake", recursive=True)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Change the recipe of skypile."""
    original = _recipes.read_yaml(_recipes.recipe_path("corpora", "skypile"))
    folder = tmp_path / "data_recipes"
    (folder / "corpora").mkdir(parents=True)
    monkeypatch.setattr(_recipes, "RECIPES", folder)

    def write(**changes: object) -> None:
        path = folder / "corpora" / "skypile.yaml"
        path.write_text(yaml.safe_dump(original | changes), encoding="utf-8")

    write()
    return write


@pytest.mark.parametrize(
    ("tail", "names"),
    [
        ("/a.jsonl", {"a.jsonl"}),
        ("", {"a.jsonl", "deep/b.jsonl", "notes.md"}),
        ("/", {"a.jsonl", "deep/b.jsonl", "notes.md"}),
        ("/**/*.jsonl", {"a.jsonl", "deep/b.jsonl"}),
        ("/deep/*.jsonl", {"b.jsonl"}),
    ],
)
def test_file_folder_and_glob_in_a_file_system(
    memory: str, tmp_path: Path, tail: str, names: set[str]
) -> None:
    validate(corpora(memory + tail), "acquire")
    run = run_stage(acquire, tmp_path / "out", corpora(memory + tail))
    got = files_of(tmp_path / "out" / "skypile")
    assert got.keys() == names
    for name, content in got.items():
        assert content == {"a": LINES, "b": LINES * 2, "n": b"# notes"}[Path(name).name[0]]
    assert run.notes["origins"] == {"skypile": memory + tail}


@pytest.mark.parametrize(
    ("tail", "names"),
    [
        ("/d/a.jsonl", {"a.jsonl"}),
        ("/d/", {"a.jsonl", "e/b c.jsonl", "e/百科.jsonl"}),
        ("/d/e/*.jsonl", {"b c.jsonl", "百科.jsonl"}),
        ("/d/**/*.jsonl", {"a.jsonl", "e/b c.jsonl", "e/百科.jsonl"}),
        ("/d/a.jsonl?download=true", {"a.jsonl"}),
    ],
)
def test_file_folder_and_glob_on_a_web_server(
    web: Web, tmp_path: Path, tail: str, names: set[str]
) -> None:
    web.files = {"d/a.jsonl": LINES, "d/e/b c.jsonl": LINES, "d/e/百科.jsonl": LINES}
    run_stage(acquire, tmp_path / "out", corpora(web.url + tail))
    assert files_of(tmp_path / "out" / "skypile") == dict.fromkeys(names, LINES)


def test_nothing_there_is_one_clear_error(web: Web, memory: str, tmp_path: Path) -> None:
    for location in (f"{web.url}/no.jsonl", f"{memory}/no.jsonl", f"{memory}/*.parquet"):
        with pytest.raises(DataError, match=r"no\.jsonl|parquet") as caught:
            run_stage(acquire, tmp_path / "out", corpora(location))
        assert location in str(caught.value)
    assert len([r for r in web.requests if r[0] == "HEAD"]) == 1, "a missing file is asked for once"


def test_unreachable_server_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9"):
        run_stage(acquire, tmp_path / "out", corpora("http://127.0.0.1:9/a.jsonl"))


def test_server_that_knows_neither_ranges_nor_sizes(web: Web, tmp_path: Path) -> None:
    web.files = {"a.jsonl": LINES * 1000}
    web.ranges = web.sizes = web.etags = False
    run_stage(acquire, tmp_path / "out", corpora(f"{web.url}/a.jsonl"))
    assert files_of(tmp_path / "out" / "skypile") == {"a.jsonl": LINES * 1000}


def test_cut_connections_are_picked_up_where_they_broke(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "BLOCK", 1000)
    web.files = {"a.jsonl": LINES * 10}
    broken: list[int] = []

    def spoil(path: str, start: int, data: bytes) -> bytes | None:
        if start >= 3000 and len(broken) < 2:
            broken.append(start)
            return None
        return data

    web.spoil = spoil
    run_stage(acquire, tmp_path / "out", corpora(f"{web.url}/a.jsonl"))
    assert files_of(tmp_path / "out" / "skypile") == {"a.jsonl": LINES * 10}
    starts = [int(r[2][6:].split("-")[0]) for r in web.requests if r[2]]
    assert broken == [3000, 3000]
    assert starts.count(0) == 1, "what had arrived is not asked for again"


def test_error_that_lasts_is_not_tried_for_ever(web: Web, tmp_path: Path) -> None:
    web.files = {"a.jsonl": LINES}
    web.spoil = lambda path, start, data: None
    with pytest.raises(DataError, match=r"a\.jsonl"):
        run_stage(acquire, tmp_path / "out", corpora(f"{web.url}/a.jsonl"))
    assert not (tmp_path / "out" / "skypile").exists()
    assert sum(r[0] == "GET" for r in web.requests) <= 2 * retry.ATTEMPTS


def run_until_killed(web: Web, folder: Path, reached: Callable[[], bool], root: Path) -> None:
    """Acquire the server's folder d in a process that is killed once `reached` is true."""
    program = root / "tests" / "corpus" / "sources" / "acquire_program.py"
    environment = {**os.environ, "PYTHONPATH": str(root), "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen(
        [sys.executable, str(program), str(folder), f"{web.url}/d/*"], env=environment, cwd=root
    )
    try:
        wait_until(reached, "the download is as far as it is to be", process=process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("changed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_download_continues_unless_the_file_has_changed(
    web: Web, tmp_path: Path, root: Path, changed: bool
) -> None:
    big, small = random_bytes(remote.BLOCK * 2 + 12345), LINES
    web.files = {"d/a.jsonl": small, "d/big.jsonl": big}
    released = threading.Event()

    def stall(path: str, start: int, data: bytes) -> bytes:
        if path == "d/big.jsonl" and start >= remote.BLOCK:
            released.wait()
        return data

    web.spoil = stall
    out = tmp_path / "out"
    half = out / ".scratch" / "skypile" / "half" / "big.jsonl"
    finished = out / "skypile" / "a.jsonl"

    def one_finished_the_other_half_there() -> bool:  # they are fetched side by side
        return finished.exists() and half.exists() and half.stat().st_size >= remote.BLOCK

    try:
        run_until_killed(web, out, one_finished_the_other_half_there, root)
    finally:
        released.set()
    assert finished.read_bytes() == small
    assert not (out / "skypile" / "big.jsonl").exists(), "half a file is not seen"
    stamp = finished.stat().st_mtime_ns
    if changed:
        big = random_bytes(len(big))[::-1]
        web.files["d/big.jsonl"] = big
    web.requests.clear()
    run_stage(acquire, out, corpora(f"{web.url}/d/*"))
    assert files_of(out / "skypile") == {"a.jsonl": small, "big.jsonl": big}
    ranges = [r[2] for r in web.requests if r[0] == "GET" and r[1].endswith("big.jsonl")]
    assert (f"bytes={remote.BLOCK}-{2 * remote.BLOCK - 1}" in ranges) is True
    assert any(r.startswith("bytes=0-") for r in ranges) is changed
    if not changed:
        assert finished.stat().st_mtime_ns == stamp, "a finished file is left alone"


def test_file_without_a_version_begins_again(web: Web, tmp_path: Path) -> None:
    web.files, web.etags = {"a.jsonl": LINES}, False
    half = tmp_path / "out" / ".scratch" / "skypile" / "half" / "a.jsonl"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"x" * 100)
    run_stage(acquire, tmp_path / "out", corpora(f"{web.url}/a.jsonl"))
    assert files_of(tmp_path / "out" / "skypile") == {"a.jsonl": LINES}


def flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def test_pinned_checksum(web: Web, tmp_path: Path, recipe: Callable[..., None]) -> None:
    web.files = {"a.jsonl": LINES}
    recipe(sha256={"a.jsonl": hashlib.sha256(LINES).hexdigest()})
    run_stage(acquire, tmp_path / "good", corpora(f"{web.url}/a.jsonl"))
    local = tmp_path / "mine"
    local.mkdir()
    (local / "a.jsonl").write_bytes(flip(LINES))
    web.files = {"a.jsonl": flip(LINES)}
    for location in (f"{web.url}/a.jsonl", str(local)):
        out = tmp_path / "bad"
        with pytest.raises(DataError, match=r"a\.jsonl.*SHA-256.*the recipe says"):
            run_stage(acquire, out, corpora(location))
        assert not (out / "skypile").exists()
    recipe(sha256={"b.jsonl": "0" * 64})
    with pytest.raises(DataError, match=r"b\.jsonl"):
        run_stage(acquire, tmp_path / "absent", corpora(str(local)))
    recipe(sha256={"a.jsonl": "123"})
    with pytest.raises(ConfigError, match="64 hexadecimal"):
        validate(corpora(str(local)), "acquire")


def test_pinned_checksums_change_the_key(tmp_path: Path, recipe: Callable[..., None]) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    before = stage_key("acquire", 2, corpora(str(tmp_path / "a.jsonl")), {})
    recipe(sha256={"a.jsonl": hashlib.sha256(LINES).hexdigest()})
    assert stage_key("acquire", 2, corpora(str(tmp_path / "a.jsonl")), {}) != before


def test_checksum_that_the_server_states(web: Web, tmp_path: Path) -> None:
    web.files = {"a.jsonl": LINES}
    web.headers = {"Content-MD5": base64.b64encode(hashlib.md5(LINES).digest()).decode()}
    run_stage(acquire, tmp_path / "good", corpora(f"{web.url}/a.jsonl"))
    web.spoil = lambda path, start, data: flip(data)
    with pytest.raises(DataError, match=r"a\.jsonl.*MD5"):
        run_stage(acquire, tmp_path / "bad", corpora(f"{web.url}/a.jsonl"))
    assert not (tmp_path / "bad" / "skypile").exists()


def test_transfer_that_was_damaged_once_is_repeated(web: Web, tmp_path: Path) -> None:
    web.files = {"a.jsonl": LINES}
    digest = base64.b64encode(hashlib.sha256(LINES).digest()).decode()
    web.headers = {"Digest": f"sha-256={digest}"}
    first = [True]
    web.spoil = lambda path, start, data: flip(data) if first and first.pop() else data
    run_stage(acquire, tmp_path / "out", corpora(f"{web.url}/a.jsonl"))
    assert files_of(tmp_path / "out" / "skypile") == {"a.jsonl": LINES}


def test_changed_listing_begins_again(web: Web, tmp_path: Path) -> None:
    out = tmp_path / "out"
    web.files = {"d/a.jsonl": LINES, "d/b.jsonl": b"{}\n"}
    web.spoil = lambda path, start, data: None if path == "d/b.jsonl" else data
    with pytest.raises(DataError):
        run_stage(acquire, out, corpora(f"{web.url}/d/*"))
    assert files_of(out / "skypile") == {"a.jsonl": LINES}
    web.files = {"d/c.jsonl": LINES}
    web.spoil = lambda path, start, data: data
    run_stage(acquire, out, corpora(f"{web.url}/d/*"))
    assert files_of(out / "skypile") == {"c.jsonl": LINES}


@pytest.mark.parametrize("name", ["..%2f..%2fevil.jsonl", "%2e%2e/evil.jsonl", "C:%5cevil.jsonl"])
def test_names_that_lead_out_of_the_folder_are_refused(web: Web, tmp_path: Path, name: str) -> None:
    web.links = {"d/": [name]}
    with pytest.raises(DataError, match="refused"):
        run_stage(acquire, tmp_path / "deep" / "out", corpora(f"{web.url}/d/"))
    assert not list(tmp_path.rglob("evil*"))


def test_folder_that_cannot_be_listed_whole_is_no_smaller_corpus(web: Web, tmp_path: Path) -> None:
    web.files = {"d/a.jsonl": LINES}
    web.links = {"d/": ["a.jsonl", "gone/"], "d/gone/": None}
    with pytest.raises(DataError, match="cannot be listed"):
        run_stage(acquire, tmp_path / "out", corpora(f"{web.url}/d/"))


@pytest.mark.skipif(importlib.util.find_spec("s3fs") is not None, reason="s3fs is installed")
def test_missing_package_is_named_before_work_starts() -> None:
    with pytest.raises(ConfigError, match=r"s3fs.*pip install") as caught:
        validate(corpora(f"s3://key:SECRET@bucket/corpus/*.jsonl?{SIGNED}"), "acquire")
    assert "SECRET" not in str(caught.value)
    assert "skypile" in str(caught.value)


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("nonsense://x", "unknown protocol"),
        ("zip://a::https://x/b.zip", "unpacked"),
        ("file:///data/x", "as a path"),
    ],
)
def test_locations_that_are_not_supported_say_so(location: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate(corpora(location), "acquire")


def test_preflight_counts_urls_as_unknown_and_asks_no_network() -> None:
    assert corpora("http://127.0.0.1:9/a.jsonl").bytes_needed() == 0
    validate(corpora("http://127.0.0.1:9/a.jsonl"), "acquire")


def test_secrets_are_seen_nowhere(
    web: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    web.files = {"a.jsonl": LINES}
    web.password = base64.b64encode(b"alice:pass-SECRET").decode()
    with_user = web.url.replace("http://", "http://alice:pass-SECRET@")
    caplog.set_level(logging.DEBUG, logger="test")
    location = f"{with_user}/a.jsonl?{SIGNED}"
    config = corpora(location)
    run = run_stage(acquire, tmp_path / "out", config)
    assert files_of(tmp_path / "out" / "skypile") == {"a.jsonl": LINES}
    errors = []
    for bad in (location.replace("a.jsonl", "no.jsonl"), location.replace("alice:", "bob:")):
        with pytest.raises(DataError) as caught:
            run_stage(acquire, tmp_path / "bad", corpora(bad))
        errors.append(str(caught.value))
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__, "a traceback would show the cause's URL"
    tables = run.track.tables if isinstance(run.track, RecordingTrack) else {}
    kept = b"".join(files_of(tmp_path / "out").values()).decode()
    seen = json.dumps([plain(config), run.notes, tables, errors, kept]) + caplog.text
    for secret in ("SECRET", "5f3c", "alice", "AKIA"):
        assert secret not in seen
    assert "a.jsonl" in seen


def test_key_of_a_url_ignores_credentials_but_not_what_is_asked_for() -> None:
    def key(url: str) -> str:
        return stage_key("acquire", 2, corpora(url), {})

    assert key("https://host/x.jsonl?key=1") != key("https://host/x.jsonl?key=2")
    one = key("https://a:b@host/x.jsonl?X-Amz-Signature=1&file=2")
    assert one == key("https://c:d@host/x.jsonl?X-Amz-Signature=9&file=2")
    assert one != key("https://a:b@host/x.jsonl?X-Amz-Signature=1&file=3")
    assert one != key("https://a:b@host/y.jsonl?X-Amz-Signature=1&file=2")
