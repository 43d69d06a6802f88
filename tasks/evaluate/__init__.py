"""Stage `evaluate`: accuracy of a model on the questions of each benchmark.

    benchmarks/<benchmark>/*.csv ──read, check──▶ lm-eval tasks ──model.entry.evaluate──▶ answers
                                                                             (one file a subject,
                                                                              in the store's cache)
    results.json ◀──micro, macro, 95 % interval◀── samples/<benchmark>.jsonl ◀──join──────┘

A question is scored by the likelihood of the four letters after lm-eval's own prompt; every
question counts, whatever the model answers. Answers are kept by subject, under a hash of model,
task and settings: after an interruption, and for other configurations with the same model.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from common.config import NOT_IN_KEY, StageConfig, errors_of
from common.errors import ConfigError, DataError, SteelError
from common.files import write_json, write_text
from common.names import NamesOf
from common.ranges import Ge, Limit, MinLen, PositiveInt, Processes
from common.recipes import load_recipe, recipe_path
from corpus.bad_rows import OnBadRow, refuse_bad_rows
from corpus.benchmarks.generative import (
    GENERATIVE_MODES,
    GenerationSettings,
    generative_jobs,
    scored_words,
)
from corpus.benchmarks.letters import letter_jobs
from corpus.benchmarks.lm_eval_tasks import lm_eval_tasks, num_known_subjects
from corpus.benchmarks.open_questions import check_open_task, is_open
from corpus.benchmarks.questions import (
    REMEDY,
    BadRow,
    BenchmarkRecipe,
    Files,
    benchmark_files,
    check_examples,
    decoded,
    parse_questions,
    read_benchmark,
)
from corpus.benchmarks.scoring import (
    categories_file,
    categories_of,
    join_answers,
    read_samples,
    score,
)
from corpus.decontaminate.questions import OTHER_SPLITS
from model.digest import model_digest
from model.evaluate.answers import needed_answers, read_answers
from model.evaluate.job import AnswerForm, EvaluateJob, Mode, Precision, resolved_dtype
from model.train.distributed.gpus import check_one_each, num_gpus
from model.train.run.folder import METRICS_FILE
from tasks.core.given_model import has_chat_template
from tasks.core.stage import StageResult, StageRun, stage
from tasks.core.torchrun import torchrun
from tasks.evaluate.open_answers import check_open, open_jobs, read_all_open, scored_open
from tasks.evaluate.tables import report_accuracies

CHAT_STAGES = ("sft", "dpo")
"""Stages whose models were trained on conversations."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(StageConfig):
    """Benchmarks, and the form of their prompts."""

    on_bad_row: OnBadRow = "fail"
    """Action on a row of a benchmark's files that is no question (a wrong number of columns, an
    empty option, an answer that is no letter, a number given twice). fail: `steel check` and a run
    refuse it by name before any work; skip: left out, counted in tables, manifest and MLflow."""
    modes: Annotated[list[AnswerForm], MinLen(1)] = field(default_factory=lambda: ["likelihood"])
    """Forms of the answers. likelihood, which is always among them: the most likely of the four
    letters. answer_first and chain_of_thought, for chat models: in words, with the letter alone or
    first, and with an explanation before it (the paper's non-CoT and CoT). Greedy; an answer that
    names no option, or several, is wrong and counted as unparsed."""
    answer_tokens: Annotated[int, Ge(1), Limit(10**5)] = 64
    """Tokens of an answer in mode answer_first at the most."""
    reasoning_tokens: Annotated[int, Ge(1), Limit(10**5)] = 512
    """Tokens of an answer in mode chain_of_thought at the most."""
    allow_code_execution: bool = False
    """If true, benchmarks may run programs that the model wrote (humaneval), each in a sandbox
    (model/evaluate/sandbox.py). If false, a configuration with such a benchmark is refused."""
    num_fewshot: Annotated[int, Ge(0), Limit(1000)] = 5
    """Worked examples before each question, the first of the benchmark's dev split (0 to 5)."""
    further_num_fewshot: tuple[Annotated[int, Ge(0), Limit(1000)], ...] = field(
        default=(), metadata=NOT_IN_KEY
    )
    """Further numbers of worked examples that every model is scored with by likelihood, such as
    [0]; contamination-adjusted tables show each. An evaluation of its own for each number."""
    limit: PositiveInt | None = None
    """At most so many questions a subject, for a quick look; None takes all. Tables show it."""
    chat: Literal["auto", True, False] = "auto"
    """If true, prompts go through the chat template; auto: for models made by SFT or DPO."""
    models: NamesOf[str] = field(default_factory=dict, metadata=NOT_IN_KEY)
    """Further models to score: name in tables -> folder (a Transformers folder with a tokenizer, or
    a stage's in a store)."""
    batch_size: Annotated[int, Ge(1), Limit(10**6)] = field(default=16, metadata=NOT_IN_KEY)
    """Questions a forward pass, per process. Changes speed and memory, not results."""
    num_processes: Processes | Literal["auto"] = field(default="auto", metadata=NOT_IN_KEY)
    """Processes that share the questions; auto: one per GPU, or 1 without a GPU."""
    dtype: Precision = "auto"
    """Number format of the model; auto is float32. bfloat16 takes half the memory; a question whose
    best letters are within its rounding errors is computed again in float32."""

    def input_recipe_files(self, inputs: Mapping[str, Any]) -> list[Path]:
        """The recipes of the benchmarks, and their categories."""
        recipes = [recipe_path("evals", name) for name in inputs["benchmarks"]]
        categories = [file for name in inputs["benchmarks"] if (file := categories_file(name))]
        return recipes + categories

    @property
    def most_fewshot(self) -> int:
        """The largest number of worked examples that is asked for."""
        return max(self.num_fewshot, *self.further_num_fewshot, 0)

    def with_fewshot(self, number: int) -> "EvaluateConfig":
        """The settings of a further evaluation, by likelihood alone."""
        return replace(self, num_fewshot=number, further_num_fewshot=(), modes=["likelihood"])

    def ranks(self) -> int:
        """Number of processes on this machine that share the questions."""
        if self.num_processes != "auto":
            return self.num_processes
        return max(1, num_gpus())

    def check(self) -> Iterator[SteelError]:
        if len(set(self.modes)) != len(self.modes):
            yield ConfigError(f"modes names one twice: {', '.join(self.modes)}")
        yield from errors_of(check_one_each, self.ranks(), num_gpus())
        shots = [self.num_fewshot, *self.further_num_fewshot]
        if len(set(shots)) != len(shots):
            yield ConfigError(f"num_fewshot and further_num_fewshot name a number twice: {shots}")
        if "likelihood" not in self.modes:
            yield ConfigError(
                f"modes is {', '.join(self.modes)}, without likelihood: tables compare models by "
                "it, so add it"
            )
        if self.chat is False and (words := [m for m in self.modes if m != "likelihood"]):
            yield ConfigError(
                f"modes has {', '.join(words)}, which only chat models answer in, but `chat` is "
                "false: leave one of them out"
            )


