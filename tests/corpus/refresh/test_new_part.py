"""Documents that are new beside known ones: by their text, and as no near-duplicate."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.cleaning import recipe as recipes
from corpus.refresh.copies import DEFAULTS, Copy, find_copies, parameters_of
from corpus.refresh.seen import _numbers, contains, digest, digests_of, write_unseen


def write(path: Path, texts: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": f"{path.stem}#{n}", "text": text} for n, text in enumerate(texts, 1)]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@settings(max_examples=40)
@given(st.lists(st.text(max_size=3), max_size=20), st.lists(st.text(max_size=3), max_size=20))
def test_unseen_are_the_texts_that_a_set_lacks(
    tmp_path_factory: pytest.TempPathFactory, old: list[str], new: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("seen")
    known = digests_of([write(folder / "old.jsonl", old)])
    number, _, seen = write_unseen(
        write(folder / "new.jsonl", new), known, set(), folder / "unseen.jsonl"
    )
    expected = list(dict.fromkeys(text for text in new if text not in set(old)))
    assert number == len(expected) and seen == len(new) - len(expected)
    assert (folder / "unseen.jsonl").exists() == bool(expected)
    if expected:
        assert [row["text"] for row in read(folder / "unseen.jsonl")] == expected


def test_digests_with_zeros_at_their_ends_are_told_apart() -> None:
    known = _numbers(b"\1" + b"\0" * 15 + b"\2" + b"\0" * 15)
    assert contains(known, b"\1" + b"\0" * 15)
    assert contains(known, b"\2" + b"\0" * 15)
    assert not contains(known, b"\1" + b"\0" * 14 + b"\1")
    assert not contains(known[:0], digest("a"))


def sentences(seed: int, number: int = 6) -> str:
    """A text of its own: characters drawn at random, which shares no shingle with another."""
    drawn = random.Random(seed)
    return "。".join(
        "".join(chr(drawn.randrange(0x4E00, 0x9FA5)) for _ in range(30)) for _ in range(number)
    )


def edited(text: str, every: int = 90) -> str:
    return "".join("改" if n % every == every - 1 else c for n, c in enumerate(text))


def copies(tmp_path: Path, new: list[Path], old: list[Path], workers: int = 1) -> list[Copy]:
    scratch = tmp_path / f"scratch-{random.random()}"
    return find_copies(
        new, old, DEFAULTS, scratch=scratch, cache=tmp_path / "cache", workers=workers
    )


def test_copies_of_known_texts_are_found_whatever_the_number_of_workers(tmp_path: Path) -> None:
    old = [
        write(tmp_path / "old" / f"{part}.jsonl", [sentences(100 * part + n) for n in range(20)])
        for part in range(3)
    ]
    fresh = [sentences(1000 + n) for n in range(10)]
    texts = [*fresh, edited(sentences(105)), sentences(203), edited(fresh[0])]
    new = [write(tmp_path / "new" / "n.jsonl", texts)]
    found = copies(tmp_path, new, old)
    assert {(one.document, one.kept) for one in found} == {
        ("n#11", "1#6"),
        ("n#12", "2#4"),
        ("n#13", "n#1"),  # of an earlier new one
    }
    assert [one.similarity for one in found if one.document == "n#12"] == [1.0]
    assert copies(tmp_path, new, old, workers=2) == found  # keys of old texts come from the cache
    assert copies(tmp_path, new, []) == [one for one in found if one.kept == "n#1"]
    assert copies(tmp_path, [write(tmp_path / "new" / "none.jsonl", [])], old) == []


def test_known_texts_that_resemble_each_other_are_left_alone(tmp_path: Path) -> None:
    old = [write(tmp_path / "old.jsonl", [sentences(1), edited(sentences(1))])]
    new = [write(tmp_path / "new.jsonl", [edited(sentences(1), 80), sentences(2)])]
    assert [one.document for one in copies(tmp_path, new, old)] == ["new#1"]


def test_parameters_are_those_of_the_recipe() -> None:
    assert parameters_of(recipes.load("curated/code"))["jaccard_threshold"] == 0.75
    assert parameters_of(recipes.load("curated/text")) == DEFAULTS
    assert parameters_of(recipes.load("paper/text")) == DEFAULTS  # SimHash


@pytest.mark.slow
def test_of_real_texts_only_the_planted_copies_go(tmp_path: Path, shared: Path) -> None:
    """Half of a real corpus is known; of the other half none is a copy but those that are made."""
    rows = _real_texts(shared)
    half = len(rows) // 2
    planted = [edited(text, 150) for text in rows[:40]]
    old = [write(tmp_path / "old.jsonl", rows[:half])]
    new = [write(tmp_path / "new.jsonl", [*rows[half:], *planted])]
    found = {one.document for one in copies(tmp_path, new, old)}
    first = len(rows) - half + 1
    planted_ids = {f"new#{n}" for n in range(first, first + len(planted))}
    assert len(planted_ids & found) >= 38
    assert len(found - planted_ids) <= len(rows) // 50


def _real_texts(shared: Path) -> list[str]:
    found: dict[str, None] = {}
    for path in sorted((shared / "data").rglob("*.jsonl")):
        for line in path.read_text("utf-8", errors="replace").splitlines()[:3000]:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            for key in ("text", "content", "output", "answer"):
                value = row.get(key) if isinstance(row, dict) else None
                if isinstance(value, str) and 300 < len(value) < 4000:
                    found[value] = None
                    break
    return list(found)[:1500]
