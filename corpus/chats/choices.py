"""Multiple-choice questions as conversations, in the layout of lm-eval's prompts.

    user       {question}\\nA. …\\nB. …\\nC. …\\nD. …\\n答案：        or "Answer:" in English
    assistant  B

is lm-eval's own prompt for C-Eval, CMMLU and MMLU (`doc_to_text` of lm_eval/tasks/{ceval,cmmlu,
mmlu}), so training and evaluation agree. Where a row explains its answer, a second conversation
asks for the explanation first (the paper's CoT data, Table 6), and a third one for the answer:

    user       {question}\\nA. …\\n…\\n请先给出解释，再给出答案。
    assistant  {explanation}\\n答案：B

    user       {question}\\nA. …\\n…\\n请先给出答案，再给出解释。
    assistant  答案：B\\n{explanation}

A mixture takes the forms that it names in `styles`: letter, explained, answer_first.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

from corpus.chats.language import Language, language_of_text
from corpus.chats.messages import (
    Chat,
    MalformedRow,
    UnusableRow,
    checked_text,
    listed,
    turn_text,
    turns,
)
from corpus.chats.rows import Row
from corpus.text_fields import kind_of

LETTERS = "ABCDEFGH"

ANSWER = {"zh": "答案：", "en": "Answer:"}
"""Ends the question where the letter alone is wanted."""
EXPLAIN = {"zh": "请先给出解释，再给出答案。", "en": "Explain first, then give the answer."}
"""Ends the question where an explanation is wanted first."""
ANSWER_FIRST = {"zh": "请先给出答案，再给出解释。", "en": "Give the answer first, then explain."}
"""Ends the question where the explanation is wanted behind the answer."""
Style: TypeAlias = Literal["letter", "explained", "answer_first"]
"""Form of an answer."""
STYLES: tuple[Style, ...] = get_args(Style)

SHORTEST_EXPLANATION = 10
"""Characters; a shorter `answer_detail` explains nothing (the published script has the same)."""

_CONCLUSION = re.compile(r"(故选|故答案为|因此选|所以选|答案选)[^\n]*\s*$")
_ADAPTERS = re.compile(
    r"the question: (?P<question>.*?)\n\n(?P<options>Answer1: .*?)\n\nAnswer format", re.DOTALL
)
_OPTION = re.compile(r"(?:^|\s)Answer\d: ")
_LOGIQA_OPTION = re.compile(r"^([A-D])[.．、,，\s]\s*(?=\S)")


def question_text(
    question: str, options: Sequence[str], language: Language, *, style: Style = "letter"
) -> str:
    """The user's turn, which ends with what is wanted. Of a third language: as English."""
    listed = "\n".join(
        f"{letter}. {option.strip()}" for letter, option in zip(LETTERS, options, strict=False)
    )
    ending = {"letter": ANSWER, "explained": EXPLAIN, "answer_first": ANSWER_FIRST}[style]
    return f"{question.strip()}\n{listed}\n{ending['zh' if language == 'zh' else 'en']}"


def choice_chats(
    question: str, options: Sequence[str], letter: str, explanation: str = ""
) -> list[Chat]:
    """One conversation with the letter, and if there is an explanation one with it before the
    letter and one with it behind.

    Raises UnusableRow for a question without text, fewer than two options, an empty or repeated
    option, or an answer that is none of them.
    """
    options = [option.strip() for option in options]
    if not question.strip():
        raise UnusableRow("empty question")
    if len(options) < 2 or not all(options):
        raise UnusableRow("missing option")
    if len(set(options)) < len(options):
        raise UnusableRow("repeated option")
    if letter not in LETTERS[: len(options)] or len(letter) != 1:
        raise UnusableRow("no single right option")
    whole = question + "".join(options)
    language = language_of_text(whole)
    prompt = question_text(question, options, language)
    chats = [Chat(messages=turns([(prompt, letter)]), style="letter")]
    explanation = _CONCLUSION.sub("", explanation).strip()
    if len(explanation) >= SHORTEST_EXPLANATION and explanation != "略":
        answer = f"答案：{letter}" if language == "zh" else f"Answer: {letter}"
        with_reasons: dict[Style, str] = {
            "explained": f"{explanation}\n{answer}",
            "answer_first": f"{answer}\n{explanation}",
        }
        for style, text in with_reasons.items():
            prompt = question_text(question, options, language, style=style)
            chats.append(Chat(messages=turns([(prompt, text)]), style=style))
    return chats


def wanjuan_exam(row: Row) -> list[Chat]:
    """Wanjuan 1.0's Exam-cn: q_type, q_main, option_a … option_e, std_ans, answer_detail."""
    if row.get("q_type", "单选题") not in ("单选题", "选择题"):
        raise UnusableRow("not a single-choice question")
    options = [turn_text(row, f"option_{x}", optional=True).strip() for x in "abcde"]
    while options and not options[-1]:
        options.pop()
    letter = turn_text(row, "std_ans", optional=True) or turn_text(row, "answer", optional=True)
    return choice_chats(
        turn_text(row, "q_main"),
        options,
        letter.strip().upper().rstrip(".．。"),
        turn_text(row, "answer_detail", optional=True),
    )


def hub_choices(row: Row) -> list[Chat]:
    """OpenBookQA and ARC as on the hub: question(_stem), choices {text, label}, answerKey."""
    choices = row.get("choices")
    if choices is None:
        raise UnusableRow("no choices")
    if not isinstance(choices, Mapping):
        raise MalformedRow("choices", f"{kind_of(choices)}, not an object")
    labels = [checked_text(label, "choices.label[]") for label in listed(choices, "label")]
    options = [checked_text(option, "choices.text[]") for option in listed(choices, "text")]
    key = turn_text(row, "answerKey", optional=True).strip()
    if labels.count(key) != 1 or len(labels) != len(options) or len(labels) > len(LETTERS):
        raise UnusableRow("no single right option")
    question = turn_text(row, "question_stem" if row.get("question_stem") else "question")
    return choice_chats(question, options, LETTERS[labels.index(key)])


def llm_adapters(row: Row) -> list[Chat]:
    """LLM-Adapters' form of OpenBookQA and ARC: options `Answer1: …` inside the instruction."""
    match = _ADAPTERS.search(turn_text(row, "instruction"))
    if match is None:
        raise UnusableRow("no options in the instruction")
    options = [part for part in _OPTION.split(match["options"]) if part.strip()]
    number = re.fullmatch(r"answer([1-9])", turn_text(row, "answer").strip())
    if number is None or not 1 <= int(number[1]) <= len(options):
        raise UnusableRow("no single right option")
    return choice_chats(match["question"], options, LETTERS[int(number[1]) - 1])


def logiqa(row: Row) -> list[Chat]:
    """LogiQA's text file: the letter, the context, the question and A. B. C. D., a line each."""
    lines = [checked_text(line, "lines[]") for line in listed(row, "lines")]
    if len(lines) != 7:
        raise UnusableRow("not seven lines")
    options = []
    for letter, line in zip("ABCD", lines[3:], strict=True):
        match = _LOGIQA_OPTION.match(line)
        if match is None or match[1] != letter:
            raise UnusableRow("option without its letter")
        options.append(line[match.end() :])
    return choice_chats(f"{lines[1]}\n{lines[2]}", options, lines[0].strip().upper())
