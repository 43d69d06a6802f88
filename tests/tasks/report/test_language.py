"""Texts of the report: every key in every language, with the same fields; none is left over."""

import re
from pathlib import Path

import pytest

from tasks.report import language as texts_folder
from tasks.report.language import LANGUAGES, Language, Writer, fields_of, texts

CODE = Path(texts_folder.__file__).parents[1]
FREE = ("form.", "column.", "group.", "event.", "figure.", "how.", "ended.", "what.", "action.")
"""Words for names from data, of which some may not occur."""


def used() -> set[str]:
    """Texts in the code that may be keys, those with a variable end as `results.*`."""
    found = set()
    for path in (*CODE.rglob("*.py"), *(CODE.parent / "checkpoint_scores").glob("*.py")):
        for key in re.findall(r"""["']([a-z_]+(?:\.[^"'\n]*)?)["']""", path.read_text("utf-8")):
            found.add(re.sub(r"\{.*", "*", key))
    return found


def test_no_key_lacks_a_language() -> None:
    first, *others = (set(texts(language)) for language in LANGUAGES)
    assert others
    for other in others:
        assert first == other


@pytest.mark.parametrize("key", sorted(texts("en")))
def test_a_text_has_the_same_fields_in_every_language(key: str) -> None:
    fields = [fields_of(texts(language)[key]) for language in LANGUAGES]
    assert all(found == fields[0] for found in fields)


def test_chinese_texts_are_chinese() -> None:
    """A text that was forgotten is the English one: it has no Chinese character."""
    names = {"column.MFU %"}
    for key, text in texts("zh").items():
        if key not in names and text:
            assert re.search(r"[\u4e00-\u9fff]", re.sub(r"\{.*?\}", "", text)) or not re.search(
                "[A-Za-z]{2}", re.sub(r"\{.*?\}", "", text)
            ), key


def test_no_text_is_left_over() -> None:
    patterns = [re.compile(re.escape(key).replace(r"\*", ".*")) for key in used()]
    unused = {k for k in texts("en") if not any(p.fullmatch(k) for p in patterns)}
    assert not {key for key in unused if not key.startswith(FREE)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_name_from_data_without_a_translation_stays(language: Language) -> None:
    assert Writer(language).word("column", "chosen tokens") == "chosen tokens"
