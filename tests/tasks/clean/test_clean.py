"""The stage `clean`: planted documents, the report, and errors."""

import importlib.util
import itertools
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from common.config import validate
from common.errors import ConfigError, DataError
from corpus.cleaning import document_trace
from corpus.cleaning import recipe as recipes
from corpus.cleaning.language_model.config import LanguageModelConfig
from corpus.cleaning.review.sample import read_sample
from corpus.decontaminate import ContaminationConfig
from tasks.clean import CleanConfig, clean
from tasks.core.manifest import StageResult
from tests.tasks.clean.planted import (
    LONG_SENTENCE,
    OPTIONS,
    QUESTION,
    SIMPLIFIED,
    benchmarks,
    given,
    ids_of,
    kept,
    normalized,
    planted,
    write_source,
)
from tests.tasks.running import run_stage


def test_missing_packages_are_named_in_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    missing = {"simhash", "kenlm"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else find_spec(name)
    )
    with pytest.raises(ConfigError) as caught:
        validate(CleanConfig(recipes="repaired"), "clean")
    assert "simhash-pybind (for document_simhash_deduplicator)" in str(caught.value)
    assert "camel-kenlm (for perplexity_filter)" in str(caught.value)


def test_unknown_recipe_wrong_numbers_and_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="repaired"):
        validate(CleanConfig(recipes="curatde"), "clean")
    with pytest.raises(ConfigError, match="examples"):
        validate(CleanConfig(examples=-1), "clean")
    with pytest.raises(ConfigError, match="order"):
        validate(CleanConfig(language_model=LanguageModelConfig(order=7)), "clean")
    with pytest.raises(DataError, match=r"zh\.sp\.model"):
        given = LanguageModelConfig(folder=str(tmp_path))
        validate(CleanConfig(recipes="repaired", language_model=given), "clean")


def test_planted_documents_are_kept_mended_or_dropped_as_expected(cleaned: StageResult) -> None:
    texts = {name: d["text"] for name, d in kept(cleaned.folder, "skypile").items()}
    assert texts.keys() == {
        "address",
        "ip",
        "special",
        "repeats",
        "one-line",
        "original",
        "stranger-1",
        "stranger-2",
        "squared",
        "article",
    }
    assert "@" not in texts["address"] and "http" not in texts["address"]
    assert "192.168" not in texts["ip"]
    assert "◆" not in texts["special"]
    assert texts["repeats"].count(LONG_SENTENCE) == 1
    assert "x²" in texts["squared"] and "，" in texts["squared"]
    assert kept(cleaned.folder, "skypile")["ip"]["meta"] == {"n": 1}


def test_a_question_is_cut_out_of_an_article_and_the_ledger_adds_up(cleaned: StageResult) -> None:
    document = kept(cleaned.folder, "skypile")["article"]
    assert not any(line in document["text"] for line in (QUESTION, *OPTIONS))
    before, after = document["text"].split("\n")
    assert min(len(before), len(after)) > 400
    assert document["meta"] == {"n": 1}
    ledger = json.loads((cleaned.folder / "ledger.json").read_text())["rows"]
    (row,) = (
        row
        for row in ledger
        if (row["operator"], row["source"]) == ("contamination_filter", "skypile")
    )
    assert (row["documents_changed"], row["documents_dropped"]) == (1, 1)
    question = "\n".join((QUESTION, *OPTIONS)) + "\n"
    assert row["bytes_edited"] == len(question.encode())


def test_dropped_documents_are_shown_with_the_operator_that_dropped_them(
    cleaned: StageResult,
) -> None:
    lines = (cleaned.folder / "dropped-examples.jsonl").read_text().splitlines()
    examples = [d for d in map(json.loads, lines) if d["source"] == "skypile"]
    dropped_by = {d["id"]: d["operator"] for d in examples}
    assert dropped_by == {
        # The article of an encyclopedia is preferred to a page, also where it comes after it.
        "skypile/html": "document_simhash_deduplicator",
        "skypile/traditional": "document_simhash_deduplicator",
        "skypile/near-duplicate": "document_simhash_deduplicator",
        "skypile/exact-duplicate": "document_simhash_deduplicator",
        "skypile/garbage": "alphanumeric_filter",
        "skypile/short": "average_line_length_filter",
        "skypile/question": "contamination_filter",
    }
    garbage = next(d for d in examples if d["id"] == "skypile/garbage")
    assert garbage["measured"]["alnum_ratio"] < 0.1


