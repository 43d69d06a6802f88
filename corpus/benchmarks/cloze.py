"""Questions without their options, for the likelihoods of the options' texts (cloze form).

    问题：{question}\\n答案：   + "100 ℃"          Question: {question}\\nAnswer:   + " 100 °C"

The form of OLMES (Gu et al. 2024, arXiv 2406.08446, table 2). No worked examples.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.files import canonical_json, hash_of, json_line
from corpus.benchmarks.questions import LETTERS, Benchmark
from model.evaluate.answers import answers_file
from model.evaluate.job import SubjectJob

CLOZE_VERSION = 1
"""Raised when the same model and questions get other answers than before."""

PROMPTS = {"zh": "问题：{}\n答案：", "en": "Question: {}\nAnswer:"}
"""Language -> what stands before an option."""


def cloze_rows(benchmark: Benchmark, subject: str, *, limit: int | None) -> list[dict[str, Any]]:
    """Each scored question of a subject; target: number of the right option."""
    recipe = benchmark.recipe
    language = "zh" if recipe.language == "Chinese" else "en"
    before = "" if language == "zh" else " "
    return [
        {
            "prompt": PROMPTS[language].format(question.text.strip()),
            "options": [before + option for option in question.options],
            "target": LETTERS.index(question.answer),
        }
        for question in benchmark.subjects[subject][recipe.scored_split][:limit]
    ]


def cloze_jobs(
    benchmark: Benchmark, *, model: str, dtype: str, limit: int | None, folder: Path, cache: Path
) -> Iterator[SubjectJob]:
    """Each subject of a benchmark in mode cloze, its questions written below `folder`.

    model: digest of the model; cache: folder of the store for answers, where those that are known
    are found again.
    """
    for subject in benchmark.subjects:
        rows = cloze_rows(benchmark, subject, limit=limit)
        prompts = folder / benchmark.name / f"{subject}.jsonl"
        prompts.parent.mkdir(parents=True, exist_ok=True)
        prompts.write_bytes(b"".join(map(json_line, rows)))
        about = {
            "cloze": CLOZE_VERSION,
            "mode": "cloze",
            "model": model,
            "dtype": dtype,
            "questions": hash_of(rows),
        }
        yield SubjectJob(
            benchmark=benchmark.name,
            subject=subject,
            task="",
            folder="",
            mode="cloze",
            num_questions=len(rows),
            num_characters=sum(
                4 * len(row["prompt"]) + sum(map(len, row["options"])) for row in rows
            ),
            answers=str(answers_file(cache, about).resolve()),
            about=canonical_json(about),
            prompts=str(prompts.resolve()),
        )
