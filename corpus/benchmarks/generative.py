"""Multiple choice answered in words by a chat model: the questions as conversations, and the score.

    answer_first       …\\n答案：                         ──▶  "B"  or  "B。因为…"      (non-CoT)
    chain_of_thought   …\\n请先给出解释，再给出答案。      ──▶  "因为…\\n答案：B"         (CoT)

The two forms are those of the paper's multiple-choice training data (corpus/chats/choices.py), word
for word. Worked examples go before a question as turns of the conversation, in answer_first only:
the benchmarks' examples have no explanation to show.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from common.files import canonical_json, hash_of, json_line, write_text
from corpus.benchmarks.answers import parse_answer
from corpus.benchmarks.questions import LETTERS, Benchmark, Question
from corpus.benchmarks.scoring import first_prompt, questions_with_answers, read_samples, score
from corpus.chats.choices import ANSWER, EXPLAIN
from model.evaluate.answers import answers_file
from model.evaluate.job import SubjectJob

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
    benchmark: Benchmark, subject: str, mode: GenerativeMode, *, num_fewshot: int, limit: int | None
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


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """Settings of answers in words, beside the questions."""

    modes: Sequence[GenerativeMode]
    """Forms of the answers."""
    max_new_tokens: Mapping[GenerativeMode, int]
    """Tokens of an answer at the most."""
    num_fewshot: int
    """Worked examples in answer_first."""
    limit: int | None
    """At most so many questions a subject."""
    model: str
    """Digest of the model."""
    dtype: str
    """Number format of the model."""


def generative_jobs(
    benchmark: Benchmark, settings: GenerationSettings, *, folder: Path, cache: Path
) -> Iterator[SubjectJob]:
    """Each subject of a benchmark in each mode, its conversations written below `folder`.

    cache: folder of the store for answers, where those that are known are found again.
    """
    for subject in benchmark.subjects:
        for mode in settings.modes:
            rows = conversations(
                benchmark, subject, mode, num_fewshot=settings.num_fewshot, limit=settings.limit
            )
            prompts = folder / benchmark.name / mode / f"{subject}.jsonl"
            prompts.parent.mkdir(parents=True, exist_ok=True)
            prompts.write_bytes(b"".join(json_line(row) for row in rows))
            limit = settings.max_new_tokens[mode]
            about = {
                "generation": GENERATION_VERSION,
                "mode": mode,
                "model": settings.model,
                "dtype": settings.dtype,
                "max_new_tokens": limit,
                "prompts": hash_of(rows),
            }
            yield SubjectJob(
                benchmark=benchmark.name,
                subject=subject,
                task="",
                folder="",
                mode=mode,
                num_questions=len(rows),
                # An answer costs more than its prompt: a forward pass a token.
                num_characters=sum(len(row["question"]) + 16 * limit for row in rows),
                answers=str(answers_file(cache, about).resolve()),
                about=canonical_json(about),
                prompts=str(prompts.resolve()),
                max_new_tokens=limit,
            )


def join_generated(
    benchmark: Benchmark, answers: Mapping[str, Sequence[Mapping[str, Any]]], limit: int | None
) -> Iterator[dict[str, Any]]:
    """Yield each question as it stands in the benchmark file, with its answer, exactly once.

    answers: subject -> lines of model.entry.evaluate; limit: at most so many questions a subject.
    """
    for question, answer, asked in questions_with_answers(benchmark, answers, limit):
        parsed = parse_answer(answer["text"], question.options, complete=answer["complete"])
        yield {
            **asked,
            "choice": parsed.letter,
            "unparsed": parsed.reason,
            "answer": answer["text"],
            "num_tokens": answer["num_tokens"],
            "complete": answer["complete"],
            "truncated": answer["truncated"],
            **first_prompt(answer),
        }


def scored_words(
    benchmark: Benchmark,
    mode: GenerativeMode,
    answers: Mapping[str, Sequence[Mapping[str, Any]]],
    file: Path,
    settings: GenerationSettings,
) -> dict[str, Any]:
    """Write the samples of a benchmark in one mode to `file`, and compute their figures."""
    rows = join_generated(benchmark, answers, settings.limit)
    write_text(file, b"".join(map(json_line, rows)).decode())
    return {
        **score(read_samples(file)),
        **generation_figures(read_samples(file)),
        "num_fewshot": settings.num_fewshot if mode == "answer_first" else 0,
        "max_new_tokens": settings.max_new_tokens[mode],
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
