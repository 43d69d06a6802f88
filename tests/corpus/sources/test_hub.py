"""The hub: one commit, every file checked, only what the recipe names, samples by ranges."""

import io
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants as hub_constants

from common.config import validate
from common.errors import ConfigError, DataError
from corpus.recipes import corpus
from corpus.sources import retry
from tasks.acquire import AcquireConfig, acquire
from tests.corpus.sources.acquired import acquired, next_commit
from tests.corpus.sources.fake_hub import COMMIT, Hub, serving
from tests.processes import wait_until
from tests.tasks.running import run_stage

LINES = b"".join(b'{"text": "%d"}\n' % i for i in range(50))
OTHER = "d" * 40


def corpora(location: str = "hub", name: str = "skypile", **sample: float) -> AcquireConfig:
    return AcquireConfig(kind="corpora", datasets={name: location}, **sample)  # type: ignore[arg-type]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {f"data/{name}.jsonl": LINES + name.encode() for name in "abc"}
    with serving(Hub(commits={COMMIT: {**files, "README.md": b"# not wanted"}})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(retry, "PAUSE", 0.0)
        yield server


def test_only_c_plus_plus_python_and_java_of_starcoder(hub: Hub, tmp_path: Path) -> None:
    languages = (
        "ada",
        "c",
        "c-sharp",
        "cpp",
        "java",
        "javascript",
        "jupyter-scripts",
        "python",
        "rust",
        "cpp/nested/java",
    )
    out = io.BytesIO()
    pq.write_table(pa.table({"content": ["x"]}), out)
    hub.commits[COMMIT] = {f"{name}/train-0.parquet": out.getvalue() for name in languages}
    hub.commits[COMMIT] |= {"README.md": b"#", "cpp/notes.txt": b"no"}
    wanted = {"starcoder_cpp": "cpp", "starcoder_python": "python", "starcoder_java": "java"}
    run_stage(
        acquire,
        tmp_path / "out",
        AcquireConfig(kind="corpora", datasets=dict.fromkeys(wanted, "hub")),
    )
    for name, language in wanted.items():
        got = set(files_of(tmp_path / "out" / name))
        assert f"{language}/train-0.parquet" in got
        assert {path.partition("/")[0] for path in got} == {language}
        assert all(path.endswith(".parquet") for path in got)
        assert corpus(name).hub.repository == "bigcode/starcoderdata"  # type: ignore[union-attr]
    assert {path.partition("/")[0] for path in hub.downloads()} == set(wanted.values())


def test_large_and_small_files_are_verified(hub: Hub, tmp_path: Path) -> None:
    hub.commits[COMMIT]["data/d.jsonl"] = LINES

    def damage(name: str, data: bytes) -> bytes:
        return bytes([data[0] ^ 1]) + data[1:] if name == "data/d.jsonl" else data

    hub.spoil = damage
    with pytest.raises(DataError, match=r"data/d\.jsonl.*SHA-256"):
        run_stage(acquire, tmp_path / "out", corpora())
    assert "data/d.jsonl" not in files_of(tmp_path / "out" / "skypile")
    hub.spoil = lambda name, data: data
    run_stage(acquire, tmp_path / "out", corpora())
    assert files_of(tmp_path / "out" / "skypile")["data/d.jsonl"] == LINES


def test_small_files_are_verified_by_their_git_id(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.corpus.sources.fake_hub.is_large", lambda name: False)
    run_stage(acquire, tmp_path / "good", corpora())
    hub.spoil = lambda name, data: data[::-1]
    with pytest.raises(DataError, match="SHA-1"):
        run_stage(acquire, tmp_path / "bad", corpora())


def test_branch_is_resolved_once_and_a_warning_says_what_to_pin(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_stage(acquire, tmp_path / "out", corpora())
    assert run.notes["revisions"] == {"skypile": {"asked": "main", "commit": COMMIT}}
    assert run.notes["origins"] == {"skypile": f"Skywork/SkyPile-150B@{COMMIT}"}
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert COMMIT in warning
    assert "skypile.yaml" in warning
    assert not any("/resolve/main/" in path for _, path, _ in hub.requests)


def test_interrupted_run_stays_with_its_commit(hub: Hub, tmp_path: Path) -> None:
    hub.spoil = lambda name, data: data[::-1] if name == "data/b.jsonl" else data
    config = AcquireConfig(kind="corpora", datasets={"zhihu": "hub", "skypile": "hub"})
    out = io.BytesIO()
    pq.write_table(pa.table({"INSTRUCTION": ["x"]}), out)
    hub.commits[COMMIT]["data/z.parquet"] = out.getvalue()
    with pytest.raises(DataError):
        run_stage(acquire, tmp_path / "out", config)
    finished = set(files_of(tmp_path / "out" / "zhihu"))
    assert finished == {"data/z.parquet"}
    # Meanwhile somebody pushes.
    hub.commits[OTHER] = {"data/new.jsonl": b"new", "data/z.parquet": b"new"}
    hub.branches["main"] = OTHER
    hub.spoil = lambda name, data: data
    hub.requests.clear()
    run = run_stage(acquire, tmp_path / "out", config)
    assert set(files_of(tmp_path / "out" / "skypile")) == {f"data/{n}.jsonl" for n in "abc"}
    assert {name: r["commit"] for name, r in run.notes["revisions"].items()} == {
        "zhihu": COMMIT,
        "skypile": COMMIT,
    }
    assert not {path for _, path, _ in hub.requests if OTHER in path or path.endswith("/main")}
    assert "data/z.parquet" not in hub.downloads(), "finished before the interruption"


def test_sample_reads_ranges_of_few_files(hub: Hub, tmp_path: Path) -> None:
    draw = random.Random(0)
    big = b"".join(json.dumps({"r": draw.random()}).encode() + b"\n" for _ in range(150_000))
    hub.commits[COMMIT] |= {f"data/{i:02}.jsonl": big for i in range(3)}
    for name in "abc":
        del hub.commits[COMMIT][f"data/{name}.jsonl"]
    run = run_stage(acquire, tmp_path / "out", corpora(limit=10))
    got = files_of(tmp_path / "out" / "skypile")
    assert {name: data.count(b"\n") for name, data in got.items()} == {
        "data/00.jsonl": 4,
        "data/01.jsonl": 3,
        "data/02.jsonl": 3,
    }
    assert all(big.startswith(data) for data in got.values())
    assert run.notes["revisions"]["skypile"]["commit"] == COMMIT
    assert 0 < hub.sent < 3 * len(big) / 3
    assert all(r for m, p, r in hub.requests if m == "GET" and "/resolve/" in p), "ranges only"


def test_hf_url_is_pinned_and_checked(hub: Hub, tmp_path: Path) -> None:
    location = "hf://datasets/somebody/some-set/data/*.jsonl"
    run = run_stage(acquire, tmp_path / "out", corpora(location))
    assert set(files_of(tmp_path / "out" / "skypile")) == {f"{name}.jsonl" for name in "abc"}
    assert run.notes["revisions"] == {"skypile": {"asked": "main", "commit": COMMIT}}
    assert f"@{COMMIT}/" in run.notes["origins"]["skypile"]
    hub.spoil = lambda name, data: data[::-1]
    with pytest.raises(DataError, match="SHA-256"):
        run_stage(acquire, tmp_path / "bad", corpora(location))


@pytest.mark.parametrize("location", ["hub", "hf://datasets/somebody/some-set/data/*.jsonl"])
@pytest.mark.parametrize("large", [True, False])  # by SHA-256, by git's id
def test_of_a_new_commit_only_new_and_changed_files_are_downloaded(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, large: bool
) -> None:
    monkeypatch.setattr("tests.corpus.sources.fake_hub.is_large", lambda name: large)
    acquired(tmp_path / "store", 1, corpora(location))
    hub.commits[OTHER] = next_commit(hub.commits[COMMIT])
    hub.branches["main"] = OTHER
    hub.requests.clear()
    again = acquired(tmp_path / "store", 2, corpora(location))
    assert hub.downloads() == {"data/b.jsonl", "data/new.jsonl"}
    assert again.manifest["counts"]["files_taken_over"] == 1
    assert again.manifest["counts"]["files_fetched"] == 2
    assert again.manifest["notes"]["revisions"]["skypile"]["commit"] == OTHER
    got = files_of(again.folder / "skypile")
    assert {f"data/{Path(name).name}": data for name, data in got.items()} == hub.commits[OTHER]


def test_hostile_file_names_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.commits[COMMIT] = {"data/../../../evil.jsonl": LINES}
    with pytest.raises(DataError, match="evil"):
        run_stage(acquire, tmp_path / "deep" / "out", corpora())
    assert not list(tmp_path.rglob("evil*"))


def test_hf_url_offline_is_refused_before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
        validate(corpora("hf://datasets/o/n/x.jsonl"), "acquire")


@pytest.mark.slow
def test_killed_hub_download_is_finished_by_the_next_run(
    hub: Hub, tmp_path: Path, root: Path
) -> None:
    big = random.Random(3).randbytes(3 * 1024**2)
    hub.commits[COMMIT] = {"data/a.jsonl": LINES, "data/big.jsonl": big}
    asked, released = threading.Event(), threading.Event()

    def stall(name: str, data: bytes) -> bytes:
        if name == "data/big.jsonl":
            asked.set()
            released.wait()
        return data

    hub.spoil = stall
    out = tmp_path / "out"
    program = root / "tests" / "corpus" / "sources" / "acquire_program.py"
    process = subprocess.Popen(
        [sys.executable, str(program), str(out), "hub"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "0"},
    )
    try:
        wait_until(asked.is_set, "the large file is asked for", process=process)
        small = (out / "skypile" / "data" / "a.jsonl").exists
        wait_until(small, "the small file is there", process=process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        released.set()
    assert files_of(out / "skypile") == {"data/a.jsonl": LINES}
    hub.requests.clear()
    run_stage(acquire, out, corpora())
    assert files_of(out / "skypile") == {"data/a.jsonl": LINES, "data/big.jsonl": big}
    assert hub.downloads() == {"data/big.jsonl"}


@pytest.mark.parametrize("sample", [{}, {"limit": 6}])
def test_a_mirror_below_a_path_that_sends_downloads_elsewhere(
    sample: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"data/{name}.jsonl": LINES + name.encode() for name in "abc"}
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(retry, "PAUSE", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdef")
    with serving(Hub(commits={COMMIT: files}, prefix="/mirrors/hf", elsewhere=True)) as mirror:
        monkeypatch.setenv("HF_ENDPOINT", mirror.url)
        run_stage(acquire, tmp_path / "out", corpora(**sample))
    got = files_of(tmp_path / "out" / "skypile")
    if sample:
        assert {name: data.count(b"\n") for name, data in got.items()} == dict.fromkeys(files, 2)
    else:
        assert got == files
    assert mirror.storage_headers
    assert not any("hf_0123456789abcdef" in str(headers) for headers in mirror.storage_headers)
