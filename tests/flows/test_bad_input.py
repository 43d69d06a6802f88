"""Bad input at the command line: one clear message before work starts, exit code 2."""

import json
import shutil
from pathlib import Path

import pytest

from common import disk as _disk
from flows.cli import main
from flows.commands import BAD_INPUT

SMOKE = "deployments/smoke.yaml"


def refused(capsys: pytest.CaptureFixture[str], store: Path, *arguments: str) -> str:
    """Run `steel run`, which must refuse; returns its one message."""
    assert main(["run", *arguments, "--store", str(store)]) == BAD_INPUT
    output = capsys.readouterr()
    assert output.out == ""
    assert not store.exists(), "work has started"
    assert output.err.startswith("error: ")
    assert "Traceback" not in output.err
    return output.err


def test_unknown_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refused(capsys, tmp_path / "s", SMOKE, "--set", "pretrain.stepz=3")
    assert "unknown key 'pretrain.stepz'" in message
    assert "did you mean 'steps'" in message


def test_unknown_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refused(capsys, tmp_path / "s", "deployments/smok.yaml")
    assert "deployments/smok.yaml does not exist" in message
    assert "smoke" in message


def test_unknown_stage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "pretrian" in refused(capsys, tmp_path / "s", SMOKE, "--stages", "pretrian")


def test_unknown_corpus(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refused(capsys, tmp_path / "s", SMOKE, "--set", "corpora.skypil=sample-data")
    assert "skypil" in message


def test_missing_corpus_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "*.jsonl"
    message = refused(capsys, tmp_path / "s", SMOKE, "--set", f"corpora.skypile={missing}")
    assert "skypile" in message
    assert str(missing) in message


def test_empty_corpus(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    message = refused(capsys, tmp_path / "s", SMOKE, "--set", f"corpora.skypile={empty}")
    assert "skypile" in message
    assert "empty" in message


def test_tokenizer_with_other_ids(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shared: Path
) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shared / "data" / "tokenizer" / name, folder)
    path = folder / "tokenizer.json"
    path.chmod(0o644)
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["Ġthe"], vocabulary["Ġof"] = vocabulary["Ġof"], vocabulary["Ġthe"]
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    message = refused(capsys, tmp_path / "s", SMOKE, "--set", f"pack.tokenizer={folder}")
    assert str(folder) in message


def test_too_little_disk(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(_disk.shutil, "disk_usage", lambda _: usage._replace(free=10 * 1024**2))
    message = refused(capsys, tmp_path / "s", SMOKE)
    assert "--store" in message
    assert "10.5 MB" in message