def benchmark_problems(
    config: EvaluateConfig, sources: Mapping[str, Files], *, scored: bool = True
) -> Iterator[SteelError]:
    """Yield an error for each benchmark with bad rows or too few worked examples.

    All splits are read that are scored, shown as examples, or looked for in training texts.
    scored: False for benchmarks that are only looked for in training texts.
    """
    for name, files in sources.items():
        if is_open(name):
            yield from errors_of(check_open, config, name, files, scored)
            continue
        yield from errors_of(_check_questions, config, name, files, scored)


def _check_questions(config: EvaluateConfig, name: str, files: Files, scored: bool) -> None:
    recipe = load_recipe(BenchmarkRecipe, "evals", name)
    benchmark = read_benchmark(
        name,
        recipe,
        files,
        on_bad_row="skip",
        num_fewshot=config.most_fewshot if config.on_bad_row == "skip" else 0,
    )
    bad_rows = [str(row) for row in benchmark.bad_rows]
    others = {*OTHER_SPLITS} - {recipe.fewshot_split, recipe.scored_split}
    for _, split, place, content in benchmark_files(recipe, files, others):
        rows = parse_questions(recipe, place, decoded(content, place), split=split, answers=False)
        bad_rows += [str(row) for row in rows if isinstance(row, BadRow)]
    if config.on_bad_row == "fail":
        refuse_bad_rows(name, bad_rows, REMEDY)
    if scored:
        check_examples(benchmark, config.most_fewshot)


def check_task_file(benchmark: str) -> None:
    """Raise ConfigError where lm-eval has no task of a benchmark's kind."""
    if is_open(benchmark):
        check_open_task(benchmark)
        return
    recipe = load_recipe(BenchmarkRecipe, "evals", benchmark)
    if not (lm_eval_tasks() / recipe.base_task).is_file():
        raise ConfigError(
            f"{recipe_path('evals', benchmark).name}: lm-eval has no task file {recipe.base_task}; "
            "is another version of lm-eval installed than the lock file says?"
        )


