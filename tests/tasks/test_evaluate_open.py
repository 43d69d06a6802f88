"""The stage `evaluate` on benchmarks whose answers are written: word problems and programs."""

import itertools
import json
import os
import re
import signal
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from common.child import python
from common.errors import ConfigError, DataError
from common.files import write_json
from common.paths import ROOT
from corpus.benchmarks.generative import GenerationSettings
from corpus.benchmarks.open_questions import (
    open_recipe,
    programs,
    read_open,
    task_without_data,
    write_open_task,
)
from corpus.decontaminate.questions import read_questions
from model.evaluate.answers import read_answers
from model.evaluate.job import EvaluateJob
from model.evaluate.sandbox import check_sandbox
from model.train.run.folder import METRICS_FILE, MODEL_FOLDER
from tasks.core.stage import Context, StageResult
from tasks.evaluate import EvaluateConfig, benchmark_problems, evaluate
from tasks.report.cards.facts import Facts
from tasks.report.cards.model_card import Loading, _eval_result, _scores
from tasks.report.data import ReportData
from tasks.report.language import LANGUAGES, Writer
from tasks.report.sections.results import results_section
from tests.faults.places import Fault, with_fault
from tests.tasks.running import data_sets, run_stage
from tests.tiny_bigram import write_bigram_model

ADD = 'def add(a, b):\n    """Sum of two numbers."""\n'
TEST = "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(0, 0) == 0\n"


def write_gsm8k(folder: Path, answers: list[int]) -> Path:
    rows = [
        {"question": f"Tom has {n} pears and buys none. How many?", "answer": f"He has.\n#### {n}"}
        for n in answers
    ]
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "test.jsonl").write_text(lines)
    (folder / "train.jsonl").write_text('{"question": "not scored"}\n')
    return folder


def write_humaneval(folder: Path, count: int = 2) -> Path:
    rows = [
        {
            "task_id": f"HumanEval/{n}",
            "prompt": ADD,
            "canonical_solution": "    return a + b\n",
            "test": TEST,
            "entry_point": "add",
        }
        for n in range(count)
    ]
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "HumanEval.jsonl").write_text(lines)
    return folder


def inputs(folder: Path, stage: str = "pretrain") -> dict[str, Any]:
    acquired = StageResult(stage="acquire", key="e", folder=folder / "benchmarks", manifest={})
    model = StageResult(stage=stage, key="m1", folder=folder / "model", manifest={})
    return {"model": model, "benchmarks": data_sets(acquired)}


def says(folder: Path, text: str, after: str) -> None:
    """A model that says `text` after a prompt that ends in `after`; no character stands twice."""
    chain = [after, *text, "<|im_end|>"]
    following = dict(itertools.pairwise(chain))
    write_bigram_model(folder / "model" / MODEL_FOLDER, following, max_position_embeddings=4096)


