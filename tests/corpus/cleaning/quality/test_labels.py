"""Verdicts of people, and a model that learns from them."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from common.config import validate
from common.errors import DataError
from corpus.cleaning.quality.build import train_on
from corpus.cleaning.quality.config import QualityConfig
from corpus.cleaning.quality.labels import labelled_pages, read_labels, sha256_of
from tests.corpus.cleaning.quality.pages import PAGES, PROSE, SALE, page


def lines(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


def mapped(source: str, texts: Sequence[str]) -> Sequence[str]:
    """Mappers that take a footer off."""
    return [text.removesuffix("\n版权所有") for text in texts]


def corpus(folder: Path) -> dict[str, str]:
    """Sources with the planted pages, each with a footer, among others."""
    rows = [
        {"id": f"sky/{i}", "text": f"{text}\n版权所有"}
        for i, (text, _) in enumerate([*PAGES, *((page(PROSE, i), True) for i in range(200, 230))])
    ]
    half = len(PAGES) // 2
    return {
        "first": lines(folder / "first.jsonl", rows[:half]),
        "second": lines(folder / "second.jsonl", rows[half:]),
    }


@pytest.mark.parametrize("by", ["hash", "id", "text"])
def test_verdicts_train_a_model(by: str, tmp_path: Path) -> None:
    rows: list[dict[str, str]] = []
    for i, (text, good) in enumerate(PAGES):
        row = {"verdict": "keep" if good else "drop"}
        if by == "hash":
            row["sha256"] = sha256_of(f"{text}\n版权所有")
        elif by == "id":  # as of a review, whose hash is of the text after the mappers
            row = {"id": f"sky/{i}", "sha256": sha256_of(text)}
            row["verdict"] = "worth_keeping" if good else "bad_kept"
        else:
            row["text"] = text
        rows.append(row)
    config = QualityConfig(labels=(lines(tmp_path / "v.jsonl", rows),))
    validate(config)
    assert config.trains
    assert config.given_files() == [tmp_path / "v.jsonl"]
    model = train_on(config, corpus(tmp_path), mapped)
    assert (model.about["good"], model.about["bad"]) == (40, 40)
    good, bad = model.scores([page(PROSE, 99), page(SALE, 99)])
    assert good > bad


def test_the_last_verdict_counts_and_others_are_passed_over(tmp_path: Path) -> None:
    review = {"sha256": "b", "operator": "document_minhash_deduplicator"}
    found = read_labels(
        [
            Path(
                lines(
                    tmp_path / "v.jsonl",
                    [
                        {"sha256": "a", "verdict": "keep"},
                        {"sha256": "a", "verdict": "drop"},
                        review | {"verdict": "rightly_dropped"},
                        {"sha256": "c", "verdict": "unsure"},
                        {"sha256": "d", "verdict": "damaged"},
                        {"sha256": "e", "operator": "quality_filter", "verdict": "wrongly_dropped"},
                        {
                            "sha256": "f",
                            "operator": "spam_rules_filter",
                            "verdict": "rightly_dropped",
                        },
                    ],
                )
            )
        ]
    )
    assert found.by_hash == {"a": False, "e": True, "f": False}


def test_pages_that_no_source_has_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": text, "verdict": "keep" if good else "drop"} for text, good in PAGES]
    path = lines(tmp_path / "v.jsonl", [*rows, {"sha256": "0" * 64, "verdict": "drop"}])
    labels = read_labels([Path(path)])
    assert len(labelled_pages(labels, {})) == len(PAGES)
    with caplog.at_level(logging.WARNING):
        model = train_on(QualityConfig(labels=(path,)), {}, mapped)
    assert model.about["bad"] == 40
    assert "1 of 81 labelled pages" in caplog.text


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[1]", "line 1: no verdict on a page"),
        ('{"sha256": "a"}', "line 1: no verdict on a page"),
        ('{"sha256": "a", "verdict": "good"}', "worth_keeping"),
        ('{"verdict": "keep"}', "line 1: no verdict on a page"),
        ('{"sha256": 1, "verdict": ["keep"]}', "line 1: no verdict on a page"),
        ('{"sha256": "a", "verdict": "keep"}', "1 good and 0 bad pages of 20"),
        ("nonsense", "line 1: no verdict on a page"),
    ],
)
def test_files_that_are_no_labels_are_refused(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text(f"{content}\n")
    with pytest.raises(DataError, match=told):
        validate(QualityConfig(labels=(str(path),)))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        validate(QualityConfig(labels=(str(tmp_path / "none.jsonl"),)))
