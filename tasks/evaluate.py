"""Stage `evaluate`: accuracy of a model on the questions of each benchmark.

    benchmarks/<benchmark>/*.csv ──read, check──▶ lm-eval tasks ──model.entry.evaluate──▶ answers
                                                                                       │
    results.json ◀──micro, macro, 95 % interval◀── samples/<benchmark>.jsonl ◀──join───┘

A question is scored by the likelihood of the four letters after lm-eval's own prompt; every
question counts, whatever the model answers. After an interruption, finished benchmarks are kept.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from common.config import StageConfig, errors_of
from common.errors import ConfigError, DataError, SteelError
from common.files import write_json, write_text
from common.names import Name
from common.ranges import Ge, Limit, MinLen, PositiveInt, Processes
from common.recipes import load_recipe, recipe_path
from corpus.bad_rows import OnBadRow, listed_rows, refuse_bad_rows
from corpus.benchmarks.lm_eval_tasks import lm_eval_tasks, num_known_subjects, write_tasks
from corpus.benchmarks.questions import (
    REMEDY,
    BadRow,
    Benchmark,
    BenchmarkRecipe,
    Files,
    benchmark_files,
    check_examples,
    decoded,
    parse_questions,
    read_benchmark,
)
from corpus.benchmarks.scoring import join_answers, read_samples, score
from corpus.decontaminate.questions import OTHER_SPLITS
from model.evaluate.job import BenchmarkJob, EvaluateJob
from model.train.distributed.gpus import num_gpus
from model.train.run.folder import METRICS_FILE, MODEL_FOLDER
from tasks.core.stage import StageResult, StageRun, stage
from tasks.core.torchrun import torchrun

CHAT_STAGES = ("sft", "dpo")
"""Stages whose models were trained on conversations."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(StageConfig):
    """Benchmarks, and the form of their prompts."""

    benchmarks: Annotated[list[Name], MinLen(1)] = field(
        default_factory=lambda: ["ceval", "cmmlu", "mmlu"]
    )
    """Recipes in data_recipes/evals/."""
    on_bad_row: OnBadRow = "fail"
    """Action on a row of a benchmark's files that is no question (a wrong number of columns, an
    empty option, an answer that is no letter, a number given twice). fail: `steel check` and a run
    refuse it by name before any work; skip: left out, counted in tables, manifest and MLflow."""
    num_fewshot: Annotated[int, Ge(0), Limit(1000)] = 5
    """Worked examples before each question, the first of the benchmark's dev split (0 to 5)."""
    limit: PositiveInt | None = None
    """At most so many questions a subject, for a quick look; None takes all. Tables show it."""
    chat: Literal["auto", True, False] = "auto"
    """If true, prompts go through the chat template; auto: for models made by SFT or DPO."""
    batch_size: Annotated[int, Ge(1), Limit(10**6)] = 16
    """Prompts a forward pass, per process. Changes speed and memory, not results."""
    num_processes: Processes | Literal["auto"] = "auto"
    """Processes that share the questions; auto: one per GPU, or 1 without a GPU."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the model; auto is bfloat16 on a GPU and float32 on the CPU."""

    def recipe_files(self) -> list[Path]:
        """The recipes of the benchmarks."""
        return [recipe_path("evals", name) for name in self.benchmarks]

    def ranks(self) -> int:
        """Number of processes on this machine that share the questions."""
        if self.num_processes != "auto":
            return self.num_processes
        return max(1, num_gpus())

    def check(self) -> Iterator[SteelError]:
        if len(set(self.benchmarks)) != len(self.benchmarks):
            yield ConfigError(f"benchmarks names one twice: {', '.join(self.benchmarks)}")
        for name in self.benchmarks:
            yield from errors_of(_check_task_file, name)


def benchmark_problems(
    config: EvaluateConfig, sources: Mapping[str, Files]
) -> Iterator[SteelError]:
    """Yield an error for each benchmark with bad rows or too few worked examples.

    All splits are read that are scored, shown as examples, or looked for in training texts.
    """
    for name, files in sources.items():
        yield from errors_of(_check_questions, config, name, files)


def _check_questions(config: EvaluateConfig, name: str, files: Files) -> None:
    recipe = load_recipe(BenchmarkRecipe, "evals", name)
    benchmark = read_benchmark(name, recipe, files, on_bad_row="skip")
    bad_rows = [str(row) for row in benchmark.bad_rows]
    others = {*OTHER_SPLITS} - {recipe.fewshot_split, recipe.scored_split}
    for _, split, place, content in benchmark_files(recipe, files, others):
        rows = parse_questions(recipe, place, decoded(content, place), split=split, answers=False)
        bad_rows += [str(row) for row in rows if isinstance(row, BadRow)]
    if config.on_bad_row == "fail":
        refuse_bad_rows(name, bad_rows, REMEDY)
    if name in config.benchmarks:
        check_examples(benchmark, config.num_fewshot)


def _check_task_file(benchmark: str) -> None:
    """Raise ConfigError where lm-eval has no task of a benchmark's kind."""
    recipe = load_recipe(BenchmarkRecipe, "evals", benchmark)
    if not (lm_eval_tasks() / recipe.base_task).is_file():
        raise ConfigError(
            f"{recipe_path('evals', benchmark).name}: lm-eval has no task file {recipe.base_task}; "
            "is another version of lm-eval installed than the lock file says?"
        )


