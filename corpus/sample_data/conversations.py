"""Conversations for SFT and preference pairs for DPO, in the formats of the paper's data sets.

A preferred answer is true and to the point; the other one gives another value, or evades.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from corpus.sample_data.code import code_file
from corpus.sample_data.corpora import multiple_choice_row
from corpus.sample_data.facts import (
    CITIZEN_ATTRIBUTES,
    KINDS,
    PLACES,
    Fact,
    KnowledgeBase,
    Language,
    character_facts,
)
from corpus.sample_data.files import (
    DatasetWriter,
    Row,
    RowMaker,
    array,
    lines,
    parquet,
    write_lines,
)
from corpus.sample_data.phrases import phrases
from corpus.sample_data.questions import LETTERS, training_questions
from corpus.sample_data.templates import EN, TEMPLATES

_TEXTS = phrases("conversations")

EXPLAINED_PERCENT = 2
"""Percentage of questions with an explanation, which gives a second conversation each."""


def _question_and_answer(
    rng: Random, base: KnowledgeBase, language: Language
) -> tuple[str, str, Fact]:
    """A question with everything needed to answer it, its answer, and the fact behind it."""
    templates = TEMPLATES[language]
    statement = ""
    if rng.random() < 0.6:
        facts = character_facts(rng, rng.choice((1, 2)), tuple(rng.sample(CITIZEN_ATTRIBUTES, 2)))
        rng.shuffle(facts)
        fact = rng.choice(facts)
        statement = templates.statement(rng, facts) + templates.punctuation["space"]
    else:
        fact = rng.choice(base.facts)
    question = statement + templates.whole_question(rng, fact)
    return question, _reply(rng, fact, language), fact


def _reply(rng: Random, fact: Fact, language: Language) -> str:
    templates = TEMPLATES[language]
    sentence = templates.sentence(rng, fact)
    short = _TEXTS["reply"][language].format(answer=templates.answer(fact))
    return rng.choice((short, sentence))


def _infinity_instruct(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """{"id", "conversations", "label", "langdetect", "source"}; three rows in four are Chinese."""
    for index in range(count):
        language: Language = "en" if index % 4 == 3 else "zh"
        messages: list[tuple[str, str]] = []
        for _ in range(rng.choice((1, 1, 2))):
            if rng.random() < 0.1:
                question = _TEXTS["request"][language]
                answer = TEMPLATES[language].mixed(rng, base)
            else:
                question, answer, _ = _question_and_answer(rng, base, language)
            messages += [("human", question), ("gpt", answer)]
        yield {
            "id": f"infinity_{index}",
            "conversations": _messages("from", "value", *messages),
            "label": _TEXTS["label"],
            "langdetect": "zh-cn" if language == "zh" else "en",
            "source": "sample_world",
        }


def _messages(role: str, content: str, *messages: tuple[str, str]) -> list[dict[str, str]]:
    """Messages as objects with the given keys."""
    return [{role: speaker, content: text} for speaker, text in messages]


def _wanjuan_mcq(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """Wanjuan 1.0's exam questions; those with `answer_detail` serve as CoT data, too."""
    questions = training_questions(rng, base, "zh", round(count * 0.6))
    questions += training_questions(rng, base, "en", round(count * 0.4))
    rng.shuffle(questions)
    for question in questions:
        explained = rng.random() * 100 < EXPLAINED_PERCENT
        yield multiple_choice_row(rng, question, explained=explained)