def test_word_problems_are_scored_by_lm_eval(context: Context, tmp_path: Path) -> None:
    """The model ends each prompt, "A:", with "7", which only lm-eval's lenient filter takes."""
    says(tmp_path, " 7", ":")
    write_gsm8k(tmp_path / "benchmarks" / "gsm8k", [7, 8, 7])
    config = EvaluateConfig(batch_size=2)
    done = evaluate(config, context=context, label="open", **inputs(tmp_path))
    result = json.loads((done.folder / "results.json").read_text())["gsm8k"]
    assert (result["num_questions"], result["num_right"], result["num_unparsed"]) == (3, 0, 3)
    assert result["other_filters"] == {"flexible-extract": pytest.approx(2 / 3)}
    assert result["chance"] == 0
    lines = (done.folder / "samples" / "gsm8k.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert [s["answer"] for s in samples] == [" 7"] * 3
    assert samples[1]["gold"].endswith("#### 8")
    assert samples[0]["prompt"].count("The answer is") == 8  # lm-eval's worked examples
    assert samples[0]["prompt"].endswith("How many?\nA:")
    for language in LANGUAGES:
        say = Writer(language)
        scores = ReportData(name="x", results={"base": {"gsm8k": result}})
        section = results_section(scores, lambda name: "", say)
        assert say("results.own_examples") in section and say("results.no_examples") not in section
    assert _eval_result("gsm8k", result).dataset_args == {}
    assert _eval_result("gsm8k", result).task_type == "text-generation"
    facts = Facts(model=done, scores=[(done, {"gsm8k": result})])
    card = _scores(facts, {"gsm8k": result}, Writer("en"), Loading())
    assert "| GSM8K | 0.0 (0.0 to" in card and "| the task's |" in card


def test_parts_cover_a_task_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.evaluate import open_answers

    monkeypatch.setattr(open_answers, "PART", 3)
    benchmark = read_open("gsm8k", write_gsm8k(tmp_path / "gsm8k", list(range(8))))
    settings = GenerationSettings(
        modes=[], max_new_tokens={}, num_fewshot=0, limit=7, model="m", dtype="float32"
    )
    jobs = list(
        open_answers.open_jobs(
            [benchmark], settings, chat=False, folder=tmp_path / "t", cache=tmp_path / "c"
        )
    )
    assert [(job.first, job.num_questions) for job in jobs] == [(0, 3), (3, 3), (6, 1)]
    assert len({job.answers for job in jobs}) == 3


def test_scoring_code_of_programs_is_left_out(tmp_path: Path) -> None:
    """lm-eval's own task imports `code_eval`, which runs programs in the evaluating process."""
    benchmark = read_open("humaneval", write_humaneval(tmp_path / "humaneval"))
    for chat in (False, True):
        task = task_without_data(benchmark.recipe, chat=chat)
        assert task["metric_list"] == [{"metric": "bypass"}]
        assert "include" not in task
        assert "!function" not in str(task)
        assert task["doc_to_target"] == "{{test}}\ncheck({{entry_point}})"
        write_open_task(benchmark, tmp_path / f"{chat}", chat=chat)
        assert "utils." not in (tmp_path / f"{chat}" / "humaneval.yaml").read_text()


def test_programs_are_put_together_as_lm_eval_does(tmp_path: Path) -> None:
    benchmark = read_open("humaneval", write_humaneval(tmp_path / "humaneval"))
    target = f"{TEST}\ncheck(add)"
    answers = [{"text": "    return a + b\n```\nIt adds.", "target": target}]
    plain, fenced = (next(programs(benchmark, answers, chat=chat)) for chat in (False, True))
    assert plain == f"{ADD}    return a + b\n```\nIt adds.\n{target}"
    assert fenced == f"{ADD}    return a + b\n\n{target}"


@pytest.fixture
def sandbox() -> None:
    try:
        check_sandbox()
    except ConfigError as error:
        pytest.skip(str(error))


def test_without_permission_no_program_runs(tmp_path: Path, monkeypatch: Any) -> None:
    ran: list[str] = []
    monkeypatch.setattr("tasks.evaluate.open_answers.run_program", ran.append)
    monkeypatch.setattr("tasks.evaluate.torchrun", lambda *a, **k: ran.append("generated"))
    says(tmp_path, "x", "\n")
    folder = write_humaneval(tmp_path / "benchmarks" / "humaneval")
    with pytest.raises(ConfigError, match="allow_code_execution: true"):
        run_stage(evaluate, tmp_path / "run", EvaluateConfig(), **inputs(tmp_path))
    (problem,) = benchmark_problems(EvaluateConfig(), {"humaneval": folder})
    assert "humaneval runs programs" in str(problem)
    # Only looked for in training texts: nothing is run.
    assert not list(benchmark_problems(EvaluateConfig(), {"humaneval": folder}, scored=False))
    assert not ran


def test_a_machine_without_a_sandbox_is_refused_before_anything_is_generated(
    tmp_path: Path, monkeypatch: Any
) -> None:
    def refuse() -> None:
        raise ConfigError("cannot be run apart")

    monkeypatch.setattr("tasks.evaluate.open_answers.check_sandbox", refuse)
    monkeypatch.setattr("tasks.evaluate.torchrun", lambda *a, **k: pytest.fail("generated"))
    says(tmp_path, "x", "\n")
    write_humaneval(tmp_path / "benchmarks" / "humaneval")
    with pytest.raises(ConfigError, match="cannot be run apart"):
        run_stage(
            evaluate,
            tmp_path / "run",
            EvaluateConfig(allow_code_execution=True),
            **inputs(tmp_path),
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gsm8k", "humaneval"])
def test_killed_half_way_it_keeps_what_is_answered(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the third of four parts is published; two are kept, and not answered again."""
    from tasks.evaluate import open_answers

    monkeypatch.setattr(open_answers, "PART", 1)
    says(tmp_path, " 7ab", ":" if name == "gsm8k" else "\n")
    folder = tmp_path / name
    if name == "gsm8k":
        write_gsm8k(folder, list(range(4)))
    else:
        write_humaneval(folder, count=4)
    benchmark = read_open(name, folder)

    def start(where: str, *, killed: bool = False) -> tuple[list[Path], int]:
        place = tmp_path / where
        place.mkdir(exist_ok=True)
        settings = GenerationSettings(
            modes=[], max_new_tokens={}, num_fewshot=0, limit=None, model="m", dtype="float32"
        )
        subjects = list(
            open_answers.open_jobs(
                [benchmark], settings, chat=False, folder=place / "tasks", cache=place
            )
        )
        job = EvaluateJob(
            model=str(tmp_path / "model" / MODEL_FOLDER),
            subjects=subjects,
            metrics=str(place / METRICS_FILE),
            chat=False,
            limit=None,
            batch_size=2,
            dtype="float32",
        )
        write_json(place / "job.json", asdict(job))
        fault = Fault("here", "os.rename", r"/answers/[0-9a-f]+\.jsonl$", 3)
        child = subprocess.run(
            python("model.entry.evaluate", place / "job.json"),
            cwd=ROOT,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                **(with_fault(place, fault) if killed else {}),
            },
            check=False,
        )
        return [Path(subject.answers) for subject in subjects], child.returncode

    whole, code = start("whole")
    assert code == 0
    answers, code = start("killed", killed=True)
    assert code == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in answers if path.exists()}
    assert len(kept) == 2
    assert all(read_answers(path) is not None for path in kept)
    again, code = start("killed")
    assert code == 0 and again == answers
    assert [path.read_bytes() for path in answers] == [path.read_bytes() for path in whole]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.slow
def test_programs_are_generated_and_run(context: Context, tmp_path: Path, sandbox: None) -> None:
    says(tmp_path, " return+ab", "\n")  # no character twice: it can only be wrong
    write_humaneval(tmp_path / "benchmarks" / "humaneval", count=1)
    config = EvaluateConfig(allow_code_execution=True)
    done = evaluate(config, context=context, label="code", **inputs(tmp_path))
    result = json.loads((done.folder / "results.json").read_text())["humaneval"]
    assert (result["num_questions"], result["num_right"]) == (1, 0)
    sample = json.loads((done.folder / "samples" / "humaneval.jsonl").read_text())
    assert sample["choice"] == "failed"


def test_right_programs_pass(tmp_path: Path, sandbox: None) -> None:
    from tasks.evaluate.open_answers import scored_open
    from tests.tasks.running import stage_run

    benchmark = read_open("humaneval", write_humaneval(tmp_path / "humaneval", count=3))
    target = f"{TEST}\ncheck(add)"
    texts = ["    return a + b\n", "    return a - b\n", "    while True: pass\n"]
    parts = {
        "00000": [
            {
                "index": n,
                "text": text,
                "target": target,
                "num_tokens": 5,
                "complete": True,
                "truncated": False,
                "metrics": {"none": {"bypass": None}},
            }
            for n, text in enumerate(texts)
        ]
    }
    run = stage_run(tmp_path / "run")
    config = EvaluateConfig(allow_code_execution=True)
    result = scored_open(run, config, benchmark, parts, chat=False)
    assert (result["num_right"], result["num_questions"]) == (1, 3)
    lines = (run.folder / "samples" / "humaneval.jsonl").read_text().splitlines()
    assert [json.loads(line)["choice"] for line in lines] == ["passed", "failed", "timed out"]


def test_bad_rows_are_named_or_left_out(tmp_path: Path) -> None:
    folder = write_gsm8k(tmp_path / "gsm8k", [1, 2])
    with (folder / "test.jsonl").open("a") as file:
        file.write('{"question": "no answer"}\n{"question": "", "answer": "1"}\n[1]\nnot json\n')
        file.write('{"question": 7, "answer": "#### 7"}\n')
    with pytest.raises(DataError, match=r"test\.jsonl, line 3: answer is absent"):
        read_open("gsm8k", folder)
    benchmark = read_open("gsm8k", folder, on_bad_row="skip")
    assert (len(benchmark.rows), len(benchmark.bad_rows)) == (2, 5)
    with pytest.raises(DataError, match="holds no file like"):
        read_open("gsm8k", [(folder / "train.jsonl", "train.jsonl")])


def test_rows_that_no_answer_could_pass_are_bad(tmp_path: Path) -> None:
    folder = write_gsm8k(tmp_path / "gsm8k", [1, 2])
    with (folder / "test.jsonl").open("a") as file:
        file.write('{"question": "How many?", "answer": "He has 3."}\n')
        file.write('{"question": "How many?", "answer": "He has 3.\\n#### three"}\n')
        file.write('{"question": "How many?", "answer": "He has 3.\\n#### 1,003"}\n')
    benchmark = read_open("gsm8k", folder, on_bad_row="skip")
    assert len(benchmark.rows) == 3
    assert [
        re.findall(r"line (\d): answer holds nothing like", row) for row in benchmark.bad_rows
    ] == [["3"], ["4"]]

    def program(number: int, **changes: str) -> str:
        row = {
            "task_id": f"t/{number}",
            "prompt": "def add(a, b):\n",
            "canonical_solution": "    return a + b\n",
            "test": "def check(add):\n    assert add(1, 2) == 3\n",
            "entry_point": "add",
        }
        return json.dumps({**row, **changes}) + "\n"

    rows = [
        program(1),
        program(1),
        program(2, entry_point="sub"),
        program(3, test="def test(add): pass\n"),
        program(4, test="def check(add:\n    pass\n"),
        program(5, canonical_solution="return a + b\n"),
        program(6),
    ]
    file = tmp_path / "HumanEval.jsonl"
    file.write_text("".join(rows))
    programs = read_open("humaneval", [(file, file.name)], on_bad_row="skip")
    assert [row["task_id"] for row in programs.rows] == ["t/1", "t/6"]
    for row, reason in zip(
        programs.bad_rows,
        [
            "line 2: task_id 't/1' was given",
            "no function 'sub'",
            "test holds",
            "never closed",
            "no Python",
        ],
        strict=True,
    ):
        assert reason in row


def test_their_questions_are_looked_for_in_training_texts(tmp_path: Path) -> None:
    folder = write_gsm8k(tmp_path / "gsm8k", [1, 2])
    questions = list(read_questions(folder, "gsm8k"))
    assert [q.id for q in questions] == ["gsm8k/test/0", "gsm8k/test/1"]
    assert questions[1].stem == "Tom has 2 pears and buys none. How many?"
    assert (questions[0].options, questions[0].answer) == ((), "He has.\n#### 1")


def test_real_word_problems_are_read(shared: Path) -> None:
    benchmark = read_open("gsm8k", shared / "data" / "eval" / "gsm8k")
    assert len(benchmark.rows) == 797
    assert not benchmark.bad_rows
    assert open_recipe("gsm8k").filter == "strict-match"
