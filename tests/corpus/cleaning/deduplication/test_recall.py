"""Near-duplicates: copies are caught in Chinese, English and code, strangers are not.

The documents are real rows; the tables are printed (`pytest -s`), and `python -m
benchmarks.near_duplicates` prints them for all rows. Bounds are what was measured there, less a
margin for the smaller sample.
"""

from pathlib import Path

import datasets
import numpy as np
import pytest

from benchmarks import near_duplicates as bench
from benchmarks import verified_copies as verified
from benchmarks._sample_texts import EDITS, SHARED, headlines, questions
from corpus.cleaning import recipe
from corpus.cleaning.engine import pipeline

MEASURED = {
    # Recall of the shipped recipes on planted pairs, less 0.1; `frame` adds a line or a licence.
    "chinese": {"0.5 %": 0.8, "1 %": 0.65, "sentence": 0.7, "spaces": 1, "style": 1, "frame": 0.6},
    "english": {"0.5 %": 0.8, "1 %": 0.65, "sentence": 0.8, "spaces": 1, "style": 1, "frame": 0.6},
    "code": {
        "0.5 %": 0.85,
        "1 %": 0.7,
        "2 %": 0.55,
        "sentence": 0.85,
        "spaces": 0.95,
        "frame": 0.95,
    },
}


def recipe_of(language: str) -> str:
    return "code" if language == "code" else "text"


def print_row(name: str, recall: dict[str, float]) -> None:
    print(f"{name:24s}" + "".join(f"  {edit} {100 * r:.0f} %" for edit, r in recall.items()))


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("language", MEASURED)
def test_planted_copies_are_caught(language: str) -> None:
    setting = bench.shipped(f"repaired/{recipe_of(language)}")
    planted = bench.Planted.of(bench.LANGUAGES[language](SHARED), language, count=40)
    mapped = planted.mapped(bench.Mappers(setting.name))
    recall, precision = mapped.recall(setting), mapped.precision(setting)
    print_row(f"{setting.name}, {language}", recall | {"precision": precision})
    assert precision >= 0.98
    wanted = MEASURED[language]
    assert {edit: recall[edit] for edit in wanted if recall[edit] < wanted[edit]} == {}


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(("language", "most"), [("chinese", 0.7), ("english", 0.3), ("code", 0.3)])
def test_the_papers_parameters_miss_them(language: str, most: float) -> None:
    """The paper's parameters find half of the Chinese copies, because they merge everything."""
    setting = bench.shipped(f"paper/{recipe_of(language)}")
    planted = bench.Planted.of(bench.LANGUAGES[language](SHARED), language, count=40)
    recall = planted.mapped(bench.Mappers(setting.name)).recall(setting)
    print_row(f"{setting.name} (paper), {language}", recall)
    assert recall["1 %"] < most


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("rows", [headlines, questions])
def test_short_strangers_are_not_merged(rows: object) -> None:
    assert callable(rows)
    texts = list(dict.fromkeys(rows(SHARED)))[:1200]
    setting, paper = bench.shipped("repaired/text"), bench.shipped("paper/text")
    copies = bench.Reference(texts).pairs()
    found = bench.close_pairs(setting.hashes(texts), setting.hamming_distance)
    result = bench.score(found, copies)
    print(f"{len(texts)} short documents: {result.found} pairs merged, {result.right} are copies")
    assert result.found - result.right <= 2
    merged = bench.close_pairs(paper.hashes(texts), paper.hamming_distance)
    assert len(merged) > 0.2 * len(texts) ** 2 / 2  # the paper's merges them all