@stage(version=4, keeps="answered subjects")
def evaluate(
    run: StageRun,
    config: EvaluateConfig,
    *,
    model: StageResult,
    benchmarks: Mapping[str, StageResult],
) -> None:
    """Score a model on the benchmarks that `acquire` fetched, by name."""
    chat = model.stage in CHAT_STAGES if config.chat == "auto" else config.chat
    folder = model.model_folder
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder} is not a model in Transformers' format: config.json is missing")
    if chat and not has_chat_template(folder):
        raise ConfigError(f"{folder} has no chat template: set `evaluate.chat: false`")
    _check_tokenizer(folder)
    opened = read_all_open(config, benchmarks)
    recipes = {
        name: load_recipe(BenchmarkRecipe, "evals", name)
        for name in benchmarks
        if not is_open(name)
    }
    read = [
        read_benchmark(
            name,
            recipe,
            benchmarks[name].folder / name,
            on_bad_row=config.on_bad_row,
            num_fewshot=config.num_fewshot,
        )
        for name, recipe in recipes.items()
    ]
    digest = model_digest(folder)
    words = _in_words(run, config, digest, chat=chat)
    job = EvaluateJob(
        model=str(folder.resolve()),
        subjects=[
            subject
            for benchmark in read
            for subject in (
                *letter_jobs(
                    benchmark,
                    model=digest,
                    chat=chat,
                    dtype=config.dtype,
                    num_fewshot=config.num_fewshot,
                    limit=config.limit,
                    folder=run.scratch / "tasks" / benchmark.name,
                    cache=run.cache,
                ),
                *generative_jobs(benchmark, words, folder=run.scratch / "words", cache=run.cache),
            )
        ]
        + list(open_jobs(opened, words, chat=chat, folder=run.scratch / "tasks", cache=run.cache)),
        metrics=str((run.folder / METRICS_FILE).resolve()),
        chat=chat,
        limit=config.limit,
        batch_size=config.batch_size,
        dtype=config.dtype,
    )
    known = {s.answers for s in job.subjects if read_answers(Path(s.answers)) is not None}
    if known:
        run.log.info("%s: %d of %d subjects are known", run.stage, len(known), len(job.subjects))
    if len(known) < len(job.subjects):
        torchrun(
            run,
            "model.entry.evaluate",
            job,
            num_processes=config.ranks(),
            total_steps=sum(subject.num_questions for subject in job.subjects),
            env={"HF_DATASETS_CACHE": str((run.scratch / "datasets").resolve())},
        )
    results = {}
    for benchmark in read:
        samples = run.folder / "samples" / f"{benchmark.name}.jsonl"
        samples.parent.mkdir(exist_ok=True)
        lines = join_answers(benchmark, _answers(job, benchmark.name, "likelihood"), config.limit)
        write_text(samples, "".join(f"{json.dumps(s, ensure_ascii=False)}\n" for s in lines))
        scores = score(read_samples(samples), categories_of(benchmark.name))
        results[benchmark.name] = scores | {
            "title": benchmark.recipe.title,
            "origin": _origin(benchmarks[benchmark.name], benchmark.name),
            "split": benchmark.recipe.scored_split,
            "num_bad_rows": benchmark.num_bad_rows(),
            "bad_rows": [str(row) for row in benchmark.bad_rows],
            "left_out_subjects": dict(benchmark.left_out),
            "num_fewshot": config.num_fewshot,
            "limit": config.limit,
            "chat": chat,
            "num_subjects": len(benchmark.subjects),
            "num_subjects_known": num_known_subjects(benchmark.recipe),
            "modes": {
                mode: scored_words(
                    benchmark,
                    mode,
                    _answers(job, benchmark.name, mode),
                    samples.with_name(f"{benchmark.name}-{mode}.jsonl"),
                    words,
                )
                for mode in words.modes
            },
        }
    for written in opened:
        parts = _answers(job, written.name, "generate_until")
        results[written.name] = scored_open(run, config, written, parts, chat=chat) | {
            "origin": _origin(benchmarks[written.name], written.name)
        }
    results = {name: results[name] for name in benchmarks}
    write_json(run.folder / "results.json", results)
    report_accuracies(run, results)


def _origin(acquired: StageResult, name: str) -> str | None:
    """Location that a benchmark came from."""
    origin: str | None = acquired.manifest.get("notes", {}).get("origins", {}).get(name)
    return origin


def _check_tokenizer(folder: Path) -> None:
    """Refuse a model whose tokenizer is not its own, before anything else. Raises DataError."""
    from model.tokenizer.folder import check_model_folder

    check_model_folder(folder)


def _in_words(
    run: StageRun, config: EvaluateConfig, digest: str, *, chat: bool
) -> GenerationSettings:
    """Settings of the modes in words; none of them for a model that is not asked by chat."""
    modes = [mode for mode in GENERATIVE_MODES if mode in config.modes]
    if modes and not chat:
        run.log.info("%s: no %s: this is no chat model", run.stage, ", ".join(modes))
    return GenerationSettings(
        modes=modes if chat else [],
        max_new_tokens={
            "answer_first": config.answer_tokens,
            "chain_of_thought": config.reasoning_tokens,
        },
        num_fewshot=config.num_fewshot,
        limit=config.limit,
        model=digest,
        dtype=resolved_dtype(config.dtype),
    )


def _answers(job: EvaluateJob, benchmark: str, mode: Mode) -> dict[str, list[dict[str, Any]]]:
    """Subject -> answers of a benchmark in one mode."""
    found = {}
    for subject in job.subjects:
        if (subject.benchmark, subject.mode) == (benchmark, mode):
            found[subject.subject] = needed_answers(subject)
    return found
