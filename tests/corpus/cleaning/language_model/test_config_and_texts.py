"""Sources of the perplexity filter's language model."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants as hub_constants
from hypothesis import given
from hypothesis import strategies as st

from common.config import validate
from common.errors import ConfigError, DataError
from corpus.cleaning.language_model.build import training_texts
from corpus.cleaning.language_model.config import LanguageModelConfig, find_language_model
from tests.corpus.formats.json_values import JSON
from tests.corpus.sources.fake_hub import COMMIT, Hub, serving


def lines(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts))
    return str(path)


def test_sources_share_the_characters(tmp_path: Path) -> None:
    inputs = {
        "wikipedia_cn": lines(tmp_path / "w.jsonl", ["一" * 10] * 9),
        "baidu_baike": lines(tmp_path / "b.jsonl", ["二" * 10] * 2),
        "skypile": lines(tmp_path / "s.jsonl", ["三" * 10] * 9),
    }
    config = LanguageModelConfig(sources=("baidu_baike", "wikipedia_cn", "zhihu"))

    def taken(most: int) -> str:
        limited = LanguageModelConfig(sources=config.sources, max_characters=most)
        return "".join(t[0] for _, t in training_texts(inputs, limited))

    assert taken(40) == "二二一一"
    assert taken(80) == "二二一一一一一一"  # what the first leaves goes to the second
    assert taken(10**6) == "二" * 2 + "一" * 9
    others = LanguageModelConfig(sources=("zhihu",))
    assert {t[0] for _, t in training_texts(inputs, others)} == {"一", "二", "三"}


def test_clean_corpus_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("甲文\r\n乙文\n", newline="")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"text": "丙文\n二行"}) + "\n")
    config = LanguageModelConfig(texts=f"{tmp_path}/*")
    validate(config)
    assert [t for _, t in training_texts({}, config)] == ["甲文", "乙文", "丙文\n二行"]
    assert LanguageModelConfig(texts=str(tmp_path / "a.txt")).text_files() == [tmp_path / "a.txt"]
    with pytest.raises(DataError, match="matches no file"):
        validate(LanguageModelConfig(texts=f"{tmp_path}/*.parquet"))
    with pytest.raises(ConfigError, match="not several"):
        validate(LanguageModelConfig(texts="x", folder="y"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of one's own texts."""
    return tmp_path_factory.mktemp("own") / "own.jsonl"


@given(value=JSON | st.just(10**400) | st.sampled_from(["nan", "None", "007", "\ud800", "\0"]))
def test_any_value_is_a_text_as_it_stands_or_named_with_its_line(own: Path, value: Any) -> None:
    config = LanguageModelConfig(texts=str(own))
    for row in (value, {"text": value}):
        own.write_text(f'{{"text": "good"}}\n\n{json.dumps(row)}\n{{"text": "last"}}\n')
        text = row.get("text") if isinstance(row, dict) else None
        if isinstance(text, str) and text.isprintable():
            assert [t for _, t in training_texts({}, config)] == ["good", text, "last"]
            continue
        try:
            found = [t for _, t in training_texts({}, config)]
        except DataError as error:
            assert f"{own}, line 3: " in str(error)
            assert not isinstance(text, str) or "\ud800" <= max(text) <= "\udfff"
        else:
            assert found == ["good", text, "last"]


def test_missing_model_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "zh.sp.model").touch()
    config = LanguageModelConfig(folder=str(tmp_path))
    with pytest.raises(DataError, match=r"zh\.arpa\.bin does not exist.*leave both out to train"):
        find_language_model(config, "zh")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    files = {"wikipedia/zh.sp.model": b"pieces", "wikipedia/zh.arpa.bin": b"grams", "x.bin": b"x"}
    return Hub(commits={COMMIT: files})


def test_model_from_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        pieces, grams = find_language_model(LanguageModelConfig(hub="some/lm"), "zh")
        assert (pieces.read_bytes(), grams.read_bytes()) == (b"pieces", b"grams")
        assert hub.downloads() == {"wikipedia/zh.sp.model", "wikipedia/zh.arpa.bin"}
        with pytest.raises(DataError, match=r"0 files named en\.sp\.model"):
            find_language_model(LanguageModelConfig(hub="some/lm"), "en")


def test_hub_out_of_reach_says_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"hf download some/lm --include '\*zh\.sp\.model'"):
        find_language_model(LanguageModelConfig(hub="some/lm"), "zh")
