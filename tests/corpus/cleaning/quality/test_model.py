"""A model's scores, files and training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import DataError
from corpus.cleaning.quality import features
from corpus.cleaning.quality.model import SHIPPED, PageModel, load
from corpus.cleaning.quality.train import train
from tests.corpus.cleaning.operators.loading import own_operator
from tests.corpus.cleaning.quality.pages import PAGES, PROSE, SALE, fasttext_model, page


@pytest.fixture(scope="module")
def model() -> PageModel:
    return train(PAGES, "planted")


def test_it_tells_what_it_learnt(model: PageModel) -> None:
    good = model.scores([page(PROSE, i) for i in range(100, 120)])
    bad = model.scores([page(SALE, i) for i in range(100, 120)])
    assert min(good) > max(bad)
    assert all(0 <= score <= 1 for score in (*good, *bad))
    assert model.scores([]) == []


def test_one_page_at_a_time_scores_the_same(model: PageModel) -> None:
    texts = [text for text, _ in PAGES[::7]]
    assert model.scores(texts) == [model.scores([text])[0] for text in texts]


def test_the_same_pages_give_the_same_bytes(model: PageModel, tmp_path: Path) -> None:
    model.save(tmp_path / "a.npz")
    train(PAGES, "planted").save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = PageModel.load(tmp_path / "a.npz")
    assert loaded.scores([PAGES[0][0]]) == model.scores([PAGES[0][0]])
    assert loaded.about["good"] == 40


def test_too_few_pages_are_refused() -> None:
    with pytest.raises(DataError, match="20 good and 20 bad"):
        train(PAGES[:50], "planted")


@pytest.mark.parametrize("text", ["", " ", "\n", "好", "a" * 50_000, "\ud800", "𠀀" * 9, "。" * 99])
def test_any_text_has_a_score(text: str) -> None:
    assert 0 <= load("", "").scores([text])[0] <= 1
    assert np.isfinite(features.measure(text).measures).all()


def test_the_shipped_model_knows_the_planted_kinds() -> None:
    shipped = load("", "")
    assert SHIPPED.stat().st_size <= 1 << 19
    assert shipped.about["words"] == features.words().digest


def test_files_that_are_no_model(tmp_path: Path, model: PageModel) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="not a quality model"):
        load(str(tmp_path / "a.npz"), "")
    np.savez(tmp_path / "p.npz", about=np.array([{}], object))
    with pytest.raises(DataError, match="not a quality model"):
        load(str(tmp_path / "p.npz"), "")
    (tmp_path / "a.bin").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a fastText model"):
        load(str(tmp_path / "a.bin"), "")


def test_a_model_that_points_outside_is_refused(tmp_path: Path, model: PageModel) -> None:
    model.save(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as data:
        arrays = dict(data)
    for name, value in (("left", 10**6), ("feature", 9999), ("right", 0), ("roots", -1)):
        changed = arrays[name].copy()
        changed[0] = value
        np.savez(tmp_path / "bad.npz", **(arrays | {name: changed}))
        with pytest.raises(DataError):
            load(str(tmp_path / "bad.npz"), "")
    about = json.loads(str(arrays["about"])) | {"words": "other"}
    np.savez(tmp_path / "bad.npz", **(arrays | {"about": np.array(json.dumps(about))}))
    with pytest.raises(DataError, match="words"):
        load(str(tmp_path / "bad.npz"), "")


def test_a_fasttext_model(tmp_path: Path) -> None:
    fasttext_model(tmp_path / "m.bin", good="hq", bad="cc")
    texts = [page(PROSE, 500), page(SALE, 500), ""]
    first, second = (
        load(str(tmp_path / "m.bin"), f"__label__{x}").scores(texts) for x in ("hq", "cc")
    )
    assert [a + b for a, b in zip(first, second, strict=True)] == pytest.approx([1, 1, 1], abs=1e-3)
    with pytest.raises(DataError, match="no label __label__pos"):
        load(str(tmp_path / "m.bin"), "__label__pos")


def test_the_filter_keeps_what_reaches_the_bound_of_its_source(
    model: PageModel, tmp_path: Path
) -> None:
    model.save(tmp_path / "m.npz")
    texts = [page(PROSE, 1000), page(SALE, 1000)]
    good, bad = model.scores(texts)
    between = (good + bad) / 2
    stats: list[dict[str, Any]] = [{}, {}]
    samples: dict[str, Any] = {"text": texts, "__dj__stats__": stats, "source": ["a", "b"]}
    for arguments, kept in (
        ({"min_score": between}, [True, False]),
        ({"min_score": between, "min_scores": {"b": 0.0}}, [True, True]),
        ({"min_score": between, "min_scores": {"a": 1.0}}, [False, False]),
    ):
        filtered = own_operator("quality_filter", model=str(tmp_path / "m.npz"), **arguments)
        assert filtered.process_batched(filtered.compute_stats_batched(samples)) == kept
    assert [one["quality"] for one in stats] == [good, bad]
