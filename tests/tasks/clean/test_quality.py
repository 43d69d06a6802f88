"""Web pages in the stage `clean`: rules, a model of one's own, bounds by source."""

from pathlib import Path

import pytest

from common.config import validate
from common.errors import ConfigError
from corpus.cleaning import document_trace
from corpus.cleaning.quality.config import QualityConfig
from corpus.cleaning.quality.deciles import deciles
from corpus.cleaning.quality.model import PageModel
from tasks.clean import CleanConfig, clean
from tasks.core.manifest import StageResult
from tests.corpus.cleaning.quality.pages import PROSE, SALE, page
from tests.tasks.clean.planted import given, normalized, write_source
from tests.tasks.running import run_stage

SPAM = "本文摘要：某某手机版登录，某某官网报道：" + page(PROSE, 1)


def test_a_model_of_ones_own_judges_the_web(cleaned: StageResult, tmp_path: Path) -> None:
    articles = {f"w{i}": page(PROSE, i) for i in range(100, 140)}
    pages = {f"good{i}": page(PROSE, i) for i in range(20)}
    pages |= {f"bad{i}": page(SALE, i) for i in range(10)} | {"spam": SPAM}
    write_source(tmp_path / "in", "wikipedia_cn", articles)
    write_source(tmp_path / "in", "skypile", pages)
    bad = tmp_path / "bad.txt"
    bad.write_text("\n".join(page(SALE, i) for i in range(200, 240)))
    config = CleanConfig(
        workers=1,
        language_model=given(cleaned),
        quality=QualityConfig(
            positives=("wikipedia_cn",), negatives=(str(bad),), drop_shares={"skypile": 0.4}
        ),
    )
    result = run_stage(
        clean, tmp_path / "out", config, normalized=normalized(tmp_path / "in"), benchmarks=None
    )
    out = result.folder
    model = PageModel.load(out / "quality_model" / "model.npz")
    assert (model.about["good"], model.about["bad"]) == (40, 40)
    notes = result.notes["quality"]
    bound = notes["min_scores"]["skypile"]
    traces = {name: document_trace.find(out, f"skypile/{name}") for name in pages}
    spam = traces.pop("spam")
    assert spam is not None and spam["dropped_by"]
    assert spam["reason"] == "spun: summary with a planted brand"
    scored = {n: t for n, t in traces.items() if t is not None and "quality" in t["stats"]}
    assert scored
    for name, trace in scored.items():
        score = trace["stats"]["quality"]
        assert score in model.scores([pages[name]])
        if score < bound:
            assert trace["dropped_by"]
    rows = deciles(out)
    assert {row["source"] for row in rows} == {"skypile"}
    assert sum(row["documents"] for row in rows) == len(scored)
    assert [row["from"] for row in rows] == sorted(row["from"] for row in rows)
    article = document_trace.find(out, "wikipedia_cn/w100")
    assert article is not None and "quality" not in article["stats"]


def test_shares_of_what_nothing_scores_are_refused() -> None:
    config = CleanConfig(
        quality=QualityConfig(drop_shares={"skypile": 0.1, "wikipedia_cn": 0.1, "skypiel": 0.1})
    )
    errors = [str(error) for error in config.check_sources(["skypile", "wikipedia_cn"])]
    assert len(errors) == 2
    assert "wikipedia_cn" in errors[0] and "skypiel" in errors[1]


def test_bounds_by_source_need_one_machine() -> None:
    config = CleanConfig(executor="ray", quality=QualityConfig(drop_shares={"skypile": 0.1}))
    with pytest.raises(ConfigError, match=r"drop_shares"):
        validate(config, "clean")
