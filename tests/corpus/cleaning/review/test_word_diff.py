"""Word diffs: both texts can be read off them, and little is marked that did not change."""

from hypothesis import given
from hypothesis import strategies as st

from corpus.cleaning.review.word_diff import MOST_WORDS, Folded, Piece, fold, in_line, word_diff

TEXTS = st.text(st.sampled_from("的一是中 \nab1<&\t　。"), max_size=60)


def sides(pieces: list[Piece]) -> tuple[str, str]:
    before = "".join(p.text for p in pieces if p.op != "added")
    after = "".join(p.text for p in pieces if p.op != "removed")
    return before, after


@given(TEXTS, TEXTS)
def test_both_texts_are_in_it(before: str, after: str) -> None:
    assert sides(word_diff(before, after)) == (before, after)


@given(TEXTS, TEXTS, st.integers(0, 5))
def test_folding_hides_equal_characters_only(before: str, after: str, context: int) -> None:
    pieces = word_diff(before, after)
    folded = list(fold(pieces, context))
    size = sum(p.characters if isinstance(p, Folded) else len(p.text) for p in folded)
    assert size == sum(len(p.text) for p in pieces)
    changes = [p for p in folded if isinstance(p, Piece) and p.op != "equal"]
    assert changes == [p for p in pieces if p.op != "equal"]


def test_a_chinese_character_is_a_word() -> None:
    assert word_diff("他打坏了门。", "他打坯了门。") == [
        Piece("equal", "他打"),
        Piece("removed", "坏"),
        Piece("added", "坯"),
        Piece("equal", "了门。"),
    ]


def test_english_words_and_numbers_change_whole() -> None:
    pieces = word_diff("about 1200 cats\nend", "about 1300 cats\nend")
    assert [p.text for p in pieces if p.op != "equal"] == ["1200", "1300"]


def test_a_line_that_went_is_all_that_is_marked() -> None:
    lines = [f"第{n}行说的是第{n}件事。\n" for n in range(200)]
    pieces = word_diff("".join(lines), "".join(lines[:90] + lines[91:]))
    assert [p for p in pieces if p.op != "equal"] == [Piece("removed", lines[90])]


def test_texts_without_end_are_not_compared_word_by_word() -> None:
    before, after = "甲乙" * MOST_WORDS, "乙丙" * MOST_WORDS
    pieces = word_diff(before, after)
    assert sides(pieces) == (before, after)
    assert len(pieces) == 2


def test_changes_in_one_line() -> None:
    before = "头" * 100 + "旧" + "尾" * 100
    assert in_line(word_diff(before, before.replace("旧", "新")), context=3) == (
        " …(97 characters)… 头头头[-旧-]{+新+}尾尾尾 …(97 characters)… "
    )
