"""`steel explain`: the way of one document."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import DataError
from common.files import complete_file, json_line, write_json
from corpus.cleaning import document_trace
from corpus.cleaning.review.sample import write_sample
from flows import cli
from tasks.core.explain import describe, explain

TEXTS = {
    "s/a.jsonl#1": "原来的文章。",
    "s/a.jsonl#2": "原来的文章！",
    "s/a.jsonl#3": "短",
    "s/a.jsonl#5": "一篇带题目的文章。",
}
OPERATORS = ("a_mapper", "b_filter", "c_deduplicator")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one normalised and cleaned corpus, as the stages leave them."""
    normalized, cleaned = tmp_path / "normalize" / "n1", tmp_path / "clean" / "c1"
    with complete_file(normalized / "s.jsonl") as file:
        for name, text in TEXTS.items():
            file.write(json_line({"text": text, "source": "s", "id": name, "meta": {"n": 1}}))
    with complete_file(normalized / "quarantine" / "s.jsonl") as file:
        file.write(
            json_line({"file": "s/a.jsonl", "line": 4, "reason": "empty line", "excerpt": ""})
        )
    rows = [
        _trace("s/a.jsonl#1", 0, length=6.0),
        _trace("s/a.jsonl#2", 3, length=6.0),
        _trace("s/a.jsonl#3", 2, length=1.0),
        _trace("s/a.jsonl#5", 0, length=9.0),
    ]
    rows[1] |= {"duplicate_of": "s/a.jsonl#1"}
    rows[1]["stats"]["duplicate_distance"] = 2.0
    rows[3] |= {"edits": [{"operator": 1, "bytes": 24}], "bytes_out": 24}
    document_trace.write(document_trace.table_of(rows), cleaned / "documents" / "s-00000.parquet")
    with complete_file(cleaned / "s" / "00000.jsonl") as file:
        for name in ("s/a.jsonl#1", "s/a.jsonl#5"):
            file.write(json_line({"text": TEXTS[name][:8], "source": "s", "id": name}))
    ledger = {
        "rows": [
            {"source": "s", "family": "web", "position": n, "operator": operator}
            for n, operator in enumerate(OPERATORS, start=1)
        ],
        "statistics": [{"statistic": "length", "operator": "b_filter"}],
    }
    write_json(cleaned / "ledger.json", ledger)
    for stage, folder, inputs in (
        ("normalize", normalized, {}),
        ("clean", cleaned, {"normalized": "n1"}),
    ):
        manifest: dict[str, Any] = {
            "schema": 1,
            "stage": stage,
            "key": folder.name,
            "inputs": inputs,
            "notes": {"recipes": {"web": "curated/web"}},
        }
        write_json(folder / "manifest.json", manifest)
    return tmp_path


def _trace(name: str, dropped_by: int, length: float) -> dict[str, Any]:
    size = len(TEXTS[name].encode())
    return {
        "id": name,
        "source": "s",
        "bytes_in": size,
        "bytes_out": size,
        "dropped_by": dropped_by,
        "failed": False,
        "edits": [],
        "stats": {"length": length},
    }


def described(store: Path, document: str) -> str:
    return "\n".join(describe(explain(store, document)))


def test_kept_document(store: Path) -> None:
    words = described(store, "s/a.jsonl#5")
    assert "recipe curated/web" in words
    assert "1 a_mapper" in words and "changed it, 27 -> 24 bytes" in words
    assert "measured it, length 9" in words
    assert "left alone by 1 other operators" in words
    assert "27 -> 24 bytes (-3)" in words
    assert "kept, 24 bytes:\n    | 一篇带题目的文章\n" in words
    assert words.endswith("{+put in+}:\n    | 一篇带题目的文章[-。-]")


def test_changes_by_an_operator_are_shown_where_the_sample_has_them(store: Path) -> None:
    about = {"id": "s/a.jsonl#5", "kind": "changed", "position": 1, "operator": "a_mapper"}
    other = about | {"id": "s/a.jsonl#1", "before": "甲", "after": "乙"}
    rows = [other, about | {"before": "一篇文章。", "after": "一篇文章"}]
    write_sample(store / "clean" / "c1", rows)
    assert "(-3)\n       | 一篇文章[-。-]\n" in described(store, "s/a.jsonl#5")


def test_dropped_document_and_the_value_that_dropped_it(store: Path) -> None:
    words = described(store, "s/a.jsonl#3")
    assert "2 b_filter" in words and "dropped it, length 1" in words
    assert "c_deduplicator" not in words and words.endswith("dropped")


def test_duplicate_shows_what_was_kept_in_its_place(store: Path) -> None:
    words = described(store, "s/a.jsonl#2")
    assert "kept in its place: s/a.jsonl#1, 2 of 64 bits apart\n    | 原来的文章。" in words


def test_document_that_was_set_aside(store: Path) -> None:
    assert "set aside by normalize" in described(store, "s/a.jsonl#4")
    assert "empty line" in described(store, "s/a.jsonl#4")


@pytest.mark.parametrize("document", ["s/a.jsonl#9", "t/a.jsonl#1", "nonsense"])
def test_unknown_document_is_one_clear_error(store: Path, document: str) -> None:
    with pytest.raises(DataError, match=r"<source>/<file>#<line>.*Sources: s"):
        explain(store, document)


def test_command(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "s/a.jsonl#2", "--store", str(store), "--json"]) == 0
    explanation = json.loads(capsys.readouterr().out)
    assert explanation["cleaned"]["duplicate_of"]["bits_apart"] == 2
    assert cli.main(["explain", "s/a.jsonl#99", "--store", str(store)]) == 2
    assert "knows no document" in capsys.readouterr().err


def test_long_document_is_explained_by_its_parts(store: Path) -> None:
    file = store / "normalize" / "n1" / "s.jsonl"
    rows = "".join(
        json.dumps({"text": "段", "source": "s", "id": f"s/b.jsonl#1/{n}", "meta": {"parts": 2}})
        + "\n"
        for n in (1, 2)
    )
    file.write_bytes(file.read_bytes() + rows.encode())
    explanation = explain(store, "s/b.jsonl#1")
    assert explanation["normalized"]["parts"] == ["s/b.jsonl#1/1", "s/b.jsonl#1/2"]
    told = "\n".join(describe(explanation))
    assert "too long: cut by normalize" in told
    assert "s/b.jsonl#1/2" in told


def test_reason_of_a_drop_is_told(store: Path) -> None:
    rows = [_trace("s/a.jsonl#3", 2, length=1.0) | {"reason": "generated: protobuf"}]
    path = store / "clean" / "c1" / "documents" / "s-00000.parquet"
    document_trace.write(document_trace.table_of(rows), path)
    told = "\n".join(describe(explain(store, "s/a.jsonl#3")))
    assert "dropped it, generated: protobuf, length 1" in told