def test_sample_for_review_has_whole_texts_and_what_was_kept_instead(cleaned: StageResult) -> None:
    texts = planted()
    rows = {(row["kind"], row["operator"], row["id"]): row for row in read_sample(cleaned.folder)}
    copy = rows["dropped", "document_simhash_deduplicator", "skypile/near-duplicate"]
    assert (copy["family"], copy["before"]) == ("web", texts["near-duplicate"])
    assert copy["kept_instead"] == texts["original"]
    cut = rows["changed", "contamination_filter", "skypile/article"]
    question = "\n".join((QUESTION, *OPTIONS)) + "\n"
    assert cut["before"].replace(question, "") == cut["after"]
    kept = [row for row in rows.values() if row["kind"] == "kept" and row["source"] == "skypile"]
    assert len(kept) == 5
    for row in kept:
        found = document_trace.kept_document(cleaned.folder, row["id"])
        assert found is not None and found["text"] == row["before"]
    assert "kept in its place: skypile/original" in (cleaned.folder / "review.html").read_text()


def test_bytes_of_the_attrition_are_those_of_the_ledger(cleaned: StageResult) -> None:
    ledger = json.loads((cleaned.folder / "ledger.json").read_text())
    for total in ledger["sources"]:
        rows = [row for row in ledger["rows"] if row["source"] == total["source"]]
        cut, dropped = (sum(row[n] for row in rows) for n in ("bytes_edited", "bytes_dropped"))
        assert total["bytes_cut"] == cut
        assert total["bytes_in"] - total["bytes_kept"] == cut + dropped
        whole = 100 * total["bytes_kept"] / total["bytes_in"]
        assert total["bytes_kept_percent"] == pytest.approx(whole, abs=0.01)


def test_every_document_has_a_trace(cleaned: StageResult) -> None:
    row = document_trace.find(cleaned.folder, "skypile/exact-duplicate")
    assert row is not None
    assert (row["duplicate_of"], row["stats"]["duplicate_distance"]) == ("skypile/original", 0)
    near = document_trace.find(cleaned.folder, "skypile/near-duplicate")
    assert near is not None and near["duplicate_of"] == "skypile/original"
    assert 0 < near["stats"]["duplicate_distance"] <= 6
    special = document_trace.find(cleaned.folder, "skypile/special")
    assert special is not None and special["dropped_by"] == 0
    assert special["bytes_in"] - special["bytes_out"] == len("◆●■".encode())
    ids = {i for path in document_trace.files(cleaned.folder, "skypile") for i in ids_of(path)}
    assert ids == {f"skypile/{name}" for name in planted()}


def test_ledger_agrees_with_the_files(cleaned: StageResult) -> None:
    folder = cleaned.folder
    rows = pq.read_table(folder / "ledger.parquet").to_pylist()
    assert rows == json.loads((folder / "ledger.json").read_text())["rows"]
    operators = (
        len(recipes.load("repaired/text").operators) + 1
    )  # and the one for benchmark questions
    assert len(rows) == 2 * operators
    for source, come in (("skypile", len(planted())), ("wikipedia_cn", 80)):
        mine = [row for row in rows if row["source"] == source]
        texts = [d["text"] for d in kept(folder, source).values()]
        assert mine[0]["documents_in"] == come
        assert mine[-1]["documents_kept"] == len(texts)
        assert mine[-1]["bytes_kept"] == sum(len(text.encode()) for text in texts)
        for before, after in itertools.pairwise(mine):
            assert after["documents_in"] == before["documents_kept"]
            assert after["bytes_in"] == before["bytes_kept"]
            assert before["documents_in"] == before["documents_kept"] + before["documents_dropped"]


