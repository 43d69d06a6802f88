"""Answers: prompted as by lm-eval, scored as by an independent forward pass."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import evaluate as lm_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.errors import DataError
from common.recipes import load_recipe
from corpus.benchmarks.lm_eval_tasks import write_tasks
from corpus.benchmarks.questions import BenchmarkRecipe, read_benchmark
from model.entry import evaluate as entry
from model.evaluate.answers import answers_file, read_answers
from model.evaluate.job import EvaluateJob, SubjectJob
from model.train.distributed.context import DistributedContext, distributed_context
from model.train.run.folder import METRICS_FILE
from tests.tiny_benchmarks import write_benchmarks, write_model

AnswersOf = Callable[[EvaluateJob], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    return write_benchmarks(tmp_path / "benchmarks")


@pytest.fixture
def job(benchmarks: Path, model_folder: Path, tmp_path: Path) -> Callable[..., EvaluateJob]:
    """A job over both benchmarks, with changes."""

    def make(name: str, *, num_fewshot: int = 2, **changes: Any) -> EvaluateJob:
        subjects = []
        for title in ("ceval", "mmlu"):
            recipe = load_recipe(BenchmarkRecipe, "evals", title)
            benchmark = read_benchmark(title, recipe, benchmarks / title)
            folder = tmp_path / name / title
            tasks = write_tasks(benchmark, folder, num_fewshot=num_fewshot)
            for task, subject in tasks.items():
                asked = benchmark.subjects[subject][recipe.scored_split]
                about = {"benchmark": title, "subject": subject}
                subjects.append(
                    SubjectJob(
                        benchmark=title,
                        subject=subject,
                        task=task,
                        folder=str(folder),
                        mode="likelihood",
                        num_questions=len(asked),
                        num_characters=100 * len(asked),
                        answers=str(answers_file(tmp_path / name, about)),
                        about=json.dumps(about),
                    )
                )
        values: dict[str, Any] = {
            "model": str(model_folder),
            "subjects": subjects,
            "chat": False,
            "limit": None,
            "batch_size": 4,
            "dtype": "float32",
            "metrics": str(tmp_path / name / METRICS_FILE),
        }
        return EvaluateJob(**(values | changes))

    return make


@pytest.fixture(scope="module")
def alone() -> Iterator[DistributedContext]:
    """The only rank."""
    with distributed_context() as ranks:
        yield ranks


def read_all(job: EvaluateJob) -> list[dict[str, Any]]:
    found = []
    for subject in job.subjects:
        answers = read_answers(Path(subject.answers))
        assert answers is not None
        found += [{"subject": subject.subject, **answer} for answer in answers]
    return found


@pytest.fixture
def answers_of(alone: DistributedContext) -> Callable[[EvaluateJob], list[dict[str, Any]]]:
    """Answers of a job that this process runs."""

    def run(job: EvaluateJob) -> list[dict[str, Any]]:
        entry.run(job, entry.load(job, torch.device("cpu")), alone)
        return read_all(job)

    return run


@pytest.mark.parametrize("chat", [False, True])
def test_choices_are_those_of_a_direct_forward_pass(
    job: Callable[..., EvaluateJob], model_folder: Path, chat: bool, answers_of: AnswersOf
) -> None:
    answers = answers_of(job("direct", chat=chat))
    network = AutoModelForCausalLM.from_pretrained(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    assert len(answers) == 7 + 4 + 6
    for answer in answers:
        expected = []
        for letter in "ABCD":
            prompt = tokenizer(answer["prompt"]).input_ids
            whole = tokenizer(answer["prompt"] + ("" if chat else " ") + letter).input_ids
            with torch.no_grad():
                logp = network(torch.tensor([whole])).logits[0].log_softmax(-1)
            if chat:  # lm-eval counts the prompt's last line break to the answer
                prompt = prompt[:-1]
            places = range(len(prompt), len(whole))
            expected.append(sum(logp[place - 1, whole[place]].item() for place in places))
        assert answer["log_likelihoods"] == pytest.approx(expected, abs=2e-4)
        choice = max(range(4), key=expected.__getitem__)
        assert answer["right"] == (choice == answer["target"])
    choices = {max(range(4), key=answer["log_likelihoods"].__getitem__) for answer in answers}
    assert chat or len(choices) > 1


def test_likelihoods_are_those_of_lm_evals_own_model(
    job: Callable[..., EvaluateJob], answers_of: AnswersOf
) -> None:
    ours = answers_of(job("ours"))
    stock = job("stock")
    lm = HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(stock.model),
        tokenizer=AutoTokenizer.from_pretrained(stock.model),
        backend="causal",
        batch_size=4,
    )
    theirs = []
    for subject in stock.subjects:
        manager = TaskManager(include_path=subject.folder, include_defaults=False)
        samples = lm_evaluate(lm, manager.load([subject.task]), bootstrap_iters=0)["samples"]
        theirs += sorted(samples[subject.task], key=lambda s: s["doc_id"])
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        reference = [logp for logp, _ in other["filtered_resps"]]
        assert one["log_likelihoods"] == pytest.approx(reference, abs=2e-4)
        assert one["right"] == (other["acc"] == 1.0)


def test_prompts_are_lm_evals(job: Callable[..., EvaluateJob], answers_of: AnswersOf) -> None:
    by_subject = {a["subject"]: a["prompt"] for a in answers_of(job("prompts"))}
    assert by_subject["law"].startswith("以下是中国关于法学的单项选择题")
    assert by_subject["law"].count("答案：") == 3  # two worked examples and the question
    assert by_subject["law"].count("答案： ") == 2
    assert "valley lore" in by_subject["valley_lore"]
    assert by_subject["anatomy"].endswith("Answer:")


def test_batch_size_changes_nothing(job: Callable[..., EvaluateJob], answers_of: AnswersOf) -> None:
    single = answers_of(job("single", batch_size=1))
    batched = answers_of(job("batched", batch_size=7))
    for one, other in zip(single, batched, strict=True):
        assert one["log_likelihoods"] == pytest.approx(other["log_likelihoods"], abs=2e-4)
        assert one["right"] == other["right"]


def test_finished_subjects_are_kept_and_damaged_ones_made_anew(
    job: Callable[..., EvaluateJob], answers_of: AnswersOf
) -> None:
    task = job("resume")
    complete = answers_of(task)
    law, lore, anatomy = (Path(subject.answers) for subject in task.subjects)
    kept = law.stat().st_mtime_ns
    lore.write_bytes(lore.read_bytes().replace(b'"index": 0', b'"index": 9'))
    anatomy.unlink()
    assert answers_of(task) == complete
    assert law.stat().st_mtime_ns == kept
    steps = [json.loads(line)["step"] for line in Path(task.metrics).read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps[-1] == 17


def test_prompts_that_do_not_fit_are_counted(
    job: Callable[..., EvaluateJob],
    model_folder: Path,
    answers_of: AnswersOf,
    alone: DistributedContext,
) -> None:
    task = job("long", num_fewshot=2)
    lm = entry.load(task, torch.device("cpu"))
    lengths = [len(lm.tok_encode(a["prompt"])) for a in answers_of(task)]
    limit = sorted(lengths)[len(lengths) // 2]
    lm.model.config.max_position_embeddings = limit
    short = job("short", num_fewshot=2)
    entry.run(short, lm, alone)
    cut = [answer["truncated"] for answer in read_all(short)]
    # The context holds the prompt but for the letter, which is only predicted.
    assert cut == [length > limit for length in lengths]
    assert any(cut)
    assert not all(cut)


def test_a_diverged_model_is_refused(
    job: Callable[..., EvaluateJob], alone: DistributedContext
) -> None:
    task = job("nan")
    lm = entry.load(task, torch.device("cpu"))
    with torch.no_grad():
        lm.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(DataError, match="not finite"):
        entry.run(task, lm, alone)
    assert not any(Path(subject.answers).exists() for subject in task.subjects)
