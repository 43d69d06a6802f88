"""A model by the words that a person has for it."""

import json
import os
import shutil
from pathlib import Path

import pytest

from common.errors import ConfigError, DataError, SteelError
from flows.commands.find_model import find_model


def stage(store: Path, name: str, key: str, label: str = "", *, at: int) -> Path:
    folder = store / name / key
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    manifest = folder / "manifest.json"
    manifest.write_text(
        json.dumps({"schema": 1, "stage": name, "key": key, "label": label, "files": []})
    )
    os.utime(manifest, (at, at))
    return folder


def checkpoint(place: Path, name: str) -> Path:
    (place / name).mkdir(parents=True)
    (place / name / "complete.json").write_text('{"step": 1, "files": {}}')
    return place / name


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    stage(store, "pretrain", "aaaa1111", at=10)
    stage(store, "sft", "bbbb2222", "zh", at=20)
    stage(store, "sft", "bbbb3333", "mixed", at=30)
    stage(store, "sft", "cccc4444", "zh", at=40)
    stage(store, "dpo", "dddd5555", at=50)
    stage(store, "evaluate", "eeee6666", "zh", at=60)
    for step in (4, 12):
        checkpoint(store / "pretrain" / "aaaa1111" / "checkpoints", f"step-{step:08d}")
    return store


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("newest", "dpo/dddd5555"),
        ("pretrain", "pretrain/aaaa1111"),
        ("sft", "sft/cccc4444"),
        ("zh", "sft/cccc4444"),
        ("sft/zh", "sft/cccc4444"),
        ("mixed", "sft/bbbb3333"),
        ("bbbb2222", "sft/bbbb2222"),
        ("sft/bbbb2222", "sft/bbbb2222"),
        ("cccc", "sft/cccc4444"),
        ("dpo/dddd", "dpo/dddd5555"),
    ],
)
def test_names(store: Path, name: str, found: str) -> None:
    assert find_model(store, name).place == store / found / "model"
    assert find_model(store, name).words.startswith(found)


def test_the_words_say_what_was_taken(store: Path) -> None:
    assert find_model(store, "zh").words == "sft/cccc4444, zh, the newest of 2"
    assert find_model(store, "mixed").words == "sft/bbbb3333, mixed"
    assert find_model(store, "pretrain", 4).words == "pretrain/aaaa1111, checkpoint 4"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bbbb", "beginning of several keys: sft/bbbb2222, sft/bbbb3333"),
        ("nothing", "which has dpo/dddd5555, sft/zh, sft/mixed, pretrain/aaaa1111"),
        ("pretrain/bbbb", "no model 'pretrain/bbbb'"),
        ("aaa", "no model 'aaa'"),
        ("evaluate", "no model 'evaluate'"),
        ("", "path '' is empty"),
        ("http://me:secret@host/model", "is a URL"),
    ],
)
def test_what_is_not_there(store: Path, name: str, words: str) -> None:
    with pytest.raises(SteelError, match=words) as caught:
        find_model(store, name)
    assert "secret" not in str(caught.value)


def test_an_empty_store(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no finished one"):
        find_model(tmp_path / "none", "newest")


def test_checkpoints(store: Path) -> None:
    place = store / "pretrain" / "aaaa1111" / "checkpoints"
    assert find_model(store, "pretrain", 4).place == place / "step-00000004"
    for path in (place, place.parent):
        assert find_model(store, str(path), 12).place == place / "step-00000012"
    assert find_model(store, str(place)).place == place / "step-00000012"
    assert find_model(store, str(place / "step-00000004")).place == place / "step-00000004"
    with pytest.raises(ConfigError, match="no complete checkpoint of step 5; it has 4, 12"):
        find_model(store, "pretrain", 5)
    with pytest.raises(ConfigError, match="it has none"):
        find_model(store, "dpo", 5)


def test_a_training_that_is_not_finished(store: Path) -> None:
    partial = store / "sft" / "ffff7777.partial"
    checkpoint(partial / ".scratch" / "checkpoints", "step-00000008")
    scratch = partial / ".scratch" / "checkpoints"
    assert find_model(store, "ffff").place == scratch / "step-00000008"
    assert find_model(store, "sft/ffff7777", 8).place == scratch / "step-00000008"
    # It is never taken for a finished one.
    assert find_model(store, "sft").place == store / "sft" / "cccc4444" / "model"
    shutil.rmtree(partial / ".scratch")
    with pytest.raises(DataError, match="holds no model"):
        find_model(store, "ffff")


def test_a_path_that_holds_no_model_hides_no_stage(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sft").mkdir()
    assert find_model(store, "sft").place == store / "sft" / "cccc4444" / "model"
    (tmp_path / "sft" / "config.json").write_text("{}")
    assert find_model(store, "sft").place == Path("sft")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file"):
        find_model(store, "file")