@stage(version=2)
def evaluate(
    run: StageRun, config: EvaluateConfig, *, model: StageResult, benchmarks: StageResult
) -> None:
    """Score `model.folder/model` on the benchmarks that `acquire` fetched."""
    chat = model.stage in CHAT_STAGES if config.chat == "auto" else config.chat
    folder = model.folder / MODEL_FOLDER
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder} is not a model in Transformers' format: config.json is missing")
    if chat and not _has_chat_template(folder):
        raise ConfigError(f"{folder} has no chat template: set `evaluate.chat: false`")
    _check_tokenizer(folder)
    recipes = {name: load_recipe(BenchmarkRecipe, "evals", name) for name in config.benchmarks}
    read = [
        read_benchmark(name, recipe, benchmarks.folder / name, on_bad_row=config.on_bad_row)
        for name, recipe in recipes.items()
    ]
    answers = run.scratch / "answers"
    job = EvaluateJob(
        model=str(folder.resolve()),
        benchmarks=[
            _benchmark_job(benchmark, run.scratch / "tasks" / benchmark.name, config)
            for benchmark in read
        ],
        answers=str(answers.resolve()),
        metrics=str((run.folder / METRICS_FILE).resolve()),
        chat=chat,
        limit=config.limit,
        batch_size=config.batch_size,
        dtype=config.dtype,
    )
    torchrun(
        run,
        "model.entry.evaluate",
        job,
        num_processes=config.ranks(),
        total_steps=sum(benchmark.num_questions(config.limit) for benchmark in read),
        env={"HF_DATASETS_CACHE": str((run.scratch / "datasets").resolve())},
    )
    results = {}
    for benchmark in read:
        samples = run.folder / "samples" / f"{benchmark.name}.jsonl"
        samples.parent.mkdir(exist_ok=True)
        lines = join_answers(benchmark, answers / f"{benchmark.name}.jsonl", config.limit)
        write_text(samples, "".join(f"{json.dumps(s, ensure_ascii=False)}\n" for s in lines))
        results[benchmark.name] = score(read_samples(samples)) | {
            "title": benchmark.recipe.title,
            "origin": benchmarks.manifest.get("notes", {}).get("origins", {}).get(benchmark.name),
            "split": benchmark.recipe.scored_split,
            "num_bad_rows": benchmark.num_bad_rows(),
            "bad_rows": [str(row) for row in benchmark.bad_rows],
            "num_fewshot": config.num_fewshot,
            "limit": config.limit,
            "chat": chat,
            "num_subjects": len(benchmark.subjects),
            "num_subjects_known": num_known_subjects(benchmark.recipe),
        }
    write_json(run.folder / "results.json", results)
    _report(run, results)


def _check_tokenizer(folder: Path) -> None:
    """Refuse a model whose tokenizer is not its own, before anything else. Raises DataError."""
    from model.tokenizer.folder import check_model_folder

    check_model_folder(folder)


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return False
    return json.loads(config.read_text(encoding="utf-8")).get("chat_template") is not None


def _benchmark_job(benchmark: Benchmark, folder: Path, config: EvaluateConfig) -> BenchmarkJob:
    return BenchmarkJob(
        name=benchmark.name,
        folder=str(folder.resolve()),
        tasks=write_tasks(benchmark, folder, num_fewshot=config.num_fewshot),
        num_questions=benchmark.num_questions(config.limit),
    )


def _report(run: StageRun, results: dict[str, dict[str, Any]]) -> None:
    rows = [
        {
            "benchmark": result["title"],
            "accuracy %": round(100 * result["accuracy_micro"], 2),
            "95 % from": round(100 * result["interval_95"][0], 2),
            "95 % to": round(100 * result["interval_95"][1], 2),
            "macro %": round(100 * result["accuracy_macro"], 2),
            "questions": result["num_questions"],
            "bad rows left out": result["num_bad_rows"],
            "subjects": f"{result['num_subjects']} of {result['num_subjects_known']}",
            "limit a subject": result["limit"] or "none",
            "cut prompts": result["num_truncated"],
        }
        for result in results.values()
    ]
    run.table(f"{run.stage} accuracy", rows, "Chance is 25 %.")
    run.count(
        **{f"accuracy/{name}": result["accuracy_micro"] for name, result in results.items()},
        questions=sum(result["num_questions"] for result in results.values()),
        bad_rows=sum(result["num_bad_rows"] for result in results.values()),
        truncated_prompts=sum(result["num_truncated"] for result in results.values()),
    )
    for name, result in results.items():
        if result["bad_rows"]:
            run.log.warning(
                "%s: %d questions of %d are scored; left out: %s",
                name,
                result["num_questions"],
                result["num_questions"] + result["num_bad_rows"],
                listed_rows(result["bad_rows"]),
            )
        if result["num_truncated"]:
            run.log.warning(
                "%s: %d of %d prompts are longer than the model's context and lost their beginning;"
                " fewer worked examples (num_fewshot) would fit",
                name,
                result["num_truncated"],
                result["num_questions"],
            )
