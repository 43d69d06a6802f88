"""Text of ids that come one by one: never half a character, and the same text in the end."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.tokenizer.text_stream import TextStream
from tests.model.tokenizer.kinds import KINDS
from tests.tiny_chat import byte_tokenizer

TOKENIZER = byte_tokenizer()
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=40)


def pieces(ids: list[int], decode: Callable[[list[int]], str]) -> list[str]:
    stream = TextStream(lambda part: decode(list(part)))
    return [*(stream.add(id_) for id_ in ids), stream.end()]


@given(TEXT)
def test_every_character_comes_whole_and_as_soon_as_it_is(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert len(ids) == len(text.encode())
    given_ = pieces(ids, TOKENIZER.decode)
    assert "".join(given_) == text.strip()
    assert not any("\ufffd" in piece for piece in given_)
    begun = len(text) - len(text.lstrip())
    at = 0
    for place, character in enumerate(text):
        at += len(character.encode())
        if place >= begun and not character.isspace():
            assert "".join(given_[:at]) == text[begun : place + 1], "it was held back"


@given(st.lists(st.integers(0, 255), max_size=30))
def test_bytes_that_are_no_text_end_in_no_half_character(ids: list[int]) -> None:
    text = TOKENIZER.decode(ids)
    whole = "".join(pieces(ids, TOKENIZER.decode))

    def sound(text: str) -> str:
        return re.sub("[\\s\ufffd]+$", "", text.strip())

    assert sound(whole) == sound(text)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_other_tokenizers_give_the_text_that_they_decode(kind: str) -> None:
    tokenizer = KINDS[kind]()
    text = "so be it, 12 or one  two\n\nend <b>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    given_ = pieces(ids, lambda part: tokenizer.decode(part, clean_up_tokenization_spaces=False))
    expected = tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()
    assert "".join(given_) == expected
    assert sum(map(bool, given_)) > 3, "all came at the end"


@given(TEXT.map(str.strip), st.characters(min_codepoint=0x80, exclude_categories=["Cs"]))
def test_half_a_character_at_the_end_is_not_given(text: str, last: str) -> None:
    ids = TOKENIZER.encode(text + last, add_special_tokens=False)[:-1]
    assert "".join(pieces(ids, TOKENIZER.decode)) == text


def test_a_broken_character_holds_nothing_back_for_long() -> None:
    ids = [TOKENIZER.convert_tokens_to_ids("ä") for _ in range(20)]  # byte e4, twenty times
    given_ = pieces([*ids, *TOKENIZER.encode("ok", add_special_tokens=False)], TOKENIZER.decode)
    assert any(given_[:10]) and "".join(given_).endswith("ok")
