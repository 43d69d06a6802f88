"""Multiple choice answered in words by a chat model: the questions as conversations, and the score.

    answer_first       …\\n答案：                         ──▶  "B"  or  "B。因为…"      (non-CoT)
    chain_of_thought   …\\n请先给出解释，再给出答案。      ──▶  "因为…\\n答案：B"         (CoT)

The two forms are those of the paper's multiple-choice training data (corpus/chats/choices.py), word
for word. Worked examples go before a question as turns of the conversation, in answer_first only:
the benchmarks' examples have no explanation to show.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from common.files import json_line
from corpus.benchmarks.answers import parse_answer
from corpus.benchmarks.questions import LETTERS, Benchmark, Question
from corpus.chats.choices import ANSWER, EXPLAIN

GENERATION_VERSION = 1
"""Raised when the same model and questions get other answers than before."""

GenerativeMode: TypeAlias = Literal["answer_first", "chain_of_thought"]
"""Form in which a chat model answers in words."""

GENERATIVE_MODES: tuple[GenerativeMode, ...] = get_args(GenerativeMode)


def question_turn(question: Question, mode: GenerativeMode, language: Literal["zh", "en"]) -> str:
    """The user's turn; options stand in it byte for byte."""
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, question.options, strict=True)]
    last = (ANSWER if mode == "answer_first" else EXPLAIN)[language]
    return "\n".join((question.text.strip(), *lines, last))


def conversations(
    benchmark: Benchmark,
    subject: str,
    mode: GenerativeMode,
    *,
    num_fewshot: int,
    limit: int | None,
) -> list[dict[str, Any]]:
    """Each question of a subject as {"examples": [[question, answer] …], "question": …}."""
    recipe, splits = benchmark.recipe, benchmark.subjects[subject]
    language: Literal["zh", "en"] = "zh" if recipe.language == "Chinese" else "en"
    shown = splits[recipe.fewshot_split][:num_fewshot] if mode == "answer_first" else []
    examples = [[question_turn(shot, mode, language), shot.answer] for shot in shown]
    return [
        {"examples": examples, "question": question_turn(question, mode, language)}
        for question in splits[recipe.scored_split][:limit]
    ]


def write_conversations(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write what `conversations` gave for model.entry.evaluate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(json_line(row) for row in rows))


def join_generated(
    benchmark: Benchmark, answers: Mapping[str, Sequence[Mapping[str, Any]]], limit: int | None
) -> Iterator[dict[str, Any]]:
    """Yield each question as it stands in the benchmark file, with its answer, exactly once.

    answers: subject -> lines of model.entry.evaluate; limit: at most so many questions a subject.
    """
    for subject, splits in benchmark.subjects.items():
        questions = splits[benchmark.recipe.scored_split][:limit]
        pairs = enumerate(zip(questions, answers[subject], strict=True))
        for index, (question, answer) in pairs:
            assert answer["index"] == index, (benchmark.name, subject, index)
            parsed = parse_answer(answer["text"], question.options, complete=answer["complete"])
            yield {
                "subject": subject,
                "index": index,
                "question": question.text,
                "options": list(question.options),
                "gold": question.answer,
                "choice": parsed.letter,
                "unparsed": parsed.reason,
                "answer": answer["text"],
                "num_tokens": answer["num_tokens"],
                "complete": answer["complete"],
                "truncated": answer["truncated"],
                **({"prompt": answer["prompt"]} if index == 0 else {}),
            }


def generation_figures(samples: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of answers in words, beside their accuracy. An unparsed answer counts as wrong."""
    reasons: dict[str, int] = {}
    tokens = cut = total = 0
    for sample in samples:
        total += 1
        tokens += sample["num_tokens"]
        cut += not sample["complete"]
        if sample["unparsed"]:
            reasons[sample["unparsed"]] = reasons.get(sample["unparsed"], 0) + 1
    return {
        "num_unparsed": sum(reasons.values()),
        "unparsed_share": sum(reasons.values()) / max(1, total),
        "unparsed_reasons": dict(sorted(reasons.items())),
        "mean_tokens": tokens / max(1, total),
        "cut_share": cut / max(1, total),
    }
