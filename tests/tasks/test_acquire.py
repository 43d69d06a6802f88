"""Acquire: every kind of location, and one clear message for what is not there."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants as hub_constants

from common import disk as _disk
from common.config import validate
from common.errors import ConfigError, DataError
from corpus.recipes import HubSource
from corpus.refresh.commits import newest_commit
from corpus.sample_data import SampleDataConfig, generator_files
from corpus.sources import hub as hub_module
from corpus.sources.datasets import local_dataset
from corpus.sources.local import LocalSource, local_files
from tasks.acquire import AcquireConfig, acquire
from tasks.core.stage import stage_key
from tasks.core.waiting.words import PROGRESS
from tests.corpus.sources.fake_hub import COMMIT, Hub, serving
from tests.tasks.running import run_stage


def corpora(**datasets: str) -> AcquireConfig:
    world = SampleDataConfig(scale=0.05) if "sample-data" in datasets.values() else None
    return AcquireConfig(kind="corpora", datasets=datasets, sample_data=world)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(b'{"text": "\xe4\xb8\x80"}\n')
    (folder / "deep" / "b.jsonl").write_bytes(b"not even json\r\n\x00\xff")
    (folder / ".hidden").write_text("no data")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Content by name, but for what a stage that works tells of its progress."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder): path for path in paths}
    return {str(name): path.read_bytes() for name, path in names.items() if name != PROGRESS}


def test_folder_is_copied_byte_by_byte_without_hidden_files(raw: Path, tmp_path: Path) -> None:
    run = run_stage(acquire, tmp_path / "out", corpora(skypile=str(raw)))
    assert files_of(tmp_path / "out" / "skypile") == {
        "a.jsonl": (raw / "a.jsonl").read_bytes(),
        "deep/b.jsonl": (raw / "deep" / "b.jsonl").read_bytes(),
    }
    assert run.counts["files"] == 2


def test_glob_and_single_file(raw: Path) -> None:
    assert [name for _, name in local_files(f"{raw}/**/*.jsonl")] == ["a.jsonl", "deep/b.jsonl"]
    assert [name for _, name in local_files(f"{raw}/deep/*")] == ["b.jsonl"]
    assert [name for _, name in local_files(f"{raw}/a.jsonl")] == ["a.jsonl"]


@pytest.mark.parametrize("name", [b"\xc0\xaf.jsonl", b"a\nb.jsonl", "a\u202eb.jsonl".encode()])
def test_a_file_whose_name_is_no_text_is_named_and_refused(
    raw: Path, tmp_path: Path, name: bytes
) -> None:
    path = Path(os.fsdecode(os.fsencode(raw / "deep") + b"/" + name))
    path.write_text("x")
    shown = re.escape(repr(path.name))
    config = corpora(skypile=str(raw))
    with pytest.raises(DataError, match=rf"deep: file {shown} has a name .*Rename it"):
        validate(config)
    with pytest.raises(DataError, match="has a name"):
        run_stage(acquire, tmp_path / "out", config)
    with pytest.raises(DataError, match="has a name"):
        list(local_files(str(path)))
    assert local_dataset(str(raw)) == []  # what else looks at the files leaves it to the check


def test_interrupted_copy_is_finished_and_no_half_file_is_taken_for_a_whole(
    raw: Path, tmp_path: Path
) -> None:
    left = tmp_path / "out" / "skypile"
    left.mkdir(parents=True)
    (left / "a.jsonl.partial").write_bytes(b'{"te')
    run_stage(acquire, tmp_path / "out", corpora(skypile=str(raw)))
    assert files_of(left).keys() == {"a.jsonl", "deep/b.jsonl"}
    assert (left / "a.jsonl").read_bytes() == (raw / "a.jsonl").read_bytes()


def test_sample_data_is_the_same_every_time(tmp_path: Path) -> None:
    config = corpora(firefly="sample-data", starcoder_java="sample-data")
    for folder in ("one", "two"):
        run_stage(acquire, tmp_path / folder, config)
    one, two = (files_of(tmp_path / f) for f in ("one", "two"))
    assert one == two
    assert {name.split("/")[0] for name in one} == {"firefly", "starcoder_java"}


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("{tmp}/nowhere", "does not exist"),
        ("{tmp}/*.parquet", "matches no file"),
        ("{tmp}/void", "holds no file"),
        ("{tmp}/zero", "0 bytes"),
    ],
)
def test_missing_and_empty_corpora_are_refused_by_name(
    tmp_path: Path, location: str, words: str
) -> None:
    (tmp_path / "void").mkdir()
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "empty.jsonl").touch()
    place = location.format(tmp=tmp_path)
    with pytest.raises(DataError, match="firefly") as caught:
        validate(corpora(firefly=place), "acquire")
    assert words in str(caught.value)
    assert place in str(caught.value)
    assert "sample-data" in str(caught.value), "the remedy names the other locations"


def test_corpus_that_the_hub_does_not_have_says_how_to_get_it() -> None:
    with pytest.raises(DataError, match="openxlab"):
        validate(corpora(wanjuan="hub"), "acquire")
    with pytest.raises(DataError, match="openxlab"):
        validate(corpora(wanjuan="no/such/folder"), "acquire")


def test_unknown_corpus_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="baidu_baike"):
        validate(corpora(skypyle="sample-data"), "acquire")


def test_sample_data_location_needs_its_settings() -> None:
    with pytest.raises(ConfigError, match="sample_data"):
        validate(AcquireConfig(kind="corpora", datasets={"firefly": "sample-data"}), "acquire")


def test_old_name_of_the_location_is_refused_with_the_new_one() -> None:
    with pytest.raises(ConfigError, match="'sample-world' is now called 'sample-data'"):
        validate(corpora(firefly="sample-world"), "acquire")


def test_key_depends_on_code_and_phrases_of_the_generator() -> None:
    suffixes = {path.suffix for path in generator_files()}
    assert ".py" in suffixes
    assert len(corpora(firefly="sample-data").fingerprint()["firefly"][0]) == 16


def test_too_little_disk_is_refused_with_numbers(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(_disk.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(DataError, match=r"1\.0 MB are free"):
        run_stage(acquire, tmp_path / "out", corpora(skypile=str(raw)))
    assert files_of(tmp_path / "out") == {}


def test_changed_source_file_changes_the_key(raw: Path) -> None:
    config = corpora(skypile=str(raw))
    before = stage_key("acquire", 1, config, {})
    assert before == stage_key("acquire", 1, config, {})
    (raw / "a.jsonl").write_text('{"text": "another"}\n')
    assert stage_key("acquire", 1, config, {}) != before


HUB_FILES = {
    "wikipedia-cn-20230720-filtered.json": b'[{"completion": "\xe4\xb8\x80"}]',
    "README.md": b"# not wanted",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub(commits={COMMIT: HUB_FILES})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
        yield server


def test_hub_gives_the_recipes_files_at_one_commit(hub: Hub, tmp_path: Path) -> None:
    run = run_stage(acquire, tmp_path / "out", corpora(wikipedia_cn="hub"))
    wanted = "wikipedia-cn-20230720-filtered.json"
    assert files_of(tmp_path / "out" / "wikipedia_cn") == {wanted: HUB_FILES[wanted]}
    assert run.notes["origins"]["wikipedia_cn"].endswith(f"@{COMMIT}")
    assert hub.downloads() == {wanted}


def test_hub_data_set_without_the_recipes_files_is_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"hub\.files"):
        run_stage(acquire, tmp_path / "out", corpora(skypile="hub"))


def test_offline_hub_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="HF_HUB_OFFLINE"):
        validate(corpora(zhihu="hub"), "acquire")


def test_unreachable_hub_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(DataError, match="could not be downloaded"):
        run_stage(acquire, tmp_path / "out", corpora(zhihu="hub"))


def test_a_commit_in_the_place_of_a_branch_is_in_the_key_and_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def opened(source: HubSource, scratch: Path, pins: object) -> LocalSource:
        asked.append(source.revision)
        raise DataError("seen")

    monkeypatch.setattr(hub_module, "HubRepository", opened)
    monkeypatch.setattr(hub_module, "is_offline", lambda: False)
    branch = AcquireConfig(kind="corpora", datasets={"zhihu": "hub"})
    commit = replace(branch, commits={"zhihu": "c" * 40})
    assert stage_key("acquire", 2, branch, {}) != stage_key("acquire", 2, commit, {})
    assert stage_key("acquire", 2, branch, {}) == stage_key("acquire", 2, replace(branch), {})
    for config, revision in ((branch, "main"), (commit, "c" * 40)):
        with pytest.raises(DataError, match="seen"):
            run_stage(acquire, tmp_path / revision, config)
    assert asked == ["main", "c" * 40]


def test_the_newest_commit_is_asked_for_where_a_branch_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub_module, "is_offline", lambda: False)
    monkeypatch.setattr(
        hub_module, "resolve_commit", lambda kind, name, revision, scratch: revision * 2
    )
    assert newest_commit("corpora", "zhihu", "hub") == "mainmain"
    assert newest_commit("corpora", "zhihu", "data/zhihu") == ""
    monkeypatch.setattr(hub_module, "is_offline", lambda: True)
    assert newest_commit("corpora", "zhihu", "hub") == ""
