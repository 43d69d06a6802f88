"""Subjects of a benchmark as jobs that are answered by the likelihoods of the four letters."""

from collections.abc import Iterator
from pathlib import Path

from common.files import canonical_json
from corpus.benchmarks.lm_eval_tasks import about_task, num_prompt_characters, write_tasks
from corpus.benchmarks.questions import Benchmark
from model.evaluate.answers import answers_file
from model.evaluate.job import Precision, SubjectJob, resolved_dtype

SCORING_VERSION = 1
"""Raised when the same model and questions get other answers than before."""


def letter_jobs(
    benchmark: Benchmark,
    *,
    model: str,
    chat: bool,
    dtype: Precision,
    num_fewshot: int,
    limit: int | None,
    folder: Path,
    cache: Path,
) -> Iterator[SubjectJob]:
    """Each subject of a benchmark, its lm-eval task written into `folder`.

    model: digest of the model; cache: folder of the store for answers, where those that are known
    are found again.
    """
    tasks = write_tasks(benchmark, folder, num_fewshot=num_fewshot)
    scored = benchmark.recipe.scored_split
    for task, subject in tasks.items():
        about = {
            "scoring": SCORING_VERSION,
            "mode": "likelihood",
            "model": model,
            "chat": chat,
            "dtype": resolved_dtype(dtype),
            "task": about_task(benchmark, subject, num_fewshot=num_fewshot, limit=limit),
        }
        yield SubjectJob(
            benchmark=benchmark.name,
            subject=subject,
            task=task,
            folder=str(folder.resolve()),
            mode="likelihood",
            num_questions=len(benchmark.subjects[subject][scored][:limit]),
            num_characters=num_prompt_characters(
                benchmark, subject, num_fewshot=num_fewshot, limit=limit
            ),
            answers=str(answers_file(cache, about).resolve()),
            about=canonical_json(about),
        )
