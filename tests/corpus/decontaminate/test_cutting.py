"""Questions cut out of long documents; documents that are mostly a question go."""

import random

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.planted_questions import DRESSES, asked
from corpus.decontaminate import BenchmarkQuestion, without_questions
from tests.corpus.decontaminate.planted import INDEX, POEM, SHORT
from tests.corpus.decontaminate.test_kinds import PAGE

ARTICLE = PAGE * 4


def cut(text: str) -> str | None:
    matches = INDEX.find(text)
    assert matches
    return without_questions(text, matches, INDEX)


def test_the_passage_goes_with_its_number_options_answer_and_explanation() -> None:
    for question in (POEM, SHORT):
        passage = f"12. {asked(question)}\n【答案】A\n解析：见课本。\n"
        assert cut(f"{ARTICLE}{passage}{ARTICLE}") == ARTICLE + ARTICLE


def test_the_sentences_around_a_question_in_a_paragraph_stay() -> None:
    before = ARTICLE.replace("\n", "") + "课间有人问了一个问题。"
    after = "大家都笑了起来，没有人回答。" + ARTICLE.replace("\n", "")
    assert cut(f"{before}{POEM.stem}{after}") == before + after


def test_the_text_between_a_stem_and_its_far_options_stays() -> None:
    options = "\n".join(f"{letter}. {o}" for letter, o in zip("ABCD", SHORT.options, strict=True))
    assert cut(f"{ARTICLE}{SHORT.stem}\n{ARTICLE}{options}\n{ARTICLE}") == ARTICLE * 3


def test_a_question_that_is_asked_twice_goes_twice() -> None:
    assert cut(f"{ARTICLE}{asked(POEM)}\n{ARTICLE}{asked(POEM)}\n{ARTICLE}") == ARTICLE * 3


def test_a_page_of_questions_goes_as_a_whole() -> None:
    assert cut(f"{asked(POEM)}\n{asked(SHORT)}") is None
    assert cut(f"{PAGE[:100]}\n{asked(POEM)}") is None


@given(
    at=st.integers(0, len(ARTICLE)),
    question=st.sampled_from((POEM, SHORT)),
    kind=st.sampled_from(["as it is", "traditional", "one option missing", "stem and answer"]),
    joined=st.booleans(),
)
def test_no_question_is_left_and_nothing_but_its_surroundings_goes(
    at: int, question: BenchmarkQuestion, kind: str, joined: bool
) -> None:
    passage = DRESSES[kind](question, random.Random(at))
    between = "" if joined else "\n"
    left = cut(f"{ARTICLE[:at]}{between}{passage}{between}{ARTICLE[at:]}")
    assert left is not None
    assert INDEX.find(left) == []
    assert len(left) > len(ARTICLE) - 300
    assert set(left) <= set(ARTICLE) | set(passage)
