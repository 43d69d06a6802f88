"""The stage `evaluate`: every question counts, however many processes answer."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.config import validate
from common.errors import ConfigError, DataError
from corpus.benchmarks.scoring import OTHER_CATEGORY
from model.evaluate.job import EvaluateJob
from model.train.run.folder import MODEL_FOLDER
from tasks.core.stage import Context, StageResult, StageRun
from tasks.evaluate import EvaluateConfig, evaluate
from tests.tasks.running import data_sets, run_stage
from tests.tiny_benchmarks import write_benchmarks, write_model


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    return write_benchmarks(tmp_path / "benchmarks")


@pytest.fixture
def inputs(tmp_path: Path, benchmarks: Path, model_folder: Path) -> dict[str, Any]:
    """Inputs of the stage: a model that SFT made, and the benchmarks."""
    trained = tmp_path / "sft"
    trained.mkdir()
    (trained / MODEL_FOLDER).symlink_to(model_folder)
    return {
        "model": StageResult(stage="sft", key="m1", folder=trained, manifest={}),
        "benchmarks": data_sets(
            StageResult(stage="acquire", key="e1", folder=benchmarks, manifest={})
        ),
    }


def test_check_refuses_bad_values() -> None:
    validate(EvaluateConfig(), "evaluate")
    wrong: list[dict[str, Any]] = [
        {"num_fewshot": -1},
        {"limit": 0},
        {"batch_size": 0},
        {"num_processes": 0},
        {"modes": []},
        {"modes": ["likelihood", "likelihood"]},
    ]
    for changes in wrong:
        with pytest.raises(ConfigError):
            validate(EvaluateConfig(**changes), "evaluate")


def test_the_stage_counts_every_question_and_answers_none_twice(
    context: Context, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EvaluateConfig(num_fewshot=1, batch_size=8)
    done = evaluate(config, context=context, label="tiny", **inputs)
    results = json.loads((done.folder / "results.json").read_text())
    assert {name: r["num_questions"] for name, r in results.items()} == {"ceval": 11, "mmlu": 6}
    assert results["ceval"]["subjects"]["valley_lore"]["num_questions"] == 4
    assert results["ceval"]["num_subjects_known"] == 52
    assert results["ceval"]["chat"] is True  # the model comes from SFT
    for name, result in results.items():
        path = done.folder / "samples" / f"{name}.jsonl"
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        right = sum(sample["gold"] == sample["choice"] for sample in samples)
        assert result["accuracy_micro"] == right / len(samples)
        assert all(len(sample["log_likelihoods"]) == 4 for sample in samples)
        low, high = result["interval_95"]
        assert low <= result["accuracy_micro"] <= high
    first = json.loads((done.folder / "samples" / "ceval.jsonl").read_text().splitlines()[1])
    assert first["options"] == ["1", "007", "甲，乙", "1.50"]
    assert first["gold"] == "B"
    assert not (done.folder / ".scratch").exists()
    accuracy = done.manifest["notes"]["accuracy"]["ceval"]
    assert accuracy["subjects"]["law"]["num_questions"] == 7
    assert accuracy["categories"]["Humanities"]["num_questions"] == 7
    assert accuracy["categories"][OTHER_CATEGORY]["num_subjects"] == 1  # valley_lore

    # Another configuration with the same model and questions.
    monkeypatch.setattr("tasks.evaluate.torchrun", None)
    inputs["benchmarks"] = {"ceval": inputs["benchmarks"]["ceval"]}
    fewer = EvaluateConfig(num_fewshot=1, batch_size=3, limit=100)
    again = evaluate(fewer, context=context, label="again", **inputs)
    assert again.key != done.key
    name = "samples/ceval.jsonl"
    assert (again.folder / name).read_bytes() == (done.folder / name).read_bytes()


SETTINGS: dict[str, Any] = {
    "num_fewshot": 2,
    "limit": 4,
    "chat": True,
    "dtype": "bfloat16",
    "batch_size": 3,
    "num_processes": 2,
    "on_bad_row": "skip",
    "answer_tokens": 9,
}
NO_MATTER = ("batch_size", "num_processes", "on_bad_row", "answer_tokens", "mmlu beside", "note")
"""Changes that are no reason to answer a question again."""


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        *("model", "tokenizer", "chat template", "question", "example", "lm-eval", "mmlu beside"),
        *("note", *SETTINGS),
    ],
)
def test_what_decides_about_answers_decides_about_their_file(
    inputs: dict[str, Any],
    benchmarks: Path,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    jobs: list[EvaluateJob] = []

    def take(run: StageRun, module: str, job: EvaluateJob, **_: object) -> None:
        jobs.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.evaluate.torchrun", take)
    both = inputs["benchmarks"]
    inputs["benchmarks"] = {"ceval": both["ceval"]}
    config = EvaluateConfig(num_fewshot=1, chat=False)
    other = config
    with pytest.raises(KeyboardInterrupt):
        run_stage(evaluate, tmp_path / "one", config, **inputs)
    changed = tmp_path / "changed" / MODEL_FOLDER
    shutil.copytree(model_folder, changed)
    inputs["model"] = replace(inputs["model"], folder=changed.parent)
    if change == "model":
        with (changed / "model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"!")
    elif change == "tokenizer":
        append(changed / "tokenizer_config.json", " ")
    elif change == "chat template":
        append(changed / "chat_template.jinja", " ")
    elif change == "note":
        (changed / "README.md").write_text("A note.")
    elif change == "mmlu beside":
        inputs["benchmarks"] = both
    elif change == "lm-eval":
        monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9")
    elif change == "example":
        law = benchmarks / "ceval" / "dev" / "law_dev.csv"
        law.write_text(law.read_text().replace("law 第0题", "law 第零题"))
    elif change == "question":
        law = benchmarks / "ceval" / "val" / "law_val.csv"
        law.write_text(law.read_text().replace("law 第3题", "law 第三题"))
    else:
        other = replace(config, **{change: SETTINGS[change]})
    with pytest.raises(KeyboardInterrupt):
        run_stage(evaluate, tmp_path / "other", other, **inputs)
    one, two = (
        [Path(s.answers).name for s in job.subjects if s.benchmark == "ceval"] for job in jobs
    )
    same = [a == b for a, b in zip(one, two, strict=True)]
    # Law has seven questions, valley lore four.
    of_law = ("question", "example", "limit")
    assert same == [change in NO_MATTER, change in (*NO_MATTER, *of_law)]


def test_bad_rows_are_refused_or_left_out_and_counted(
    context: Context, inputs: dict[str, Any], benchmarks: Path
) -> None:
    with (benchmarks / "ceval" / "val" / "law_val.csv").open("a") as file:
        file.write('"7","q","1","2","","4","A"\n')
    config = EvaluateConfig(num_fewshot=0, on_bad_row="skip")
    with pytest.raises(DataError, match=r"law_val\.csv, line 9: the option C is empty"):
        run_stage(evaluate, benchmarks.parent / "run", EvaluateConfig(), **inputs)
    done = evaluate(config, context=context, label="tiny", **inputs)
    result = json.loads((done.folder / "results.json").read_text())["ceval"]
    assert (result["num_questions"], result["num_bad_rows"]) == (11, 1)
    assert result["bad_rows"][0].endswith("law_val.csv, line 9: the option C is empty")
    assert done.manifest["counts"]["bad_rows"] == 1
    assert done.manifest["counts"]["questions"] == 17


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::model.soft_moe.LeakWarning")
@pytest.mark.parametrize("routing", ["token", "dense", "sequence", "reference_norm"])
def test_processes_and_batch_sizes_change_no_figure(
    inputs: dict[str, Any], tmp_path: Path, routing: str
) -> None:
    trained = tmp_path / routing
    write_model(trained / MODEL_FOLDER, routing=routing)
    inputs["model"] = replace(inputs["model"], folder=trained)
    found = []
    for num_processes, batch_size in itertools.product((1, 2), (1, 7, 32)):
        config = EvaluateConfig(
            modes=["likelihood", "answer_first", "chain_of_thought"],
            num_fewshot=2,
            num_processes=num_processes,
            batch_size=batch_size,
            answer_tokens=6,
            reasoning_tokens=12,
        )
        run = run_stage(evaluate, tmp_path / f"{num_processes} {batch_size}", config, **inputs)
        samples = [
            json.loads(line)
            for name in ("ceval", "mmlu")
            for mode in ("", "-answer_first", "-chain_of_thought")
            for line in (run.folder / "samples" / f"{name}{mode}.jsonl").read_text().splitlines()
        ]
        scores = [list(sample.pop("log_likelihoods", {}).values()) for sample in samples]
        found.append((samples, (run.folder / "results.json").read_text(), scores))
    for samples, results, scores in found[1:]:
        assert samples == found[0][0]
        assert results == found[0][1]
        for one, other in zip(scores, found[0][2], strict=True):
            assert one == pytest.approx(other, abs=2e-4)


def test_a_model_without_chat_template_is_refused_for_chat(
    inputs: dict[str, Any], model_folder: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain" / MODEL_FOLDER
    AutoModelForCausalLM.from_pretrained(model_folder).save_pretrained(plain)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(plain)
    inputs["model"] = StageResult(stage="pretrain", key="m2", folder=plain.parent, manifest={})
    config = EvaluateConfig(num_fewshot=0, chat=True)
    with pytest.raises(ConfigError, match="has no chat template"):
        run_stage(evaluate, tmp_path / "run", config, **inputs)
