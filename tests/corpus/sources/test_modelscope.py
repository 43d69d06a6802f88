"""ModelScope: one commit, every file checked, only what the recipe names, no secret on the way."""

import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from common.config import validate
from common.errors import ConfigError, DataError
from common.paths import RECIPES
from corpus.sources import modelscope as source
from corpus.sources import retry
from tasks.acquire import AcquireConfig, acquire
from tests.corpus.sources.acquired import acquired, next_commit
from tests.corpus.sources.fake_modelscope import COMMIT, ModelScope, serving
from tests.tasks.running import run_stage

LINES = b"".join(b'{"text": "%d"}\n' % i for i in range(50))
OTHER = "d" * 40


def corpora(**sample: float) -> AcquireConfig:
    return AcquireConfig(kind="corpora", datasets={"skypile": "modelscope"}, **sample)  # type: ignore[arg-type]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recipes of which that of SkyPile names a repository on ModelScope."""
    folder = tmp_path / "recipes"
    shutil.copytree(RECIPES, folder)
    monkeypatch.setattr("common.recipes.RECIPES", folder)
    path = folder / "corpora" / "skypile.yaml"
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipe["modelscope"] = {"repository": "owner/name", "files": ["data/*.jsonl"]}
    path.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    return folder


@pytest.fixture
def hub(recipes: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelScope]:
    files = {f"data/{name}.jsonl": LINES + name.encode() for name in "abc"}
    with serving(ModelScope(commits={COMMIT: {**files, "README.md": b"#"}})) as server:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
        monkeypatch.setattr(retry, "PAUSE", 0.0)
        yield server


@pytest.mark.parametrize("names_commit", [True, False])
def test_files_of_one_commit(
    hub: ModelScope, tmp_path: Path, caplog: pytest.LogCaptureFixture, names_commit: bool
) -> None:
    hub.names_commit = names_commit
    run = run_stage(acquire, tmp_path / "out", corpora())
    got = files_of(tmp_path / "out" / "skypile")
    assert got == {f"data/{n}.jsonl": LINES + n.encode() for n in "abc"}
    assert run.notes["revisions"] == {"skypile": {"asked": "master", "commit": COMMIT}}
    assert run.notes["origins"] == {"skypile": f"modelscope.cn:owner/name@{COMMIT}"}
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert f"modelscope.revision: {COMMIT}" in warning
    downloads = [path for _, path, _ in hub.requests if "FilePath" in path]
    assert downloads
    assert all(f"Revision={COMMIT}" in path for path in downloads)


def test_of_a_new_commit_only_new_and_changed_files_are_downloaded(
    hub: ModelScope, tmp_path: Path
) -> None:
    acquired(tmp_path / "store", 1, corpora())
    hub.commits[OTHER] = next_commit(hub.commits[COMMIT])
    hub.branches["master"] = OTHER
    hub.requests.clear()
    again = acquired(tmp_path / "store", 2, corpora())
    asked = {path.rpartition("FilePath=")[2] for _, path, _ in hub.requests if "FilePath" in path}
    assert asked == {"data/b.jsonl", "data/new.jsonl"}
    assert again.manifest["counts"]["files_taken_over"] == 1
    assert files_of(again.folder / "skypile") == hub.commits[OTHER]


def test_more_files_than_a_page(
    hub: ModelScope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "PAGE", 2)
    run_stage(acquire, tmp_path / "out", corpora())
    assert len(files_of(tmp_path / "out" / "skypile")) == 3


def test_a_hub_whose_pages_are_shorter_than_asked(hub: ModelScope, tmp_path: Path) -> None:
    hub.most = 2
    run_stage(acquire, tmp_path / "out", corpora())
    assert len(files_of(tmp_path / "out" / "skypile")) == 3


def test_a_hub_that_is_asked_too_often_is_asked_again(hub: ModelScope, tmp_path: Path) -> None:
    hub.busy = 3
    run_stage(acquire, tmp_path / "out", corpora())
    assert len(files_of(tmp_path / "out" / "skypile")) == 3
    assert hub.busy == 0


