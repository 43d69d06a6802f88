"""Any JSON value in the place of any field of any format: the text that stands there, or a bad row
that names file, line and field."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corpus.chats import Sample, read_samples
from corpus.chats.formats import CHAT_FORMATS, PAIR_FORMATS
from corpus.chats.rows import SkippedRow

TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}]
ROWS: dict[str, dict[str, Any]] = {
    "alpaca": {
        "instruction": "q",
        "input": "i",
        "output": "r",
        "system": "s",
        "history": [["u", "v"]],
    },
    "sharegpt": {"conversations": TURNS, "system_prompt": "s"},
    "messages": {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "q"}, "u"]},
            {"role": "assistant", "content": "r"},
        ]
    },
    "question_answer": {"question": "q", "answer": "r"},
    "xtuner": {"conversation": [{"system": "s", "input": "q", "output": "r"}]},
    "moss": {"chat": {"turn_1": {"Human": "q", "Commands": "None", "MOSS": "r"}}},
    "wanjuan_exam": {
        "q_type": "单选题",
        "q_main": "q",
        "option_a": "u",
        "option_b": "v",
        "std_ans": "B",
        "answer_detail": "w" * 12,
    },
    "hub_choices": {
        "question": "q",
        "choices": {"text": ["u", "v"], "label": ["1", "2"]},
        "answerKey": "2",
    },
    "llm_adapters": {
        "instruction": "the question: q\n\nAnswer1: u Answer2: v\n\nAnswer format: x",
        "answer": "answer2",
    },
    "logiqa": {"lines": ["b", "c", "q", "A.u", "B.v", "C.w", "D.x"]},
    "instruction_pair": {"instruction": "q", "input": "i", "chosen": "r", "rejected": "t"},
    "message_pair": {
        key: [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}]
        for key, text in (("chosen", "r"), ("rejected", "t"))
    },
    "sharegpt_pair": {
        "conversations": TURNS[:1],
        "chosen": {"from": "gpt", "value": "r"},
        "rejected": "t",
    },
    "ranked_outputs": {"instruction": "q", "output": ["r", "s", "t"]},
}
LAID_OUT = set("\n .:：ABCDEFGH答案请先给出解释，再。") | set(
    "Answer: Explain first, then give the"
)
"""Characters of the layout of multiple-choice questions."""

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.just(10**400)
    | st.text(max_size=6)
    | st.sampled_from(["nan", "None", "null", "", " ", "\ud800", "3.10", "007", "2020-01-01"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["value", "text", "role", "type"]), inner, max_size=3)
    ),
    max_leaves=4,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a value, itself left out."""
    pairs: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        pairs = enumerate(value)
    for key, inner in pairs:
        yield (*path, key)
        yield from paths(inner, (*path, key))


