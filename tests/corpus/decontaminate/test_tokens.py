"""Tokens of texts: the same however the text is typeset."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opencc import OpenCC

from corpus.decontaminate.tokens import ngrams, tokenize
from tests.corpus.decontaminate.planted import TEXT


def test_tokens_forget_typesetting_and_keep_words() -> None:
    same = [
        "Ｘ是（　）。Ａ．漢語 2㎏ CAFE\u0301",
        "x是____A.汉语2kg café",
        "x 是【】汉语，2 kg café",
    ]
    assert {tokenize(text).strings() for text in same} == {
        ("x", "是", "汉", "语", "2", "kg", "cafe")
    }
    assert len({tuple(tokenize(text).hashes.tolist()) for text in same}) == 1


@pytest.mark.parametrize("standard", ["s2t", "s2tw", "s2hk"])
def test_both_scripts_give_the_same_tokens(standard: str) -> None:
    text = "他看着后面的房间，不了解反复发炎的原因；乾隆年间借着仿佛复苏的丰收，坐在台湾。"
    assert tokenize(OpenCC(standard).convert(text)).strings() == tokenize(text).strings()


def test_labels_and_blanks_are_no_tokens() -> None:
    assert tokenize("（A）甲 B. 乙 ____ c、丙 H").strings() == ("甲", "乙", "丙", "h")
    assert tokenize("").strings() == tokenize("A……（　）").strings() == ()
    assert tokenize("\ud800汉\udfff").strings() == ("汉",)


WORDS = st.text("汉语漢語abAB12 ，.é½㎏①\u0301が한Я", max_size=60)


@given(WORDS, WORDS)
def test_hashes_are_equal_where_tokens_are(one: str, other: str) -> None:
    left, right = tokenize(one), tokenize(other)
    assert (left.strings() == right.strings()) == (left.hashes.tolist() == right.hashes.tolist())


@given(TEXT)
def test_tokens_do_not_depend_on_case_or_width_and_know_their_place(text: str) -> None:
    tokens = tokenize(text)
    strings = tokens.strings()
    assert len(strings) == len(tokens.hashes)
    for i, string in enumerate(strings):
        begin, end = tokens.span(i, i + 1)
        # In itself, a token may begin amid what one character stands for: ½ is 1 and 2.
        assert string in tokenize(text[begin:end]).strings()


@given(st.text("ab1汉，", max_size=80), st.integers(1, 12))
def test_ngrams_are_equal_where_their_tokens_are(text: str, length: int) -> None:
    tokens = tokenize(text)
    strings, hashes = tokens.strings(), ngrams(tokens.hashes, length).tolist()
    runs = [strings[i : i + length] for i in range(len(strings) - length + 1)]
    assert len(hashes) == len(runs)
    assert len(set(hashes)) == len(set(runs)) == len(set(zip(hashes, runs, strict=True)))
