"""Files of a tokenizer, judged without Transformers as it would judge them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.files import md5_of_file
from model.tokenizer import identity
from model.tokenizer.identity import RANKS_MD5, files_are_qwen
from model.tokenizer.tiktoken import packaged_ranks


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    """The published files, to be changed."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shared / "data" / "tokenizer" / name, tmp_path)
        (tmp_path / name).chmod(0o644)
    return tmp_path


def swap(content: dict[str, Any]) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary["Ġthe"], vocabulary["Ġof"] = vocabulary["Ġof"], vocabulary["Ġthe"]


def other_control_tokens(content: dict[str, Any]) -> None:
    content["added_tokens"][0]["content"] = "<s>"


def no_normalizer(content: dict[str, Any]) -> None:
    content["normalizer"] = None


def test_the_published_files_are_recognised(folder: Path) -> None:
    assert files_are_qwen(str(folder))


@pytest.mark.parametrize("change", [swap, other_control_tokens, no_normalizer])
def test_other_files_are_left_to_transformers(
    folder: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    assert not files_are_qwen(str(folder))


def test_damaged_and_absent_files_are_left_to_transformers(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    assert not files_are_qwen(str(folder))
    (folder / "tokenizer.json").unlink()
    assert not files_are_qwen(str(folder))
    assert not files_are_qwen("no/such/place/at/all")
    assert not files_are_qwen("nobody/has-this")


@pytest.mark.skipif(packaged_ranks() is None, reason="needs the package dashscope")
def test_ranks_are_recognised_and_others_are_not(tmp_path: Path) -> None:
    ranks = packaged_ranks()
    assert ranks is not None
    assert files_are_qwen("package")
    lines = ranks.read_bytes().splitlines()
    shutil.copy(ranks, tmp_path / "qwen.tiktoken")
    assert files_are_qwen(str(tmp_path))
    (tmp_path / "qwen.tiktoken").write_bytes(b"\n".join(lines[:-1]))
    assert not files_are_qwen(str(tmp_path))


@pytest.mark.skipif(packaged_ranks() is None, reason="needs the package dashscope")
def test_the_published_rank_file_is_known_by_its_bytes_and_by_its_tokens() -> None:
    ranks = packaged_ranks()
    assert ranks is not None
    assert md5_of_file(ranks) == RANKS_MD5
    assert identity._tokens_are_qwen(ranks, "")