PLACES = [(name, path) for name, row in ROWS.items() for path in paths(row)]


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
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A recipe for each format, and a folder for rows."""
    folder = tmp_path_factory.mktemp("recipes")
    for kind, formats in (("sft", CHAT_FORMATS), ("preferences", PAIR_FORMATS)):
        (folder / kind).mkdir()
        for name in formats:
            (folder / kind / f"{name}.yaml").write_text(
                f"{{title: x, licence: x, language: zh, format: {name}, files: [rows.jsonl]}}"
            )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.recipes.RECIPES", folder)
        yield folder


def read(recipes: Path, name: str, row: dict[str, Any]) -> list[Sample | SkippedRow]:
    (recipes / "rows.jsonl").write_text("\n\n" + json.dumps(row) + "\n")
    kind = "sft" if name in CHAT_FORMATS else "preferences"
    return list(read_samples(kind, recipes, name))  # type: ignore[arg-type]


def test_every_format_has_a_row(recipes: Path) -> None:
    assert set(ROWS) == {*CHAT_FORMATS, *PAIR_FORMATS}
    for name, row in ROWS.items():
        assert all(isinstance(item, Sample) for item in read(recipes, name, row)), name


@given(place=st.sampled_from(PLACES), value=VALUES)
@example(place=("logiqa", ("lines", 1)), value="")
@example(place=("logiqa", ("lines", 2)), value="007")
@example(place=("llm_adapters", ("answer",)), value="answer1")
def test_any_value_in_any_place(recipes: Path, place: tuple[str, Any], value: Any) -> None:
    name, path = place
    row = put(ROWS[name], path, value)
    for item in read(recipes, name, row):
        if isinstance(item, SkippedRow):
            assert (item.file, item.line) == ("rows.jsonl", 3)
            assert item.reason
            continue
        # Nothing is in a text that is in no text of the row: no "nan", "None", "True", "3.0".
        for text in item.content.texts:
            left = text
            for part in sorted({s.strip() for s in strings(row)} - {""}, key=len, reverse=True):
                left = left.replace(part, "")
            for line in {line for s in strings(row) for line in s.split("\n")} - {""}:
                left = left.replace(line.strip(), "")
            # An option goes without its letter.
            for piece in {piece for s in strings(row) for piece in re.split(r"[\s.:]+", s)} - {""}:
                left = left.replace(piece, "")
            assert set(left) <= LAID_OUT, (text, row)


@pytest.mark.parametrize(("name", "path"), PLACES)
def test_what_is_no_text_is_a_bad_row_that_names_its_field(
    recipes: Path, name: str, path: tuple[Any, ...]
) -> None:
    if path[-1] in ("q_type", "label", "type") or path == ("chosen", "from"):
        return  # decides nothing that is learned, or is looked at in another way
    field = next(key for key in reversed(path) if isinstance(key, str))
    for value in (float("nan"), float("inf"), 3, 2.5, True, [3], [None], {"x": 3}):
        (item,) = read(recipes, name, put(ROWS[name], path, value))
        assert isinstance(item, SkippedRow)
        if not isinstance(value, dict):  # there the field that is missing in it is named
            assert item.malformed
            assert field.removesuffix("_1") in item.reason


@pytest.mark.parametrize("word", ["nan", "None", "null", "NA", "3.10", "007", "1e5", "TRUE", "\0"])
def test_words_that_look_like_values_stay_as_they_are(recipes: Path, word: str) -> None:
    (item,) = read(recipes, "question_answer", {"question": word, "answer": f"{word}!"})
    assert isinstance(item, Sample)
    assert item.content.texts == [word, f"{word}!"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"question": "a", "question": "b", "answer": "c"}', "a key is given twice"),
        (b'{"question": "a", "answer": ' + b"[" * 5000 + b"]" * 5000 + b"}", "malformed JSON"),
        (b'{"question": "a", "answer": ' + b"[" * 300 + b"]" * 300 + b"}", "malformed JSON"),
        (b'{"question": "a", "answer": "\xff"}', "not UTF-8"),
        (b'{"question": "a", "answer": "\\ud800"}', "`answer` is a text with half of a surrogate"),
        (b'{"question": "a", "answer": ' + b"9" * 5000 + b"}", "malformed JSON"),
        (b"[1]", "not an object"),
        (b"NaN", "not an object"),
        (b'"\\ud800"', "not an object"),
    ],
)
def test_damaged_rows_are_named(recipes: Path, line: bytes, reason: str) -> None:
    good = b'{"question": "a", "answer": "b"}\n'
    for text in (b"\xef\xbb\xbf" + good + line + b"\n" + good, b"[" + good + b"," + line + b"]"):
        (recipes / "rows.jsonl").write_bytes(text)
        items = list(read_samples("sft", recipes, "question_answer"))
        (bad,) = [item for item in items if isinstance(item, SkippedRow)]
        assert (bad.file, bad.line, bad.malformed) == ("rows.jsonl", 2, True)
        assert reason in bad.reason
        json.dumps(bad.excerpt, ensure_ascii=False).encode()
        assert len(items) == (3 if text.startswith(b"\xef") else 2)