@pytest.mark.usefixtures("shared")
def test_data_juicer_keeps_the_originals_only() -> None:
    """The number of blocks suffices: the operator finds the pairs that brute force finds."""
    setting = bench.shipped("repaired/text")
    originals = bench.Planted.of(bench.chinese(SHARED), "chinese", count=60)
    texts = [*originals.originals, *originals.copies["1 %"], *originals.copies["2 %"]]
    hashes = setting.hashes(texts)
    pairs = bench.close_pairs(hashes, setting.hamming_distance)
    (operator,) = pipeline.build(recipe.load("repaired/text").operators[-1:])
    rows = datasets.Dataset.from_dict(
        {"__dj__simhash": [str(h) for h in hashes], "row": list(range(len(texts)))}
    )
    kept, _ = operator.process(rows)
    group = np.arange(len(texts))
    for i, j in pairs:
        group[group == group[j]] = group[i]
    first = {int(np.flatnonzero(group == g)[0]) for g in np.unique(group)}
    assert set(kept["row"]) == first
    assert len(first) < len(texts) - 60


@pytest.mark.parametrize("rate", [0.005, 0.05])
def test_edits_change_as_much_as_they_say(rate: float) -> None:
    import random

    text = "".join(chr(0x4E00 + i % 500) for i in range(20_000))
    edited = EDITS[f"{100 * rate:g} %"](text, random.Random(0), "chinese")
    same = bench.Reference([text, edited]).similarity(0, 1)
    # An edit destroys about five of the 5-grams around it; the text has 500 different ones.
    assert edited != text
    assert abs(len(edited) - len(text)) < 3 * rate * len(text)
    assert 0 < same < 1


def test_reference_is_jaccard_over_character_5_grams() -> None:
    texts = ["abcdefgh", "abcdefgx", "zzzzzzzz", "abcdefgh"]
    reference = bench.Reference(texts)
    assert reference.similarity(0, 1) == pytest.approx(3 / 5)
    assert reference.pairs(0.6).tolist() == [[0, 1], [0, 3], [1, 3]]
    assert reference.pairs(0.7).tolist() == [[0, 3]]


def test_pairs_and_score() -> None:
    hashes = np.array([0, 0b111, 0xFF << 40, 0], np.uint64)
    assert bench.close_pairs(hashes, 3).tolist() == [[0, 1], [0, 3], [1, 3]]
    result = bench.score(np.array([[0, 1], [0, 3]]), np.array([[0, 3], [2, 3], [1, 2]]))
    assert (result.precision, result.recall) == (1 / 2, pytest.approx(1 / 3))


@pytest.mark.slow
@pytest.mark.usefixtures("shared")
def test_real_rows(root: Path) -> None:
    settings = [bench.shipped(name) for name in ("repaired/text", "repaired/code")]
    scores = {}
    for line in bench.real_table(settings):
        print(line)
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].startswith("repaired"):
            scores[cells[1]] = {"merged": int(cells[4]), "loose": float(cells[7])}
    # Few real rows are copies of each other: the sources are de-duplicated already.
    assert scores["chinese"]["merged"] <= 8
    assert scores["english"]["merged"] <= 2
    assert scores["code"]["merged"] <= 12
    assert scores["chinese"]["loose"] >= 0.5


VERIFIED = {
    "chinese": {"1 %": 0.97, "2 %": 0.95, "sentence": 0.97, "spaces": 0.97, "frame": 0.9},
    "english": {"1 %": 0.97, "2 %": 0.95, "sentence": 0.97, "spaces": 0.97, "frame": 0.9},
    "code": {"1 %": 0.9, "2 %": 0.7, "sentence": 0.95, "spaces": 0.97, "frame": 0.97},
}
"""Recall with the curated recipes, whose copies are verified, less a margin."""


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("language", VERIFIED)
def test_verified_copies_are_found_and_no_stranger_is_dropped(language: str) -> None:
    name = f"curated/{recipe_of(language)}"
    planted = bench.Planted.of(bench.LANGUAGES[language](SHARED), language, count=40)
    mapped = planted.mapped(bench.Mappers(name))
    step = verified.deduplicator(name)
    num = len(mapped.originals)
    missed = {}
    for edit, least in VERIFIED[language].items():
        found = verified.Search(mapped.originals + mapped.copies[edit], step).copies
        right = sum(found.get(num + i) == i for i in range(num))
        assert len(found) == right, edit
        if right < least * num:
            missed[edit] = right / num
    assert missed == {}
