"""Any JSON value in the place of any field of any corpus's format: the text that stands there, or a
record that is set aside for a reason that names its field."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.formats.normalization import RawCorpus, normalize_corpus
from corpus.formats.record_formats import BLANKS, RECORD_FORMATS
from corpus.recipes import CorpusRecipe
from tests.corpus.formats.json_values import JSON

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "skypile": ("skypile", {"text": "t"}),
    "wikipedia_cn": ("wikipedia_cn", {"completion": "t", "source": "m"}),
    "wanjuan, a page": ("wanjuan", {"id": "m", "title": "u", "content": "t"}),
    "wanjuan, an exam": (
        "wanjuan",
        {"q_main": "t", "option_a": "u", "option_b": "v", "std_ans": "w", "answer_detail": "x"},
    ),
    "baidu_baike": (
        "baidu_baike",
        {
            "title": "t",
            "summary": "u",
            "sections": [{"title": "v", "content": "w"}],
            "tags": ["m"],
            "url": "m",
        },
    ),
    "baidu_qa": ("baidu_qa", {"qid": "m", "title": "t", "desc": "u", "answer": "v"}),
    "zhihu": (
        "zhihu",
        {"INSTRUCTION": "t", "RESPONSE": "u", "SOURCE": "m", "METADATA": {"upvotes": "3"}},
    ),
    "belle_instruction": ("belle_instruction", {"instruction": "t", "input": "u", "output": "v"}),
    "belle_conversations": (
        "belle_conversations",
        {"conversations": [{"from": "human", "value": "t"}, {"from": "assistant", "value": "u"}]},
    ),
    "moss, turns": ("moss", {"conversation": [{"human": "t", "assistant": "u"}], "category": "m"}),
    "moss, a chat": ("moss", {"chat": {"turn_1": {"Human": "t", "MOSS": "u", "Commands": "m"}}}),
    "moss, plain": ("moss", {"plain_text": "[Human]: t<eoh> [MOSS]: u<eoa>"}),
    "firefly": ("firefly", {"kind": "m", "input": "t", "target": "u"}),
    "starcoder": ("starcoder", {"content": "t", "max_stars_count": 3, "id": "m"}),
    "plain": ("plain", {"title": "t", "text": "u"}),
}
"""Kind of row -> its format, and a row in which every text but `m` is part of the document."""

META = ("id", "source", "tags", "url", "qid", "SOURCE", "METADATA", "upvotes", "category", "kind")
META += ("max_stars_count", "Commands")
"""Fields that are no part of the document."""

LAID_OUT = set("\n 问答案解析：.ABCDEFG")
"""Characters of the layout of questions and answers."""

VALUES = JSON | st.just(10**400) | st.sampled_from(["nan", "None", "\ud800", "3.10", "007", "1e5"])


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a value, itself left out."""
    pairs: Any = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else pairs:
        yield (*path, key)
        yield from paths(inner, (*path, key))


PLACES = [(name, path) for name, (_, row) in ROWS.items() for path in paths(row)]
TEXTS = [
    (name, path)
    for name, path in PLACES
    if not {*path} & {*META} and path[-1] not in (0, 1, "from") and path[-1] != "sections"
]


def put(row: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy of a row with another value at a place."""
    row = copy.deepcopy(row)
    inner: Any = row
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return row


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    (folder / "x").mkdir()
    return folder


def normalized(
    folder: Path, name: str, row: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Documents and records set aside of a file with a good row, this one, and a good one."""
    format_, good = ROWS[name]
    rows = [good, row, good]
    (folder / "x" / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    recipe = CorpusRecipe(
        name="x",
        title="x",
        family="web",
        language="zh",
        format=format_,
        licence="x",
        paper_size="x",
    )
    kept, aside = folder / "x.out", folder / "x.aside"
    normalize_corpus(RawCorpus(recipe, folder), kept, aside)
    found = [
        [json.loads(line) for line in path.read_bytes().splitlines()] for path in (kept, aside)
    ]
    return found[0], found[1]


def test_every_format_has_a_row(folder: Path) -> None:
    assert {name for name, _ in ROWS.values()} == {*RECORD_FORMATS}
    for name, (_, row) in ROWS.items():
        documents, aside = normalized(folder, name, row)
        assert (len(documents), aside) == (3, []), name


@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_value_in_any_place(folder: Path, place: tuple[str, Any], value: Any) -> None:
    name, path = place
    row = put(ROWS[name][1], path, value)
    documents, aside = normalized(folder, name, row)
    assert len(documents) + len(aside) == 3
    lines = [int(d["id"].rpartition("#")[2]) for d in documents]
    assert [line for line in lines if line != 2] == [1, 3]  # the others never suffer
    for bad in aside:
        assert (bad["file"], bad["line"]) == ("x/rows.jsonl", 2)
        assert bad["reason"]
        assert not bad["reason"].startswith("format failed")
    for document in (d for d in documents if d["id"].endswith("#2")):
        # Nothing is in a text that is in no text of the row: no "nan", "None", "True", "3.0".
        left = document["text"]
        texts = set(strings(row)) | {"t", "u"}
        parts = {line.strip(BLANKS) for s in texts for line in (s, *s.split("\n"), *s.split("\r"))}
        for part in sorted(parts - {""}, key=len, reverse=True):
            left = left.replace(part, "")
        assert set(left) <= LAID_OUT, (document, row)


@pytest.mark.parametrize(("name", "path"), TEXTS)
def test_what_is_no_text_is_set_aside_under_the_name_of_its_field(
    folder: Path, name: str, path: tuple[Any, ...]
) -> None:
    field = next(key for key in reversed(path) if isinstance(key, str))
    for value in (float("nan"), float("inf"), 3, 2.5, True, [3], [None], {"x": 3}):
        _, aside = normalized(folder, name, put(ROWS[name][1], path, value))
        (bad,) = aside
        assert "chat" in bad["reason"] or f"`{field}`" in bad["reason"] or value == {"x": 3}, bad


@pytest.mark.parametrize("word", ["nan", "None", "null", "NA", "3.10", "007", "1e5", "TRUE"])
def test_words_that_look_like_values_stay_as_they_are(folder: Path, word: str) -> None:
    documents, _ = normalized(folder, "skypile", {"text": word})
    assert documents[1]["text"] == word