def test_statistics_duplicates_and_contamination_are_reported(cleaned: StageResult) -> None:
    ledger = json.loads((cleaned.folder / "ledger.json").read_text())
    perplexity = next(
        s
        for s in ledger["statistics"]
        if (s["statistic"], s["source"]) == ("perplexity", "skypile")
    )
    assert perplexity["operator"] == "perplexity_filter"
    assert perplexity["percentiles"] == sorted(perplexity["percentiles"])
    duplicates = json.loads((cleaned.folder / "duplicates.json").read_text())
    sizes = {row["kept"]: row["copies"] for row in duplicates["largest"]}
    assert sizes == {"wikipedia_cn/t0": 21, "skypile/original": 2}
    assert duplicates["largest"][0]["text"].startswith("这座桥梁")
    assert {"dropped_from": "skypile", "kept_in": "wikipedia_cn", "documents": 2} in (
        duplicates["sources"]
    )
    page, article = pq.read_table(cleaned.folder / "contamination.parquet").to_pylist()
    assert [page["id"], article["id"]] == ["skypile/question", "skypile/article"]
    assert (page["benchmark"], page["overlap"], page["cut"]) == ("cmmlu", 1.0, False)
    assert (article["excerpt"], article["cut"]) == (page["excerpt"], True)
    assert cleaned.manifest["counts"]["contaminated_documents"] == 2
    assert (cleaned.folder / "attrition.png").read_bytes()[1:4] == b"PNG"


def test_flagged_documents_stay_and_say_so(cleaned: StageResult, tmp_path: Path) -> None:
    write_source(tmp_path / "in", "skypile", planted())
    config = CleanConfig(
        recipes="repaired",
        workers=1,
        contamination=ContaminationConfig(action="flag"),
        language_model=given(cleaned),
    )
    run_stage(
        clean,
        tmp_path / "out",
        config,
        normalized=normalized(tmp_path / "in"),
        benchmarks=benchmarks(tmp_path / "benchmarks"),
    )
    flagged = {n: d["meta"] for n, d in kept(tmp_path / "out", "skypile").items()}
    assert flagged["question"] == {"n": 1, "contamination": ["cmmlu/anatomy/test/0"]}
    assert flagged["article"] == flagged["question"]
    assert flagged["ip"] == {"n": 1}


def test_finished_folder_says_how_it_was_made(cleaned: StageResult) -> None:
    assert (cleaned.folder / "recipe-web.yaml").exists()
    assert {p.name for p in (cleaned.folder / "language_model").iterdir()} >= {
        "zh.sp.model",
        "zh.arpa.bin",
    }
    assert not list(cleaned.folder.rglob("*.partial"))


def test_nothing_to_clean(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no source"):
        run_stage(clean, tmp_path / "out", CleanConfig(), normalized=normalized(tmp_path))


@pytest.mark.slow
def test_source_that_loses_everything_is_refused(cleaned: StageResult, tmp_path: Path) -> None:
    write_source(tmp_path / "in", "skypile", planted())
    write_source(tmp_path / "in", "zhihu", {"a": "短。", "b": "!!!!!!!!!!!!!!!!!!!!!!"})
    config = CleanConfig(recipes="repaired", language_model=given(cleaned))
    with pytest.raises(DataError, match="zhihu") as caught:
        run_stage(clean, tmp_path / "out", config, normalized=normalized(tmp_path / "in"))
    assert "alphanumeric_filter 1" in str(caught.value)
    assert "repaired/text.yaml" in str(caught.value)
    # The cleaning itself was finished: a second attempt says the same without a new process.
    (written,) = (tmp_path / "out" / "skypile").iterdir()
    started = written.stat().st_mtime_ns
    with pytest.raises(DataError, match="zhihu"):
        run_stage(clean, tmp_path / "out", config, normalized=normalized(tmp_path / "in"))
    assert written.stat().st_mtime_ns == started


@pytest.mark.slow
def test_error_of_the_process_reaches_the_user(tmp_path: Path) -> None:
    write_source(tmp_path / "in", "skypile", {"a": SIMPLIFIED})
    with pytest.raises(DataError, match=r"clean\.language_model\.sources"):
        run_stage(
            clean,
            tmp_path / "out",
            CleanConfig(recipes="repaired"),
            normalized=normalized(tmp_path / "in"),
        )