def _hub_choices(question: str) -> RowMaker:
    """English multiple choice as on the hub: id, `question`, choices {text, label}, answerKey."""

    def rows(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
        for index, item in enumerate(training_questions(rng, base, "en", count)):
            yield {
                "id": f"valley_{index}",
                question: item.stem,
                "choices": {"text": list(item.options), "label": list(LETTERS)},
                "answerKey": item.answer,
            }

    return rows


def _arc(rng: Random, base: KnowledgeBase, count: int, folder: Path) -> None:
    """Two files of the hub's form, Easy twice as long as Challenge."""
    for part, rows in (("Easy", count - count // 3), ("Challenge", count // 3)):
        name = f"ARC-{part}/train-00000-of-00001.parquet"
        parquet(name, _hub_choices("question"))(rng, base, rows, folder)


def _logiqa(rng: Random, base: KnowledgeBase, count: int, folder: Path) -> None:
    """Train.txt, eight lines a question: none, letter, context, question, A. to D."""
    written = []
    for item in training_questions(rng, base, "en", count):
        context, question = _split_stem(item.stem)
        options = [f"{a}.{text}" for a, text in zip(LETTERS, item.options, strict=True)]
        written += ["", item.answer.lower(), context, question, *options]
    write_lines(folder / "Train.txt", [line.encode() for line in written])


def _split_stem(stem: str) -> tuple[str, str]:
    """The context and the last sentence of an English stem, each of which has two or more."""
    context, _, question = stem.rpartition(". ")
    return context + ".", question


def _ruozhiba(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """{"instruction", "output"}: questions with a twist."""
    for _ in range(count):
        first, second = character_facts(rng, 2, ("pet",))
        names = {"a": first.thing.zh, "b": second.thing.zh, "animal": first.value.zh}
        names["place"] = rng.choice(PLACES).zh
        question, answer = rng.choice(list(_TEXTS["riddles"].items()))
        yield {"instruction": question.format(**names), "output": answer.format(**names)}


def _self_awareness(rng: Random, base: KnowledgeBase, count: int) -> list[Row]:
    """{"instruction", "input", "output"} with the name of another model, as EmoLLM's templates."""
    rows: list[Row] = [
        {"instruction": polite.format(question=question), "input": "", "output": answer}
        for polite in _TEXTS["politeness"]
        for question, answer in _TEXTS["identity"].items()
    ]
    rng.shuffle(rows)
    return rows[:count]


def _code_feedback(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """{"id", "messages": [{"role", "content"}]}: a request for a function, and the function."""
    for index in range(count):
        program = code_file(rng, base, "python")
        parts = [part for part in program.split("\n\n\n") if part.startswith("def ")]
        function = rng.choice(parts).strip()
        name = function.split("(")[0].removeprefix("def ")
        messages = [
            ("user", _TEXTS["function_request"].format(name=name)),
            ("assistant", f"```python\n{function}\n```"),
        ]
        if index % 3 == 0:
            messages.append(("user", _TEXTS["function_question"].format(name=name)))
            messages.append(("assistant", function.split('"""')[1]))
        yield {"id": index, "messages": _messages("role", "content", *messages)}


def _web_instruct_sub(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """question, answer, source, orig_question, orig_answer, index: half are multiple choice."""
    multiple_choice = iter(training_questions(rng, base, "en", count))
    for index in range(count):
        if index % 2:
            question, answer, _ = _question_and_answer(rng, base, "en")
        else:
            item = next(multiple_choice)
            question, answer = item.prompt(), item.answer
        yield {
            "orig_question": question,
            "orig_answer": answer,
            "source": "stackexchange" if index % 2 else "socratic",
            "question": question,
            "answer": answer,
            "index": index,
        }


def _openhermes(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """One array of {"conversations", "source", "category", "skip_prompt_formatting"}."""
    multiple_choice = iter(training_questions(rng, base, "en", count))
    for index in range(count):
        if index % 3 == 0:
            item = next(multiple_choice)
            question, answer = item.prompt(), item.answer
        elif index % 3 == 1:
            question, answer = _TEXTS["story_request"], EN.story(rng)
        else:
            question, answer, _ = _question_and_answer(rng, base, "en")
        yield {
            "conversations": _messages("from", "value", ("human", question), ("gpt", answer)),
            "source": "airoboros2.2",
            "category": ("multiple_choice", "writing", "qa")[index % 3],
            "skip_prompt_formatting": False,
        }


def _preference(rng: Random, base: KnowledgeBase, language: Language) -> tuple[str, str, str]:
    """(question, preferred answer, other answer)."""
    question, chosen, fact = _question_and_answer(rng, base, language)
    others = [word for word in KINDS[fact.attribute].words if word != fact.value]
    false = replace(fact, value=rng.choice(others))
    rejected = _TEXTS["evasion"][language]
    if rng.random() < 0.7:
        rejected = _reply(rng, false, language)
    return question, chosen, rejected


def _ultrafeedback_chinese(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """instruction, source, chosen_response, rejected_response, chosen_rating, rejected_rating."""
    for _ in range(count):
        question, chosen, rejected = _preference(rng, base, "zh")
        yield {
            "instruction": question,
            "source": "smoltalk-chinese",
            "chosen_response": chosen,
            "rejected_response": rejected,
            "chosen_rating": rng.choice((4.0, 4.5, 5.0)),
            "rejected_rating": rng.choice((1.0, 1.5, 2.0)),
        }


def _ultrafeedback_english(rng: Random, base: KnowledgeBase, count: int) -> Iterator[Row]:
    """source, prompt, chosen, chosen-rating, chosen-model, rejected, …: dialogues of two turns."""

    def dialogue(question: str, answer: str) -> list[dict[str, Any]]:
        return [{"content": question, "role": "user"}, {"content": answer, "role": "assistant"}]

    for _ in range(count):
        question, chosen, rejected = _preference(rng, base, "en")
        yield {
            "source": "sharegpt",
            "prompt": question,
            "chosen": dialogue(question, chosen),
            "chosen-rating": rng.choice((4.25, 4.75, 5.0)),
            "chosen-model": "valley-large",
            "rejected": dialogue(question, rejected),
            "rejected-rating": rng.choice((1.0, 1.75, 2.5)),
            "rejected-model": "valley-small",
        }


SFT = {
    "infinity_instruct": DatasetWriter(
        600, parquet("7M/train-00000-of-00001.parquet", _infinity_instruct)
    ),
    "wanjuan_mcq": DatasetWriter(8000, lines("Exam-cn/part-003756-a894b46e.jsonl", _wanjuan_mcq)),
    "ruozhiba": DatasetWriter(80, array("ruozhiba_qa.json", _ruozhiba)),
    "self_awareness": DatasetWriter(60, array("self_cognition_EmoLLM.json", _self_awareness)),
    "code_feedback": DatasetWriter(60, lines("Code-Feedback.jsonl", _code_feedback)),
    "web_instruct_sub": DatasetWriter(
        3000, parquet("data/train-00000-of-00013.parquet", _web_instruct_sub)
    ),
    "openhermes": DatasetWriter(1500, array("openhermes2_5.json", _openhermes)),
    "openbookqa": DatasetWriter(
        800, parquet("main/train-00000-of-00001.parquet", _hub_choices("question_stem"))
    ),
    "arc": DatasetWriter(900, _arc),
    "logiqa": DatasetWriter(500, _logiqa),
}
PREFERENCES = {  # they stand 4:1
    "ultrafeedback_chinese": DatasetWriter(
        320, parquet("ultrafeedback_zh_binarized_lowest.parquet", _ultrafeedback_chinese)
    ),
    "ultrafeedback_english": DatasetWriter(
        80, parquet("data/train-00000-of-00001.parquet", _ultrafeedback_english)
    ),
}
