"""Answers: prompted as by lm-eval, scored as by an independent forward pass."""

import contextlib
import dataclasses
import json
import math
import subprocess
import sys
import time
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
from model.evaluate.answers import answers_file, read_answers, write_answers
from model.evaluate.choice_lm import Finer
from model.evaluate.forward import Forward
from model.evaluate.job import EvaluateJob, SubjectJob
from model.train.distributed.context import DistributedContext, distributed_context
from model.train.run.folder import METRICS_FILE
from tests.faults.wrong_kernels import enter_faults
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


@pytest.mark.filterwarnings("ignore::model.soft_moe.LeakWarning")
@pytest.mark.parametrize(
    "routing",
    [
        "token",
        *(pytest.param(r, marks=pytest.mark.slow) for r in ("dense", "sequence", "reference_norm")),
    ],
)
def test_batch_size_decides_no_near_tie(
    job: Callable[..., EvaluateJob], alone: DistributedContext, tmp_path: Path, routing: str
) -> None:
    """Letters that differ by a last bit here and there: rounding would choose among them."""
    folder = write_model(tmp_path / "near", routing=routing)
    network = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        head = network.lm_head.weight
        first, *others = tokenizer.convert_tokens_to_ids(["ĠA", "ĠB", "ĠC", "ĠD"])
        for other in others:
            up = torch.rand(head.shape[1]) < 0.5
            head[other] = head[first]
            head[other, up] = torch.nextafter(head[first], torch.tensor(math.inf))[up]
    network.save_pretrained(folder)
    choices = []
    for batch_size in (1, 7, 32):
        task = job(f"{batch_size}", model=str(folder), batch_size=batch_size)
        lm = entry.load(task, torch.device("cpu"))
        entry.run(task, lm, alone)
        answers = read_all(task)
        assert lm.num_settled == len(answers)
        choices.append([(a["log_likelihoods"], a["right"], a["tied"]) for a in answers])
    assert choices[0] == choices[1] == choices[2]
    chosen = {max(range(4), key=scores.__getitem__) for scores, _, _ in choices[0]}
    assert len(chosen) > 1
    assert not any(tied for _, _, tied in choices[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_of_equal_letters_the_first_wins_and_is_counted(
    job: Callable[..., EvaluateJob], alone: DistributedContext, dtype: str
) -> None:
    task = job(f"equal {dtype}", dtype=dtype)
    lm = entry.load(task, torch.device("cpu"))
    ids = lm.tokenizer.convert_tokens_to_ids(["ĠA", "ĠB", "ĠC", "ĠD"])

    def equal(forward: Forward) -> Forward:
        with torch.no_grad():
            forward.network.lm_head.weight[ids] = 2.0
        return forward

    equal(lm.forward)

    def equal_when_loaded(load: Callable[[], Forward]) -> Callable[[], Forward]:
        return lambda: equal(load())

    lm.finer = [Finer(near, equal_when_loaded(load)) for near, load in lm.finer]
    entry.run(task, lm, alone)
    answers = read_all(task)
    assert all(answer["tied"] for answer in answers)
    assert all(answer["right"] == (answer["target"] == 0) for answer in answers)
    assert all(len(set(answer["log_likelihoods"])) == 1 for answer in answers)


def test_bfloat16_chooses_like_float32(
    job: Callable[..., EvaluateJob], answers_of: AnswersOf
) -> None:
    exact = answers_of(job("exact"))
    half = answers_of(job("half", dtype="bfloat16"))
    assert [a["right"] for a in half] == [a["right"] for a in exact]
    assert any(
        a["log_likelihoods"] != b["log_likelihoods"] for a, b in zip(half, exact, strict=True)
    )


def test_worked_examples_are_computed_once(
    job: Callable[..., EvaluateJob], alone: DistributedContext
) -> None:
    task = job("tokens", num_fewshot=5, batch_size=1)
    lm = entry.load(task, torch.device("cpu"))
    lm.finer = []
    entry.run(task, lm, alone)
    # Of seven, four and six questions: most of what they have in common is their examples.
    lengths = [len(lm.tok_encode(answer["prompt"])) for answer in read_all(task)]
    assert lm.forward.num_tokens < sum(lengths) / 3


def test_an_interrupted_evaluation_goes_on_with_the_next_subject(
    job: Callable[..., EvaluateJob], alone: DistributedContext, answers_of: AnswersOf
) -> None:
    whole = answers_of(job("whole"))
    task = job("interrupted")
    law, lore, anatomy = (Path(subject.answers) for subject in task.subjects)
    lm = entry.load(task, torch.device("cpu"))

    def interrupted(path: Path, *rest: Any) -> None:
        if path != law:  # the longest, which comes first
            raise KeyboardInterrupt
        write_answers(path, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.entry.evaluate.write_answers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            entry.run(task, lm, alone)
    assert [law.exists(), lore.exists(), anatomy.exists()] == [True, False, False]
    kept = law.stat().st_mtime_ns
    assert answers_of(task) == whole
    assert law.stat().st_mtime_ns == kept


@pytest.mark.slow
def test_a_killed_evaluation_equals_one_that_was_not(
    job: Callable[..., EvaluateJob], root: Path, tmp_path: Path
) -> None:
    def start(name: str) -> tuple[EvaluateJob, subprocess.Popen[bytes]]:
        task = job(name)
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(dataclasses.asdict(task)))
        command = [sys.executable, "-m", "model.entry.evaluate", str(file)]
        return task, subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL)

    whole, process = start("whole")
    assert process.wait() == 0
    killed, process = start("killed")
    while not any(Path(subject.answers).exists() for subject in killed.subjects):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    kept = {
        subject.answers: Path(subject.answers).stat().st_mtime_ns
        for subject in killed.subjects
        if Path(subject.answers).exists()
    }
    _, process = start("killed")
    assert process.wait() == 0
    for one, other in zip(whole.subjects, killed.subjects, strict=True):
        assert Path(one.answers).read_bytes() == Path(other.answers).read_bytes()
    assert all(Path(file).stat().st_mtime_ns == before for file, before in kept.items())


def test_subjects_are_dealt_out_evenly() -> None:
    def subject(size: int) -> SubjectJob:
        return SubjectJob(
            benchmark="b",
            subject=f"{size}",
            task="",
            folder="",
            mode="likelihood",
            num_questions=1,
            num_characters=size,
            answers="",
            about="",
        )

    hands = entry.dealt([subject(size) for size in (3, 9, 1, 5, 6)], 2)
    assert [[s.num_characters for s in hand] for hand in hands] == [[9, 3], [6, 5, 1]]
    assert entry.dealt([], 2) == [[], []]


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


def test_no_figure_depends_on_a_wrong_kernel(
    job: Callable[..., EvaluateJob],
    alone: DistributedContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entry, "distributed_context", lambda **_: contextlib.nullcontext(alone))
    enter_faults(monkeypatch, {"rope": ("faulty", "values")})
    found = []
    for kernel in ("eager", "faulty"):
        folder = write_model(tmp_path / kernel)
        config = json.loads((folder / "config.json").read_text()) | {"kernels": {"rope": kernel}}
        (folder / "config.json").write_text(json.dumps(config))
        asked = job(f"by-{kernel}", model=str(folder))
        entry.evaluate(asked)
        found.append([answer["log_likelihoods"] for answer in read_all(asked)])
    assert found[0] == found[1]
