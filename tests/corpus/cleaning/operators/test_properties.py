"""Properties of our operators on random texts."""

import re
import unicodedata
from typing import Any

import ftfy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus.cleaning.operators.loading import operator

PUNCTUATION = "，。、；：？！（）《》“”‘’—…【】「」·～"


WORDS = st.text(alphabet="中文字母繁體" + PUNCTUATION + "ab １Ａ．\n<>&;/*#-`", max_size=60)


PIECES = st.lists(
    st.sampled_from(
        [
            "<p>",
            "</p>",
            "<br/>",
            "<b>",
            "&amp;",
            "```",
            "# Copyright\n",
            "// 说明\n",
            "#\n",
            "/*\n * 说明\n *\n * Copyright\n",
            " */\n",
            "# coding: utf-8\n",
            "<!-- © -->\n",
            "/* (c) 2001 */",
            "#!/bin/sh\n",
            "文，字。",
            "a < b",
            "\u200b",
            "²",
        ]
    )
    | WORDS,
    max_size=12,
).map("".join)


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("repaired/text", "mend_unicode_mapper"),
        ("repaired/code", "mend_unicode_mapper"),
        ("repaired/code", "clean_licence_header_mapper"),
    ],
)
@settings(max_examples=150, deadline=None)
@given(text=PIECES)
def test_a_second_time_changes_nothing(apply: Any, recipe: str, name: str, text: str) -> None:
    once = apply(recipe, name, text)
    assert apply(recipe, name, once) == once


@settings(max_examples=150, deadline=None)
@given(text=PIECES)
def test_chinese_and_its_punctuation_survive(apply: Any, text: str) -> None:
    """In order; HTML's comments and scripts aside, whose text is none."""
    wanted = re.compile(f"[{PUNCTUATION}\u4e00-\u9fff²]")
    text = text.replace("<!--", "").replace("<script", "").replace("<style", "")
    for name in ("html_to_text_mapper", "mend_unicode_mapper"):
        after = apply("repaired/text", name, text)
        assert wanted.findall(after) == wanted.findall(text), name
        text = after


@settings(max_examples=400, deadline=None)
@given(
    text=st.lists(
        st.one_of(
            st.text(alphabet="a Z09.,'\"(-/<&中文，。（）“”‘’—…·　！［～", max_size=30),
            st.text(alphabet="aé×â€œÃ¤ \x85\u2028\r中“", max_size=12),
        ),
        max_size=4,
    )
    .map("\n".join)
    # What it would take for Hebrew, there is a test of its own for.
    .filter(lambda text: not re.search("×[“”]|[“][éÃ¤][“”]", text))
)
def test_lines_that_are_not_given_to_ftfy_are_those_it_leaves_alone(apply: Any, text: str) -> None:
    mapper = operator("repaired/text", "mend_unicode_mapper")
    whole = ftfy.fix_text(text, mapper.config)
    folded = whole.translate(str.maketrans("０９ＺＡ", "09ZA"))
    assert mapper.mend(text) == folded.replace("\ufeff", "")


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=80))
def test_mending_loses_only_what_is_invisible(apply: Any, text: str) -> None:
    """Letters and digits, of any script, in order, up to their width and composition."""

    def visible(of: str) -> str:
        folded = unicodedata.normalize("NFKC", of)
        return "".join(c for c in folded if unicodedata.category(c)[0] in "LN")

    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates are not text
        return
    if text.isascii() or not any("\x80" <= c <= "\u017f" for c in text):  # else: mojibake
        assert visible(apply("repaired/text", "mend_unicode_mapper", text)) == visible(text)


@settings(max_examples=150, deadline=None)
@given(text=WORDS.filter(lambda t: not re.search(r"<[/!a-zA-Z]|&", t)))
def test_text_without_tags_is_not_touched(apply: Any, text: str) -> None:
    assert apply("repaired/text", "html_to_text_mapper", text) == text


@settings(max_examples=150, deadline=None)
@given(text=PIECES)
def test_header_goes_in_whole_lines(apply: Any, text: str) -> None:
    """The remaining lines are lines of the file, in order, or delimiters of comments."""
    after = apply("repaired/code", "clean_licence_header_mapper", text)
    remaining = iter(text.split("\n"))
    for line in after.split("\n"):
        if line.strip() not in ("", "/*", "*/", "<!--", "-->"):
            assert any(line == old for old in remaining), line
