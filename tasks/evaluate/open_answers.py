"""Benchmarks whose answers are written: their parts as jobs, and their scores.

A task is answered in parts of some questions, each kept once it is whole, so that a stage that was
killed loses no more than one part a process.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from common.errors import ConfigError, DataError
from common.files import canonical_json, write_text
from corpus.bad_rows import OnBadRow
from corpus.benchmarks.generative import GENERATION_VERSION, GenerationSettings, generation_figures
from corpus.benchmarks.open_questions import (
    ANSWER_TOKENS,
    UNPARSED,
    OpenBenchmark,
    about_open_task,
    check_open_task,
    is_open,
    open_recipe,
    programs,
    read_open,
    write_open_task,
)
from corpus.benchmarks.questions import Files
from corpus.benchmarks.scoring import score
from model.evaluate.answers import answers_file
from model.evaluate.job import SubjectJob
from model.evaluate.sandbox import check_sandbox, run_program
from tasks.core.stage import StageResult, StageRun

PART = 50
"""Questions of a part."""


class Settings(Protocol):
    """The settings of `EvaluateConfig` that matter here."""

    @property
    def allow_code_execution(self) -> bool: ...

    @property
    def on_bad_row(self) -> OnBadRow: ...

    @property
    def limit(self) -> int | None: ...


def check_open(config: Settings, name: str, files: Files, scored: bool) -> OpenBenchmark:
    """Read it. Raises for bad rows, a missing task, or programs that may not or cannot be run."""
    if scored:
        check_runs_code(config, name)
        check_open_task(name)
        if open_recipe(name).runs_code:
            check_sandbox()
    return read_open(name, files, on_bad_row=config.on_bad_row)


def check_runs_code(config: Settings, name: str) -> None:
    """Raise ConfigError for a benchmark that runs programs, unless that is allowed."""
    if is_open(name) and open_recipe(name).runs_code and not config.allow_code_execution:
        raise ConfigError(
            f"{name} runs programs that the model wrote. Set `evaluate.allow_code_execution: true` "
            "to run them, each in a sandbox without network and files, or leave it out of "
            "`benchmarks`"
        )


def read_all_open(config: Settings, benchmarks: Mapping[str, StageResult]) -> list[OpenBenchmark]:
    """The benchmarks with written answers among those that `acquire` fetched.

    Raises ConfigError for one that runs programs where that is not allowed, or cannot be.
    """
    return [
        check_open(config, name, result.folder / name, scored=True)
        for name, result in benchmarks.items()
        if is_open(name)
    ]


def open_jobs(
    benchmarks: Sequence[OpenBenchmark],
    settings: GenerationSettings,
    *,
    chat: bool,
    folder: Path,
    cache: Path,
) -> Iterator[SubjectJob]:
    """The parts of each benchmark; its task files are written below `folder`."""
    for benchmark in benchmarks:
        yield from _jobs(benchmark, settings, chat, folder / benchmark.name, cache)


def _jobs(
    benchmark: OpenBenchmark, settings: GenerationSettings, chat: bool, folder: Path, cache: Path
) -> Iterator[SubjectJob]:
    task = write_open_task(benchmark, folder, chat=chat)
    rows = benchmark.rows[: settings.limit]
    for first in range(0, len(rows), PART):
        part = rows[first : first + PART]
        about = {
            "generation": GENERATION_VERSION,
            "mode": "generate_until",
            "model": settings.model,
            "dtype": settings.dtype,
            "chat": chat,
            "first": first,
            "task": about_open_task(benchmark, part, chat=chat),
        }
        yield SubjectJob(
            benchmark=benchmark.name,
            subject=f"{first:05d}",
            task=task,
            folder=str(folder.resolve()),
            mode="generate_until",
            num_questions=len(part),
            num_characters=sum(
                len(row[benchmark.recipe.question]) + 16 * ANSWER_TOKENS for row in part
            ),
            answers=str(answers_file(cache, about).resolve()),
            about=canonical_json(about),
            first=first,
        )


def scored_open(
    run: StageRun,
    config: Settings,
    benchmark: OpenBenchmark,
    parts: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    chat: bool,
) -> dict[str, Any]:
    """Write the samples of a benchmark, and compute its scores; programs are run here.

    parts: name of each part -> lines of model.entry.evaluate.
    """
    recipe = benchmark.recipe
    answers = [answer for part in sorted(parts) for answer in parts[part]]
    if recipe.runs_code:
        check_runs_code(config, benchmark.name)
        judged = list(_run_all(run, benchmark, answers, chat=chat))
    else:
        judged = [_judged(benchmark, answer) for answer in answers]
    samples = [
        {
            "subject": benchmark.name,
            "index": answer["index"],
            "question": row[recipe.question],
            "gold": row[recipe.answer],
            "answer": answer["text"],
            **values,
            **{key: answer[key] for key in ("num_tokens", "complete", "truncated")},
            **({"prompt": answer["prompt"]} if "prompt" in answer else {}),
        }
        for row, answer, values in zip(benchmark.rows, answers, judged, strict=False)
    ]
    file = run.folder / "samples" / f"{benchmark.name}.jsonl"
    file.parent.mkdir(exist_ok=True)
    write_text(file, "".join(f"{json.dumps(s, ensure_ascii=False)}\n" for s in samples))
    marks = [
        {"subject": s["subject"], "gold": True, "choice": s["right"], "truncated": s["truncated"]}
        for s in samples
    ]
    others = sorted({name for answer in answers for name in answer["metrics"]} - {recipe.filter})
    return {
        **score(marks),
        **generation_figures(samples),
        "title": recipe.title,
        "split": "test",
        "num_bad_rows": len(benchmark.bad_rows),
        "bad_rows": list(benchmark.bad_rows),
        "limit": config.limit,
        "chat": chat,
        "num_subjects": 1,
        "num_subjects_known": 1,
        "left_out_subjects": {},
        "modes": {},
        "chance": 0.0,
        "filter": recipe.filter,
        "other_filters": {
            name: sum(_is_right(answer["metrics"][name]) for answer in answers) / len(answers)
            for name in others
            if not recipe.runs_code
        },
    }


def _judged(benchmark: OpenBenchmark, answer: Mapping[str, Any]) -> dict[str, Any]:
    """The score that lm-eval gave to an answer."""
    name = benchmark.recipe.filter
    if name not in answer["metrics"]:
        raise DataError(
            f"{benchmark.name}: lm-eval's task has no filter {name!r}; it has "
            f"{', '.join(answer['metrics'])}"
        )
    found = answer["filtered"][name]
    return {
        "choice": found,
        "right": _is_right(answer["metrics"][name]),
        "unparsed": "nothing stated" if found == UNPARSED else "",
    }


def _is_right(metrics: Mapping[str, Any]) -> bool:
    return all(value == 1.0 for value in metrics.values())


def _run_all(
    run: StageRun, benchmark: OpenBenchmark, answers: Sequence[Mapping[str, Any]], *, chat: bool
) -> Iterator[dict[str, Any]]:
    """Run the program of each answer in a sandbox of its own."""
    check_sandbox()
    for number, program in enumerate(programs(benchmark, answers, chat=chat)):
        outcome = run_program(program)
        run.progress(number + 1, len(answers), f"{benchmark.name}: program {number + 1}")
        yield {"choice": outcome, "right": outcome == "passed", "unparsed": ""}
