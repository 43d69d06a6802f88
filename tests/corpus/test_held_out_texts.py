"""Texts held out for scoring: chosen by their content, and not standing in the corpora as well."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DataError
from corpus.cleaning.quality.labels import sha256_of
from corpus.held_out_texts import WINDOW, HeldOutSet, SharedPassages, passages, rank, scored, split

SENTENCES = [f"第{i}段说的是另一件事，编号{i * 7919 % 1000}，与前后都不相同。" for i in range(400)]


def documents(texts: list[str]) -> list[dict[str, str]]:
    return [{"id": str(i), "text": text} for i, text in enumerate(texts)]


@given(st.text(min_size=0, max_size=80), st.text(max_size=20))
def test_equal_passages_have_equal_hashes_wherever_they_stand(text: str, before: str) -> None:
    found, later = passages(text), passages(before + text)
    compact = "".join(text.split())
    assert len(found) == max(0, len(compact) - WINDOW + 1)
    assert set(found) <= set(later)


@given(st.text(min_size=WINDOW, max_size=60), st.integers(0, 59))
def test_a_changed_character_changes_every_passage_that_has_it(text: str, at: int) -> None:
    compact = "".join(text.split())
    if len(compact) < WINDOW:
        return
    at %= len(compact)
    other = compact[:at] + ("甲" if compact[at] != "甲" else "乙") + compact[at + 1 :]
    same = passages(compact) == passages(other)
    for number, equal in enumerate(same):
        assert equal == (not number <= at < number + WINDOW)


def test_shares_are_those_of_comparing_all_substrings() -> None:
    held = ["".join(SENTENCES[:5]), "".join(SENTENCES[10:14]), "短"]
    others = ["".join(SENTENCES[3:8]), SENTENCES[11] + "完全不同的结尾，从未出现过的句子。"]
    shared = SharedPassages(held)
    for text in others:
        shared.look_at(passages(text))
    for text, share in zip(held, shared.shares(), strict=True):
        windows = [text[i : i + WINDOW] for i in range(len(text) - WINDOW + 1)]
        known = [any(window in other for other in others) for window in windows]
        assert share == (sum(known) / len(known) if known else 0.0)


def test_a_text_that_stands_twice_is_not_scored() -> None:
    shares = [0.0, 0.9, 0.1]
    found = scored("poems", HeldOutSet(corpora=("a",)), documents(["一", "二", "三"]), shares)
    assert {document["text"] for document in found} == {"一", "三"}


def test_only_texts_judged_worth_keeping_are_scored(tmp_path: Path) -> None:
    verdicts = tmp_path / "verdicts.jsonl"
    rows = [
        {"sha256": sha256_of("好"), "verdict": "keep"},
        {"sha256": sha256_of("坏"), "verdict": "drop"},
    ]
    # As `steel review` writes them: by id, the hash being that of the text after some operator.
    rows.append({"sha256": sha256_of("x"), "id": "2", "verdict": "worth_keeping"})
    verdicts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = HeldOutSet(corpora=("a",), verdicts=str(verdicts))
    found = scored("web", config, documents(["好", "坏", "无"]), [0.0] * 3)
    assert {document["text"] for document in found} == {"好", "无"}
    with pytest.raises(DataError, match="no document is left"):
        scored("web", config, documents(["坏"]), [0.0])


def test_a_larger_fraction_holds_out_what_a_smaller_one_does(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(d) + "\n" for d in documents(SENTENCES)))
    small = {d["id"] for d, out in split(path, 0.1) if out}
    large = {d["id"] for d, out in split(path, 0.3) if out}
    assert small < large
    assert 20 <= len(small) <= 60
    assert not any(out for _, out in split(path, 0.0))
    assert all(out for _, out in split(path, 1.0))
    assert rank("甲") == rank("甲") != rank("乙")


def test_the_most_characters_count_from_the_smallest_hash_on() -> None:
    texts = SENTENCES[:50]
    config = HeldOutSet(corpora=("a",), max_characters=200)
    found = [d["text"] for d in scored("x", config, documents(texts), [0.0] * 50)]
    assert found == sorted(texts, key=rank)[: len(found)]
    assert sum(map(len, found)) <= 200