def test_the_pause_is_as_long_as_the_server_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy(Exception):
        status = 429

        def __init__(self, seconds: str) -> None:
            self.headers = {"Retry-After": seconds}

    waited: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0.0)
            return False

    answers = iter([Busy("7"), Busy("9999999"), Busy("Wed, 21 Oct"), None])

    def ask() -> str:
        if error := next(answers):
            raise error
        return "data"

    monkeypatch.setattr(retry, "PAUSE", 1.0)
    assert retry.retry(ask, Stop()) == "data"
    assert waited == [7.0, retry.LONGEST_PAUSE, 4.0]


def test_damage_is_found_and_the_next_run_mends_it(hub: ModelScope, tmp_path: Path) -> None:
    hub.spoil = lambda name, data: data[::-1] if name == "data/b.jsonl" else data
    with pytest.raises(DataError, match=r"data/b\.jsonl.*SHA-256"):
        run_stage(acquire, tmp_path / "out", corpora())
    # Meanwhile somebody pushes: the run stays with its commit.
    hub.commits[OTHER] = {"data/new.jsonl": b"new"}
    hub.branches["master"] = OTHER
    hub.spoil = lambda name, data: data
    run = run_stage(acquire, tmp_path / "out", corpora())
    assert set(files_of(tmp_path / "out" / "skypile")) == {f"data/{n}.jsonl" for n in "abc"}
    assert run.notes["revisions"]["skypile"]["commit"] == COMMIT


def test_a_cut_connection_is_continued(hub: ModelScope, tmp_path: Path) -> None:
    cut: list[str] = []

    def spoil(name: str, data: bytes) -> bytes | None:
        if name not in cut:
            cut.append(name)
            return None
        return data

    hub.spoil = spoil
    run_stage(acquire, tmp_path / "out", corpora())
    assert files_of(tmp_path / "out" / "skypile")["data/a.jsonl"] == LINES + b"a"


def test_samples_read_ranges(hub: ModelScope, tmp_path: Path) -> None:
    run_stage(acquire, tmp_path / "out", corpora(limit=6))
    got = files_of(tmp_path / "out" / "skypile")
    assert {name: data.count(b"\n") for name, data in got.items()} == {
        f"data/{n}.jsonl": 2 for n in "abc"
    }


def test_the_token_opens_and_goes_nowhere_else(
    hub: ModelScope,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub.token = "ms-0123456789abcdef"
    with pytest.raises(DataError, match="MODELSCOPE_API_TOKEN") as refused:
        run_stage(acquire, tmp_path / "closed", corpora())
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", hub.token)
    run = run_stage(acquire, tmp_path / "open", corpora())
    assert len(files_of(tmp_path / "open" / "skypile")) == 3
    assert hub.storage_headers
    assert not any(hub.token in str(headers) for headers in hub.storage_headers)
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert hub.token not in f"{caplog.text}{run.notes}{refused.value}"
    assert hub.token.encode() not in written


def test_what_is_not_there_is_named(
    hub: ModelScope, tmp_path: Path, recipes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commits[COMMIT] = {"other.txt": b"x"}
    with pytest.raises(DataError, match=r"no file like data/\*\.jsonl.*modelscope\.files"):
        run_stage(acquire, tmp_path / "files", corpora())
    hub.branches = {}
    with pytest.raises(DataError, match="owner/name"):
        run_stage(acquire, tmp_path / "revision", corpora())
    config = AcquireConfig(kind="corpora", datasets={"zhihu": "modelscope"})
    with pytest.raises(DataError, match="names no ModelScope repository"):
        validate(config, "acquire")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://user:pw@host/")
    with pytest.raises(ConfigError, match="MODELSCOPE_ENDPOINT"):
        validate(corpora(), "acquire")


def test_hostile_file_names_are_refused(hub: ModelScope, tmp_path: Path) -> None:
    hub.commits[COMMIT] = {"data/../../../evil.jsonl": LINES}
    with pytest.raises(DataError, match="evil"):
        run_stage(acquire, tmp_path / "deep" / "out", corpora())
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, "https://modelscope.cn"),
        ({"MODELSCOPE_DOMAIN": "www.modelscope.ai"}, "https://www.modelscope.ai"),
        (
            {"MODELSCOPE_ENDPOINT": "http://mirror/ms/", "MODELSCOPE_DOMAIN": "x"},
            "http://mirror/ms",
        ),
    ],
)
def test_endpoint(
    environment: dict[str, str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert source.endpoint() == address
