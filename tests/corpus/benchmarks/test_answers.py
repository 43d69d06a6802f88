"""Answers in words, read strictly: a letter that is named once, or none."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.benchmarks.answers import parse_answer

CITIES_ZH = ("北京", "上海", "广州", "深圳")
CITIES = ("Paris", "London", "Rome", "Berlin")
NUMBERS = ("5", "50", "3.14", "-2")
LANGUAGES = ("C语言", "Java", "Go", "B")

CASES: list[tuple[Sequence[str], str, str | None]] = [
    (CITIES_ZH, "答案是B", "B"),
    (CITIES_ZH, "故选：B", "B"),
    (CITIES_ZH, "**B**", "B"),
    (CITIES_ZH, "B. 上海", "B"),
    (CITIES_ZH, "B", "B"),
    (CITIES_ZH, "Ｂ", "B"),
    (CITIES_ZH, "选项B正确", "B"),
    (CITIES_ZH, "不是A", None),
    (CITIES_ZH, "答案不是A", None),
    (CITIES_ZH, "答案是A或B", None),
    (CITIES_ZH, "答案是AB", None),
    (CITIES_ZH, "答案：A、C", None),
    (CITIES_ZH, "A. 北京\nB. 上海\nC. 广州\nD. 深圳", None),
    (CITIES_ZH, "A. 北京 B. 上海 C. 广州 D. 深圳", None),
    (CITIES_ZH, "A. 北京\nB. 上海\nC. 广州\nD. 深圳\n答案：B", "B"),
    (CITIES_ZH, "答案是A吗？不，答案是B", "B"),
    (CITIES_ZH, "如果答案是A，就会矛盾，所以选B。", "B"),
    (CITIES_ZH, "A选项正确，B选项错误。", "A"),
    (CITIES_ZH, "A项错误，B项正确，C项错误，D项错误。", "B"),
    (CITIES_ZH, "A正确，B正确", None),
    (CITIES_ZH, "A和B正确", None),
    (CITIES_ZH, "不选A", None),
    (CITIES_ZH, "排除A、C、D，故选B。", "B"),
    (CITIES_ZH, "答案是E", None),
    (CITIES_ZH, "C语言是一种编程语言", None),
    (CITIES_ZH, "答案是B，因为上海在东部。", "B"),
    (CITIES_ZH, "B。因为上海在东部。", "B"),
    (CITIES_ZH, "B选项。", "B"),
    (CITIES_ZH, "选B", "B"),
    (CITIES_ZH, "我选择B。", "B"),
    (CITIES_ZH, "【答案】B", "B"),
    (CITIES_ZH, "【答案】：B\n【解析】略", "B"),
    (CITIES_ZH, "答案：（B）", "B"),
    (CITIES_ZH, "正确答案为“B”。", "B"),
    (CITIES_ZH, "正确选项是B。", "B"),
    (CITIES_ZH, "因此，正确的是B。", "B"),
    (CITIES_ZH, "不正确的是B。", None),
    (CITIES_ZH, "最终答案：**B**", "B"),
    (CITIES_ZH, "# 答案\n\nB", "B"),
    (CITIES_ZH, "思考……\n\nB", "B"),
    (CITIES_ZH, "A\nB\nC\nD", None),
    (CITIES_ZH, "A, B", None),
    (CITIES_ZH, "B\n解析：A. 错误；B. 正确；C. 错误", "B"),
    (CITIES_ZH, "设A为集合，B为其补集", None),
    (CITIES_ZH, "点A(1,2)到点B的距离", None),
    (CITIES_ZH, "A型血的人", None),
    (CITIES_ZH, "答案是A型", None),
    (CITIES_ZH, "维生素B", None),
    (CITIES_ZH, "答案：维生素B", None),
    (CITIES_ZH, "A: 你好\nB: 你好", None),
    (CITIES_ZH, "A还是B？", None),
    (CITIES_ZH, "答案应该是D。", "D"),
    (CITIES_ZH, "答案是  D", "D"),
    (CITIES_ZH, "所以答案选D", "D"),
    (CITIES_ZH, "所以选择D选项", "D"),
    (CITIES_ZH, "选A是错误的，应选C。", "C"),
    (CITIES_ZH, "A、B、C都不对，选D。", "D"),
    (CITIES_ZH, "以上都不对", None),
    (CITIES_ZH, "", None),
    (CITIES_ZH, "   \n", None),
    (CITIES_ZH, "我不知道", None),
    (CITIES_ZH, "答案是A。不对，答案是B。", None),
    (CITIES_ZH, "A\n因此答案是B", None),
    (CITIES_ZH, "Ⓑ", "B"),
    (CITIES_ZH, "𝐁", "B"),
    (CITIES_ZH, "b", "B"),
    (CITIES_ZH, "(b)", "B"),
    (CITIES_ZH, "a", "A"),
    (CITIES_ZH, "选项是B", None),
    (CITIES_ZH, "x_A = 3", None),
    (CITIES_ZH, "A*B=C", None),
    (CITIES_ZH, "C++", None),
    (CITIES_ZH, "答案是C++", None),
    (CITIES_ZH, "答案是B-D", None),
    (CITIES_ZH, "本题选D", "D"),
    (CITIES_ZH, "此题答案为 D 。", "D"),
    (CITIES_ZH, "故答案为：D", "D"),
    (CITIES_ZH, "故答案为D.", "D"),
    (CITIES_ZH, "综上所述，选D。", "D"),
    (CITIES_ZH, "答案就是D！", "D"),
    (CITIES_ZH, "D（深圳）", "D"),
    (CITIES_ZH, "D (深圳)", "D"),
    (CITIES_ZH, "答案是D（深圳）", "D"),
    (CITIES_ZH, "答案是D（广州）", None),
    (CITIES_ZH, "D深圳", "D"),
    (CITIES_ZH, "答案是D深圳", "D"),
    (CITIES_ZH, "A. 因为北京是首都", "A"),
    (CITIES_ZH, "A、北京", "A"),
    (CITIES_ZH, "A：北京", "A"),
    (CITIES_ZH, "答案选项为C", "C"),
    (CITIES_ZH, "答案：选项C", "C"),
    (CITIES_ZH, "我认为答案是C", "C"),
    (CITIES_ZH, "我以为答案是C", None),
    (CITIES_ZH, "有人认为答案是A", None),
    (CITIES_ZH, "可能是A", None),
    (CITIES_ZH, "答案可能是A，也可能是B", None),
    (CITIES_ZH, "B\nB\nB", "B"),
    (CITIES_ZH, "B B B", None),
    (CITIES_ZH, "答案：BBBB", None),
    (CITIES_ZH, "选项 B 是正确的答案。", "B"),
    (CITIES_ZH, "B 是正确的。", "B"),
    (CITIES_ZH, "B是错误的", None),
    (CITIES_ZH, "答案B是错误的", None),
    (CITIES_ZH, "正确答案不是A，而是C。", None),
    (CITIES_ZH, "错误答案是A", None),
    (CITIES_ZH, "第一个选项", None),
    (CITIES_ZH, "2", None),
    (CITIES_ZH, "答案是2", None),
    (CITIES_ZH, "（B）上海", "B"),
    (CITIES_ZH, "(B) 上海", "B"),
    (CITIES_ZH, "[B]", "B"),
    (CITIES_ZH, "「B」", "B"),
    (CITIES_ZH, "<B>", "B"),
    (CITIES_ZH, "答案→B", "B"),
    (CITIES_ZH, "答案=B", "B"),
    (CITIES_ZH, "答案是：\n\nB", "B"),
    (CITIES_ZH, "答案是：\n\nA. 北京\nB. 上海", None),
    (CITIES_ZH, "选A的同学错了", None),
    (CITIES_ZH, "若选A，则矛盾", None),
    (CITIES_ZH, "不能选A", None),
    (CITIES_ZH, "应该选择 C 。", "C"),
    (CITIES, "The answer is (C)", "C"),
    (CITIES, "A cat is an animal.", None),
    (CITIES, "The answer is A cat.", None),
    (CITIES, "The answer is B cells.", None),
    (CITIES, "Answer: C", "C"),
    (CITIES, "answer: b", "B"),
    (CITIES, "The correct option is D.", "D"),
    (CITIES, "The answer is D) Berlin", "D"),
    (CITIES, "The answer is D) Rome", None),
    (CITIES, "$\\boxed{C}$", "C"),
    (CITIES, "\\boxed{\\text{C}}", "C"),
    (CITIES, "The final answer is: \\boxed{AB}", None),
    (CITIES, "B\n\nExplanation: London is the capital. Options A, C are wrong.", "B"),
    (CITIES, "I think the answer is B.", "B"),
    (CITIES, "Many people think the answer is A, but it is wrong.", None),
    (CITIES, "The answer is not A.", None),
    (CITIES, "The answer isn't A.", None),
    (CITIES, "The answer is A or B.", None),
    (CITIES, "The answer is A and B", None),
    (CITIES, "Option B is correct.", "B"),
    (CITIES, "(B) is the correct answer.", "B"),
    (CITIES, "B is not correct", None),
    (CITIES, "a capital city", None),
    (CITIES, "The answer is a city", None),
    (CITIES, "Answer: A, because Paris", "A"),
    (CITIES, "The answer is B, A is wrong.", "B"),
    (CITIES, "The answer is A, B, and C.", None),
    (CITIES, "Therefore, the answer is B) London.", "B"),
    (CITIES, "Answer B", "B"),
    (CITIES, "To answer: A question must be", None),
    (CITIES, 'The answer is "B".', "B"),
    (CITIES, "**Answer:** B", "B"),
    (CITIES, "**Answer: B. London**", "B"),
    (CITIES, "The answer is **B**: London", "B"),
    (CITIES, "The correct answer is option C.", "C"),
    (CITIES, "the answer is: option C", "C"),
    (CITIES, "D Berlin", "D"),
    (CITIES, "A Paris", "A"),
    (CITIES, "A Parisian", None),
    (CITIES, "__import__('os').system('x') B", None),
    (CITIES, "print('B')", None),
    (CITIES, "max(['B'])", None),
    (CITIES, "{'answer': 'B'}", "B"),
    (CITIES, '{"answer": "C"}', "C"),
    (CITIES, "Final Answer: The final answer is B. I hope it is correct.", "B"),
    (CITIES, "So, B.", None),
    (CITIES, "It's A.", None),
    (CITIES, "A.", "A"),
    (CITIES, "A) Paris\nB) London\nC) Rome\nD) Berlin\n\nAnswer: A", "A"),
    (CITIES, "Answer with A, B, C or D", None),
    (CITIES, "Question: ... Answer: A\nQuestion: ... Answer: C", None),
    (CITIES, "The wrong answer is A.", None),
    (CITIES, "The incorrect option is A", None),
    (LANGUAGES, "答案是C语言", None),
    (NUMBERS, "答案是A=5", None),
    (NUMBERS, "A=5", None),
    (NUMBERS, "答案是B.50", "B"),
    (NUMBERS, "答案是B.5", None),
    (NUMBERS, "B. 5", None),
    (NUMBERS, "C. 3.14", "C"),
    (NUMBERS, "D. -2", "D"),
]


@pytest.mark.parametrize(("options", "text", "letter"), CASES, ids=lambda value: repr(value)[:60])
def test_answers_are_read_as_a_person_reads_them(
    options: Sequence[str], text: str, letter: str | None
) -> None:
    parsed = parse_answer(text, options)
    assert parsed.letter == letter
    assert (parsed.reason == "") == (letter is not None)


@pytest.mark.parametrize("letter", "ABCD")
@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "{}.",
        "({})",
        "**{}**",
        "答案：{}",
        "正确答案是{}。",
        "分析题目可知，前三项都不符合。\n答案：{}",
        "The answer is {}.",
        "Let's think step by step. First, it is large.\nAnswer: {}",
        "$$\\boxed{{{}}}$$",
        "故选{}",
        "本题应选{}项。",
    ],
)
def test_every_letter_is_read_alike(letter: str, form: str) -> None:
    assert parse_answer(form.format(letter), CITIES).letter == letter


def test_an_answer_that_was_cut_off_is_not_judged_by_its_middle() -> None:
    text = "我们逐项分析。A项正确，因为"
    assert parse_answer(text, CITIES_ZH).letter == "A"
    assert parse_answer(text, CITIES_ZH, complete=False).reason == "nothing stated"
    assert parse_answer("答案是A。因为", CITIES_ZH, complete=False).letter == "A"
    assert parse_answer("A. 北京，因为", CITIES_ZH, complete=False).letter == "A"


def test_reasons_tell_what_is_missing() -> None:
    assert parse_answer("", CITIES).reason == "empty"
    assert parse_answer("no idea", CITIES).reason == "nothing stated"
    assert parse_answer("答案是A。答案是B。", CITIES).reason == "contradictory"
    assert parse_answer("The answer is D) Rome", CITIES).reason == "contradictory"
    assert parse_answer("答案是E。", CITIES).reason == "no such option"


def test_fewer_options_have_fewer_letters() -> None:
    assert parse_answer("答案是C。", ("对", "错")).reason == "no such option"
    assert parse_answer("答案是B。", ("对", "错")).letter == "B"
    assert parse_answer("答案是E。", ("1", "2", "3", "4", "5")).letter == "E"


PIECES = (
    *"ABCDEZab，。、:.()=$ \n",
    *(
        "答案",
        "是",
        "为",
        "选",
        "故选",
        "正确",
        "错误",
        "不",
        "不是",
        "如果",
        "选项",
        "项",
        "吗",
        "**",
    ),
    *("因为", "The ", "answer", " is ", "not ", " or ", "option ", " correct", "\\boxed{", "}"),
    *("北京", "Paris", "50", "because", "I choose "),
)
WORDS = st.lists(st.sampled_from(PIECES), max_size=30)
OPTIONS = st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=5)


@given(WORDS.map("".join) | st.text(), OPTIONS)
def test_a_letter_is_one_of_the_options_and_stands_in_the_text(
    text: str, options: list[str]
) -> None:
    parsed = parse_answer(text, options)
    if parsed.letter is None:
        assert parsed.reason
        return
    assert ord(parsed.letter) - ord("A") < len(options)
    wide = chr(ord(parsed.letter) + 0xFEE0)
    bold = "".join(chr(first + ord(parsed.letter) - ord("A")) for first in _ALPHABETS)
    both = parsed.letter + parsed.letter.lower() + wide + chr(ord(wide) + 0x20) + bold
    assert re.search(f"[{both}]", text)


_ALPHABETS = (0x24B6, 0x1D400, 0x1D5A0, 0x1D5D4)


@given(st.text(alphabet="EFGHijkl 0123456789，。是的答案选\n", max_size=60))
def test_a_text_without_the_letters_has_no_answer(text: str) -> None:
    assert parse_answer(text, CITIES).letter is None


@given(st.permutations("ABCD"), st.sampled_from(["答案是{}。", "Answer: {}\n", "故选{}。", "{}\n"]))
def test_two_different_statements_are_no_answer(letters: list[str], form: str) -> None:
    text = form.format(letters[0]) + form.format(letters[1])
    assert parse_answer(text, CITIES).reason == "contradictory"


@given(st.sampled_from("ABCD"), st.text(alphabet="甲乙丙丁，。 \n", max_size=40))
def test_what_stands_before_a_statement_does_not_hide_it(letter: str, before: str) -> None:
    assert parse_answer(f"{before}\n所以，答案是{letter}。", CITIES_ZH).letter == letter


@pytest.mark.parametrize(
    "piece",
    [
        *"A答不 (\n$*\\:",
        "A.",
        "A、",
        "答案是",
        "不答案是A",
        "\\boxed{",
        "选项",
        "正确的",
        "A. 北京 ",
        "\nB. 上海",
    ],
    ids=repr,
)
def test_long_answers_are_read_in_linear_time(piece: str) -> None:
    """A search that looked back or ahead without bound would not end here in an hour."""
    for text in (piece * 80_000, "答案是" + piece * 80_000, "A" + piece * 80_000):
        parse_answer(text, CITIES_ZH)
