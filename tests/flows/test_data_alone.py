"""A configuration with data alone is one, and says what is wrong with it in a few words."""

from pathlib import Path

import pytest
import yaml

from common.errors import ConfigError
from flows.config import PipelineConfig
from flows.preflight import bytes_needed, preflight
from flows.runs.session import Session


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


def test_a_corpus_may_be_told_its_text_and_that_it_may_be_empty(folder: Path) -> None:
    texts = str(folder / "texts")
    config = checked(
        folder,
        corpora={
            "plain_files": {"location": texts, "text_key": ["题", "文"]},
            "plain_records": {"location": str(folder / "none"), "optional": True},
            "plain_lines": texts,
        },
        normalize={"text_keys": {"plain_lines": "a.b"}},
    )
    assert config.corpora == {
        "plain_files": texts,
        "plain_records": str(folder / "none"),
        "plain_lines": texts,
    }
    assert config.optional_corpora == ["plain_records"]
    assert config.normalize.text_keys == {"plain_lines": "a.b", "plain_files": ("题", "文")}


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"text_key": "a"}, r"corpora\.plain_files\.location must be text"),
        ({"location": ["a"]}, r"corpora\.plain_files\.location must be text"),
        ({"location": "x", "textkey": "a"}, r"unknown key 'textkey'; the keys are location, te"),
        ({"location": "x", "optional": "yes"}, r"corpora\.plain_files\.optional must be true or"),
        ({"location": "x", "text_key": 5}, r"normalize\.text_keys\.plain_files = 5; it must be"),
        (["x"], r"corpora\.plain_files = \['x'\]; it must be text\n"),
    ],
)
def test_other_forms_of_a_corpus_are_refused(folder: Path, form: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        checked(folder, corpora={"plain_files": form})


def test_only_plain_corpora_that_are_there_are_told_their_text(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"'plain_file' is none of `corpora`.*plain_files"):
        checked(folder, normalize={"text_keys": {"plain_file": "a"}})
    corpora = {"skypile": {"location": str(folder / "texts"), "text_key": "content"}}
    with pytest.raises(ConfigError, match="skypile is of the format skypile, which knows"):
        checked(folder, corpora=corpora)
