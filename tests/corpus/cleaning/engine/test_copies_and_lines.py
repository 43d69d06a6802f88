"""Copies and repeated lines through the whole of cleaning on one machine."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from corpus.cleaning import document_trace
from corpus.cleaning import recipe as recipes
from corpus.cleaning.engine.clean import clean_locally
from corpus.cleaning.job import CleanJob, FamilyJob
from tests.corpus.cleaning.operators.pages import BODIES, FOOTER, MENU, words

MINHASH = {
    "tokenization": "character",
    "window_size": 4,
    "ignore_pattern": r"[\W_]",
    "num_permutations": 256,
    "jaccard_threshold": 0.7,
    "num_bands": 64,
    "num_rows_per_band": 4,
}
ARTICLE = words(random.Random(100), 400)


def recipe_with(folder: Path, name: str, *operators: dict[str, Any]) -> recipes.Recipe:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"process": list(operators)}), encoding="utf-8")
    return recipes.load_file(path)


def cleaned(folder: Path, texts: dict[str, list[str]], *, workers: int, bytes_: int) -> Any:
    """Clean pages and articles; returns the ledger of the job."""
    (folder / "in").mkdir(parents=True)
    for source, own in texts.items():
        with (folder / "in" / f"{source}.jsonl").open("w", encoding="utf-8") as file:
            for number, text in enumerate(own):
                row = {"id": f"{source}/{number}", "source": source, "text": text, "meta": {}}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    length, copies = (
        {"text_length_filter": {"min_len": 5}},
        {"document_minhash_deduplicator": MINHASH},
    )
    lines = {"repeated_lines_deduplicator": {"min_documents": 10}}
    found = {
        "web": recipe_with(folder, "web", length, copies, lines),
        "encyclopedia": recipe_with(folder, "encyclopedia", length, copies),
    }
    for one in found.values():
        one.import_custom_operators()
    job = CleanJob(
        families={
            "web": FamilyJob(recipe="x/web", inputs={"pages": str(folder / "in/pages.jsonl")}),
            "encyclopedia": FamilyJob(
                recipe="x/encyclopedia", inputs={"articles": str(folder / "in/articles.jsonl")}
            ),
        },
        output=str(folder / "out"),
        ledger=str(folder / "ledger.json"),
        scratch=str(folder / "scratch"),
        models=str(folder),
        language_model={},
        tokenizer="",
        examples=3,
        partition_bytes=bytes_,
        workers=workers,
        contamination="",
        contamination_action="drop",
        executor="local",
        ray={},
    )
    (folder / "out").mkdir()
    return clean_locally(job, found, lambda *_: None)


PAGES = [f"{MENU}\n{body}\n{FOOTER}" for body in BODIES]
TEXTS = {
    "pages": [
        *PAGES,
        f"{MENU}\n{ARTICLE}，转自百科\n{FOOTER}",  # an article's copy
        PAGES[3].replace(BODIES[3][:2], "改动"),  # a page's
        f"{MENU}\n七月\n{FOOTER}",  # nothing of its own
        "一页自己的文字，里面没有别的页面上的任何一行。",
    ],
    "articles": [ARTICLE, ARTICLE + "。", f"百科里也有一条\n{FOOTER}"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("copies")
    return folder, cleaned(folder, TEXTS, workers=1, bytes_=1 << 20)


def texts_of(folder: Path, source: str) -> dict[str, str]:
    rows = [
        json.loads(line)
        for path in sorted((folder / "out" / source).glob("*.jsonl"))
        for line in path.read_text("utf-8").splitlines()
    ]
    return {row["id"].partition("/")[2]: row["text"] for row in rows}


def test_copies_go_and_the_lines_that_pages_share(run: tuple[Path, Any]) -> None:
    folder, _ = run
    pages = texts_of(folder, "pages")
    assert pages.pop("23") == TEXTS["pages"][23]
    assert list(pages.values()) == BODIES
    # The recipe of encyclopedias takes no lines out, and copies of articles are looked for in both.
    assert texts_of(folder, "articles") == {"0": ARTICLE, "2": TEXTS["articles"][2]}


def test_the_trace_says_of_what_a_document_is_a_copy_and_how_similar(run: tuple[Path, Any]) -> None:
    folder, _ = run
    (path,) = (folder / "out" / "documents").glob("pages-*")
    rows = {row["id"]: row for row in pq.read_table(path).to_pylist()}
    assert rows["pages/20"]["duplicate_of"] == "articles/0"
    assert rows["pages/21"]["duplicate_of"] == "pages/3"
    for copy in ("pages/20", "pages/21"):
        assert rows[copy]["dropped_by"] == 2
        assert 0.7 <= rows[copy][document_trace.SIMILARITY] < 1
        assert rows[copy][document_trace.DISTANCE] is None
    assert rows["pages/22"]["dropped_by"] == 3
    assert rows["pages/22"]["duplicate_of"] is None
    assert rows["pages/0"]["edits"] == [{"operator": 3, "bytes": len(BODIES[0].encode())}]
    assert rows["pages/0"]["bytes_out"] == len(BODIES[0].encode())
    assert rows["pages/23"]["edits"] == []


def test_the_ledger_adds_up_and_shows_examples(run: tuple[Path, Any]) -> None:
    _, result = run
    lines = next(r for r in result["rows"] if r["operator"] == "repeated_lines_deduplicator")
    assert (lines["documents_changed"], lines["documents_dropped"]) == (20, 1)
    assert lines["bytes_kept"] == sum(len(t.encode()) for t in [*BODIES, TEXTS["pages"][23]])
    sample = result["sample"]
    changed = [e for e in sample["changed"] if e["operator"] == "repeated_lines_deduplicator"]
    assert len(changed) == 3
    assert changed[0]["before"].startswith("首页")
    (copy, _) = [e for e in sample["dropped"] if e["source"] == "pages" and "duplicate_of" in e]
    assert copy["measured"][document_trace.SIMILARITY] >= 0.7


@pytest.mark.parametrize(("workers", "bytes_"), [(2, 1 << 20), (2, 900)])
def test_workers_and_partitions_change_nothing(
    run: tuple[Path, Any], tmp_path: Path, workers: int, bytes_: int
) -> None:
    folder, whole = run
    again = cleaned(tmp_path / "again", TEXTS, workers=workers, bytes_=bytes_)
    assert again["rows"] == whole["rows"]
    assert again["sample"] == whole["sample"]
    for source in TEXTS:
        assert texts_of(tmp_path / "again", source) == texts_of(folder, source)
