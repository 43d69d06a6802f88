"""Answers as models write them: options judged one by one, a second thought, the next question."""

from collections.abc import Sequence

import pytest

from corpus.benchmarks.answers import parse_answer

ZH = ("北京", "上海", "广州", "深圳")
EN = ("Paris", "London", "Rome", "Berlin")
TF = ("正确", "错误", "无法判断", "以上都不是")
LET = ("B", "C", "A", "D")
SENT = ("The cell divides.", "A protein is made.", "B cells respond.", "None of the above")

CASES: list[tuple[Sequence[str], str, str | None]] = [
    (
        EN,
        "C. Rome\n\nWhich city is the capital of Germany?\n"
        "A. Paris\nB. London\nC. Rome\nD. Berlin\n"
        "Answer: D",
        None,
    ),
    (EN, "The answer is A. B. C. D.", None),
    (EN, "It is not the case that the answer is B", None),
    (EN, "(A)(B)", None),
    (EN, "The answer is B instead of A.", "B"),
    (EN, "The answer is B rather than A", "B"),
    (EN, "I don't think the answer is B.", None),
    (EN, "I do not believe that the answer is B.", None),
    (EN, "A. Incorrect. Paris is...\nB. Correct.\nC. Incorrect.", None),
    (EN, "A. This is incorrect because", None),
    (EN, "A. This option is incorrect because Paris is in France.\nB. This is right.", None),
    (EN, "A. No.\nB. No.\nC. Yes.\nD. No.", None),
    (EN, "A, or maybe B", None),
    (EN, "A. or B.", None),
    (EN, "The answer is A, possibly B.", None),
    (EN, "The answer is A and also B", None),
    (EN, "The answer is A but could be B", None),
    (EN, "A common answer is A", None),
    (EN, "The least correct answer is A", None),
    (EN, "The second best answer is A", None),
    (EN, "Your answer is A", None),
    (EN, "Example answer: A", None),
    (EN, "Tom's answer is A", None),
    (EN, "I pick A. No wait, B.", None),
    (EN, "The answer is A. Wait, it should be B.", None),
    (EN, "A\nWait, B", None),
    (EN, "Hepatitis B is correct", None),
    (EN, "Vitamin B is the best", None),
    (EN, "Plan B is the right one", None),
    (EN, "Type A is correct", None),
    (EN, "The answer is B. Options A and C are wrong.", "B"),
    (EN, "The answer is B. A or C would be wrong.", "B"),
    (EN, "The answer is B because A is the capital of France and C is in Italy.", "B"),
    (EN, "B. London is also the capital of the UK.", "B"),
    (EN, "The answer is B, which is also a capital.", "B"),
    (EN, "I'm not sure, but I think the answer is B.", "B"),
    (EN, "While I do not know the details, the answer is B.", "B"),
    (EN, "I believe the answer is B.", "B"),
    (EN, "I think it is B", None),
    (EN, "The answer is B. This is because London may be a big city.", "B"),
    (EN, "Answer: B. I am sure.", "B"),
    (EN, "The answer is (B) London. It should be noted that A is a city in France.", "B"),
    (
        EN,
        "The correct answer is B. London\n\nExplanation:\nA. Paris is the capital of France.\n"
        "C. Rome is the capital of Italy.",
        "B",
    ),
    (EN, "B) London\n\nExplanation:\n- A) Paris is in France\n- C) Rome is in Italy", "B"),
    (EN, "The final answer is $\\boxed{B}$.", "B"),
    (EN, "So the best choice is B.", "B"),
    (EN, "The question's answer is B", "B"),
    (EN, "Based on the passage, the answer is B.", "B"),
    (EN, "Therefore, B is correct.", "B"),
    (EN, "Therefore B is the correct answer", "B"),
    (EN, "Only B is correct.", "B"),
    (EN, "Thus option (B) is the best.", "B"),
    (EN, "A is wrong, C is wrong, D is wrong. B is correct.", "B"),
    (
        EN,
        "Let's analyze each option:\n\nA. Paris: This is incorrect.\n\n"
        "B. London: This is correct.\n\nThe answer is B.",
        "B",
    ),
    (
        EN,
        "Let's analyze each option:\n\nA. Paris: This is incorrect.\n\n"
        "B. London: This is correct.\n",
        None,
    ),
    (EN, "A. Paris: This is incorrect.\n\nB. London: This is correct.\n", None),
    (EN, "**Answer: B**\n\n**Explanation:** Option A could be considered, but ...", "B"),
    (EN, "**B**\n\nOption A might be considered.", "B"),
    (EN, "Answer: B\nExplanation: the answer could be A if ...", "B"),
    (ZH, "A、B、C均正确，故选D。", "D"),
    (ZH, "A. x\nB. y\n答案：B", "B"),
    (ZH, "A. 错误。\nB. 错误。\nC. 正确。\nD. 错误。", "C"),
    (ZH, "A：错误\nB：正确\nC：错误\nD：错误", "B"),
    (ZH, "答:B", "B"),
    (ZH, "答：B。", "B"),
    (ZH, "\\boxed{A,B}", None),
    (ZH, "我不觉得答案是B", None),
    (ZH, "很难说答案是B", None),
    (ZH, "不能说答案是B", None),
    (ZH, "不知道答案是B", None),
    (ZH, "B。错误。", None),
    (ZH, "A. 错误，因为北京是首都。", None),
    (ZH, "A. 正确。\nB. 正确。\nC. 错误。\nD. 错误。", None),
    (ZH, "A、错误\nB、错误\nC、错误\nD、正确", "D"),
    (ZH, "A. 这个选项说的是北京。\n\nB. 这个选项说的是上海。\n\n综上，答案是B。", "B"),
    (ZH, "答案：B 2. 答案：C", None),
    (ZH, "小明选A", None),
    (ZH, "A，B正确", None),
    (ZH, "下列说法中A正确的是", None),
    (ZH, "维生素B正确", None),
    (ZH, "甲型A正确", None),
    (ZH, "方案B最合适", None),
    (ZH, "答案：A.B", None),
    (ZH, "答案：A\nB", None),
    (ZH, "答案：[A][B]", None),
    (ZH, '答案：["A", "B"]', None),
    (ZH, "答案是A，也可以是B", None),
    (ZH, "答案是A，或者B", None),
    (ZH, "答案是A，B也对", None),
    (ZH, "答案为A；另外B也正确", None),
    (ZH, "答案是B。其他选项A、C、D都不对。", "B"),
    (ZH, "答案是B，因为A也不对", "B"),
    (ZH, "答案是B，A错误，C错误", "B"),
    (ZH, "B，因为A错误。", "B"),
    (ZH, "B。A选项也不符合题意。", "B"),
    (ZH, "答案是B。A和C可能会让人误选，但是错误。", "B"),
    (ZH, "答案：B\n解析：A可能是干扰项", "B"),
    (ZH, "答案：B\n\nA选项说的是北京，也是首都，但与题意不符。", "B"),
    (ZH, "答案：B\n解析：\nA：北京，错误\nB：上海，正确\nC：广州，错误", "B"),
    (ZH, "B\n\n解析：A. 北京是首都。C. 广州在南方。", "B"),
    (ZH, "B. 上海\n\n解析：上海是直辖市。", "B"),
    (ZH, "A. 北京\n\nB. 上海虽然大，但不是首都。", None),
    (ZH, "根据题意，应选B。", "B"),
    (ZH, "因此本题应选择B选项。", "B"),
    (ZH, "综合考虑，选B。", "B"),
    (ZH, "这道题的正确答案是B。", "B"),
    (ZH, "经过比较，我选B", "B"),
    (ZH, "我会选B", None),
    (ZH, "可以选B", None),
    (ZH, "因此B项正确。", "B"),
    (ZH, "综上所述，B项正确。", "B"),
    (ZH, "由此可见B正确", None),
    (ZH, "可知B正确", "B"),
    (ZH, "因此只有B正确", "B"),
    (ZH, "故B项符合题意", "B"),
    (ZH, "我不确定，但答案应该是B。", "B"),
    (ZH, "虽然不知道原因，但是答案是B", "B"),
]


@pytest.mark.parametrize(("options", "text", "letter"), CASES, ids=lambda value: repr(value)[:60])
def test_a_letter_is_read_only_where_one_answer_is_given(
    options: Sequence[str], text: str, letter: str | None
) -> None:
    assert parse_answer(text, options).letter == letter
