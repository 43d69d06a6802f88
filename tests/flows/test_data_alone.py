"""A configuration with data alone is one, and says what is wrong with it in a few words."""

from pathlib import Path

import pytest
import yaml

from common.errors import ConfigError
from flows.config import PipelineConfig
from flows.preflight import bytes_needed, preflight
from flows.session import Session


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("这是一个文本。", encoding="utf-8")
    return tmp_path


def checked(folder: Path, **changes: object) -> PipelineConfig:
    path = folder / "mine.yaml"
    config = {"name": "mine", "corpora": {"plain_files": str(folder / "texts")}, **changes}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return preflight(path, [], folder / "store")


def test_a_name_and_a_folder_are_enough(folder: Path) -> None:
    config = checked(folder)
    assert config.pretrain is None
    assert bytes_needed(config) > 0
    session = Session(pipeline=None, config=config, context=None)  # type: ignore[arg-type]
    assert session.last == "data"


def test_settings_of_a_base_ask_for_no_mixtures(folder: Path, root: Path) -> None:
    config = checked(folder, base=str(root / "deployments" / "small.yaml"))
    assert config.dpo is not None
    assert not config.mixtures


def test_what_is_asked_for_is_still_missed(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no `pretrain` settings"):
        checked(folder, mixtures=["smoke-chinese"])
    with pytest.raises(ConfigError, match=r"optional_corpora.*'plain_file'.*plain_files"):
        checked(folder, optional_corpora=["plain_file"])


def test_optional_corpora_may_be_missing(folder: Path) -> None:
    corpora = {"plain_files": str(folder / "texts"), "plain_lines": str(folder / "nothing")}
    with pytest.raises(ValueError, match="does not exist"):
        checked(folder, corpora=corpora)
    assert checked(folder, corpora=corpora, optional_corpora=["plain_lines"])


def test_a_refusal_shows_no_whole_group(folder: Path, root: Path) -> None:
    smoke = str(root / "deployments" / "smoke.yaml")
    sizes = {f"key_{number}": number for number in range(100)}
    for key in ("pretrain", "pack", "corpora", "sft_sets"):
        with pytest.raises(ConfigError) as refused:
            checked(folder, base=smoke, **{key: [sizes]})
        first = next(line for line in str(refused.value).splitlines() if f"{key} =" in line)
        assert "a list of 1" in first
        assert "key_50" not in str(refused.value)
