"""The same accuracies as lm-eval's own command on the exported model, to the last digit.

The command runs on a folder that `steel export` wrote: a plain Qwen2 (dense), or custom code beside
the weights (token).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from common.recipes import load_recipe
from corpus.benchmarks.lm_eval_tasks import write_tasks
from corpus.benchmarks.questions import BenchmarkRecipe, read_benchmark
from corpus.sample_data import SampleDataConfig, write_dataset
from model.entry import evaluate as entry
from model.evaluate.answers import answers_file, read_answers
from model.evaluate.job import EvaluateJob, SubjectJob
from model.export.folder import export_model
from model.train.distributed.context import distributed_context
from model.train.run.folder import METRICS_FILE
from tests.tiny_benchmarks import write_benchmarks, write_model

Accuracies = dict[str, float]
Stock = Callable[[Path, Path, list[str], int], Accuracies]


@pytest.fixture(scope="module", params=["dense", "token"])
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A Steel as training writes it, and its export."""
    # Without code a dense model needs a tokenizer of Qwen's kind, which Transformers makes for it.
    qwen = request.getfixturevalue("few_tokens") if request.param == "dense" else None
    steel = write_model(tmp_path_factory.mktemp("steel"), routing=request.param, tokenizer=qwen)
    exported = export_model(steel, tmp_path_factory.mktemp("exported") / request.param)
    assert exported.code == (request.param == "token")
    return steel, Path(exported.output)


def model_args(model: Path) -> str:
    """lm-eval's arguments for a folder; the code in it is the export's own."""
    code = ",trust_remote_code=True" * any(model.glob("*.py"))
    return f"pretrained={model},dtype=float32{code}"


def in_this_process(model: Path, tasks: Path, names: list[str], limit: int) -> Accuracies:
    """lm-eval's function behind its command, without the search among its own tasks."""
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = simple_evaluate(
        model="hf",
        model_args=model_args(model),
        tasks=names,
        task_manager=manager,
        batch_size=4,
        device="cpu",
        limit=limit,
        bootstrap_iters=0,
    )
    return {name: found["results"][name]["acc,none"] for name in names}


def on_the_command_line(model: Path, tasks: Path, names: list[str], limit: int) -> Accuracies:
    """The console script that pip installs with lm-eval."""
    out = tasks.parent / f"{tasks.name}-lm-eval"
    command = [str(Path(sys.executable).with_name("lm_eval")), "run", "--model", "hf"]
    command += ["--model_args", model_args(model), "--tasks", *names]
    command += ["--include_path", str(tasks), "--batch_size", "4", "--device", "cpu"]
    command += ["--limit", str(limit), "--output_path", str(out)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tasks.parent / "datasets")}
    # Outside of the project: nothing of it is on the path.
    subprocess.run(command, check=True, cwd=tasks, env=os.environ | offline)
    (written,) = out.rglob("results_*.json")
    results = json.loads(written.read_text())["results"]
    return {name: results[name]["acc,none"] for name in names}


def ours(model: Path, folder: Path, tasks: dict[str, str], limit: int) -> Accuracies:
    subjects = [
        SubjectJob(
            benchmark="b",
            subject=subject,
            task=task,
            folder=str(folder),
            mode="likelihood",
            num_questions=limit,
            num_characters=1,
            answers=str(answers_file(folder.parent / f"{folder.name} ours", {"task": task})),
            about="{}",
        )
        for task, subject in tasks.items()
    ]
    job = EvaluateJob(
        model=str(model),
        subjects=subjects,
        metrics=str(folder.parent / METRICS_FILE),
        chat=False,
        limit=limit,
        batch_size=16,
        dtype="auto",
    )
    with distributed_context() as ranks:
        entry.run(job, entry.load(job, torch.device("cpu")), ranks)
    found: Accuracies = {}
    for subject in subjects:
        answers: list[dict[str, Any]] | None = read_answers(Path(subject.answers))
        assert answers
        found[subject.task] = sum(answer["right"] for answer in answers) / len(answers)
    return found


def compare(
    models: tuple[Path, Path],
    benchmarks: Path,
    name: str,
    folder: Path,
    stock: Stock,
    *,
    num_fewshot: int = 2,
    most: int = 3,
    limit: int = 12,
) -> Accuracies:
    recipe = load_recipe(BenchmarkRecipe, "evals", name)
    benchmark = read_benchmark(name, recipe, benchmarks / name)
    tasks = write_tasks(benchmark, folder / name, num_fewshot=num_fewshot)
    tasks = dict(list(tasks.items())[:most])
    steel, plain = models
    found = ours(steel, folder / name, tasks, limit)
    assert found == stock(plain, folder / name, list(tasks), limit)
    return found


def test_accuracies_are_those_of_lm_eval(models: tuple[Path, Path], tmp_path: Path) -> None:
    benchmarks = write_benchmarks(tmp_path / "benchmarks")
    for name in ("ceval", "mmlu"):
        compare(models, benchmarks, name, tmp_path, in_this_process)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ceval", "cmmlu", "mmlu"])
def test_accuracies_on_sample_data_are_those_of_the_command(
    models: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    write_dataset("evals", name, tmp_path / "benchmarks" / name, SampleDataConfig())
    found = compare(
        models, tmp_path / "benchmarks", name, tmp_path, on_the_command_line, num_fewshot=5
    )
    assert len(set(found.values())) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ceval", "cmmlu", "mmlu"])
def test_accuracies_on_real_questions_are_those_of_the_command(
    models: tuple[Path, Path], shared: Path, tmp_path: Path, name: str
) -> None:
    # Of bytes, some prompts are longer than the model's context: cut as lm-eval cuts them.
    benchmarks = shared / "data" / "eval"
    compare(models, benchmarks, name, tmp_path, on_the_command_line, num_fewshot=5, limit=20)
