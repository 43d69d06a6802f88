"""Pages that a model learns from, and the bounds of sources."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from huggingface_hub import constants as hub_constants

from common.config import validate
from common.errors import ConfigError, DataError
from corpus.cleaning.quality.build import bound, bounds, drawn, train_on
from corpus.cleaning.quality.config import QualityConfig, find_quality_model
from corpus.cleaning.quality.model import load
from tests.corpus.cleaning.quality.pages import PAGES, PROSE, SALE, fasttext_model, page
from tests.corpus.sources.fake_hub import COMMIT, Hub, serving


def lines(path: Path, texts: Sequence[str]) -> str:
    path.write_text("".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts))
    return str(path)


def same(source: str, texts: Sequence[str]) -> Sequence[str]:
    return texts


def test_every_page_has_the_same_chance(tmp_path: Path) -> None:
    rows = [f"{i:04d}" + "x" * (i % 7) * 100 for i in range(1000)]
    path = Path(lines(tmp_path / "a.jsonl", rows))
    found = drawn(path, 300)
    assert len(found) == 300
    assert found == sorted(found)
    assert sum(map(len, found)) / 300 == pytest.approx(sum(map(len, rows)) / 1000, rel=0.1)
    assert set(drawn(path, 100)) < set(found)
    assert drawn(path, 5000) == rows
    path.write_text("")
    assert drawn(path, 10) == []
    path.write_text('{"text": "a"}\n[1]\n')
    with pytest.raises(DataError, match="byte 14"):
        drawn(path, 10)


def test_sources_and_files_are_trained_on(tmp_path: Path) -> None:
    inputs = {"encyclopedia": lines(tmp_path / "e.jsonl", [t for t, good in PAGES if good])}
    bad = [text for text, good in PAGES if not good]
    (tmp_path / "bad.txt").write_text("\n".join(bad[:20]))
    with gzip.open(tmp_path / "bad.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in bad[20:])
    config = QualityConfig(positives=("encyclopedia",), negatives=(f"{tmp_path}/bad.*",))
    validate(config)
    model = train_on(config, inputs, same)
    assert (model.about["good"], model.about["bad"]) == (40, 40)
    good, bad_one = model.scores([page(PROSE, 99), page(SALE, 99)])
    assert good > bad_one
    with pytest.raises(DataError, match="which the pipeline does not have"):
        train_on(QualityConfig(positives=("wiki",), negatives=("encyclopedia",)), inputs, same)


class ByLength:
    about: ClassVar[dict[str, object]] = {}

    def scores(self, texts: Sequence[str]) -> list[float]:
        return [len(text) / 1000 for text in texts]


def test_the_lowest_share_goes(tmp_path: Path) -> None:
    inputs = {name: lines(tmp_path / name, ["x" * i for i in range(1, 1001)]) for name in "ab"}
    found = bounds(ByLength(), QualityConfig(drop_shares={"a": 0.2, "z": 0.5}), inputs, same)
    assert list(found) == ["a"]
    assert sum(i / 1000 < found["a"] for i in range(1, 1001)) == pytest.approx(200, abs=20)
    assert bound([0.1, 0.2, 0.3, 0.4, 0.5], 0) == 0.1
    assert bound([0.1, 0.2, 0.3, 0.4, 0.5], 0.4) == 0.3
    assert bound([], 0.4) == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"model": "a.npz", "hub": "a/b", "hub_file": "c.bin"}, "give one of"),
        ({"positives": ("wiki",)}, "come together"),
        ({"model": "a.pkl"}, "neither an .npz nor a fastText .bin"),
        ({"hub": "a/b"}, "come together"),
        ({"model": "a.npz", "labels": ("pyproject.toml",)}, "give one of"),
        ({"hub": "a/b", "hub_file": "c.pkl"}, "no fastText .bin"),
    ],
)
def test_contradictions_are_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        validate(QualityConfig(**given))  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{"model": "a.bin"}, {"hub": "a/b", "hub_file": "c.bin"}])
def test_a_fasttext_model_without_its_package(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corpus.cleaning.quality.config.FASTTEXT", "no_such_package")
    with pytest.raises(ConfigError, match=r"-e '\.\[fasttext\]'"):
        validate(QualityConfig(**given))  # type: ignore[arg-type]


def test_files_that_are_not_there() -> None:
    with pytest.raises(DataError, match="matches no file"):
        validate(QualityConfig(positives=("none/*.jsonl",), negatives=("wiki",)))
    with pytest.raises(DataError, match="does not exist"):
        find_quality_model(QualityConfig(model="none.npz"))
    assert find_quality_model(QualityConfig()) is None


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    model = fasttext_model(tmp_path / "model.bin", good="pos", bad="neg")
    return Hub(commits={COMMIT: {"classifiers/zh.bin": model.read_bytes(), "README.md": b"x"}})


FROM_HUB = QualityConfig(hub="some/classifier", hub_file="classifiers/zh.bin")


def test_a_fasttext_model_from_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        path = find_quality_model(FROM_HUB)
        assert hub.downloads() == {"classifiers/zh.bin"}
    assert path is not None
    texts = [page(PROSE, 300), page(SALE, 300)]
    good, bad = (load(str(path), f"__label__{name}").scores(texts) for name in ("pos", "neg"))
    assert [a + b for a, b in zip(good, bad, strict=True)] == pytest.approx([1, 1], abs=1e-3)
    assert find_quality_model(FROM_HUB) == path  # without the hub: from the cache


def test_a_hub_without_the_file(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        other = QualityConfig(hub="some/classifier", hub_file="classifiers/en.bin")
        with pytest.raises(DataError, match=r"hf download some/classifier classifiers/en\.bin"):
            find_quality_model(other)


@pytest.mark.slow  # the hub's library tries for half a minute
def test_a_hub_out_of_reach(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"hf download some/classifier classifiers/zh\.bin"):
        find_quality_model(FROM_HUB)
