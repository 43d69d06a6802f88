"""Benchmarks: read strictly, prompted as by lm-eval, scored as by an independent forward pass."""

import json
import math
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval import evaluate as lm_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from scipy.stats import binomtest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from common.config import validate
from common.errors import ConfigError, DataError
from common.recipes import load_recipe
from corpus.benchmarks.lm_eval_tasks import lm_eval_tasks, num_known_subjects, write_tasks
from corpus.benchmarks.questions import BenchmarkRecipe, read_benchmark
from corpus.benchmarks.scoring import score, wilson_interval
from model import SteelConfig, SteelForCausalLM
from model.entry import evaluate as entry
from model.evaluate.job import BenchmarkJob, EvaluateJob
from model.train.run.folder import METRICS_FILE, MODEL_FOLDER
from tasks.core.stage import Context, StageResult
from tasks.evaluate import EvaluateConfig, evaluate
from tests.tasks.running import run_stage

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Steel of random weights with a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", "<|im_end|>", *alphabet])}
    # One merge, so that " A" is a token of its own, as it is in Qwen's vocabulary.
    merges = [("Ġ", letter) for letter in "ABCD"]
    vocabulary |= {"".join(pair): len(vocabulary) + i for i, pair in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = CHATML
    fast.save_pretrained(folder)
    torch.manual_seed(3)
    config = SteelConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        expert_intermediate_size=16,
        num_experts=2,
        max_position_embeddings=2048,
        initializer_range=0.3,
        eos_token_id=0,
        pad_token_id=0,
    )
    SteelForCausalLM(config).save_pretrained(folder)
    return folder


def row(number: int, subject: str) -> list[str]:
    """One question: text, four options of which one is a bare number, answer."""
    return [
        f'{subject} 第{number}题, "引号"',
        str(number),
        "007",
        "甲，乙",
        "1.50",
        "ABCD"[number % 4],
    ]


def write_csv(path: Path, rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in cells) for cells in rows]
    path.write_text("\r\n".join(quoted) + "\r\n", encoding="utf-8")


def write_ceval(folder: Path, subjects: dict[str, int], num_dev: int = 5) -> None:
    header = ["id", "question", "A", "B", "C", "D", "answer"]
    for subject, num_questions in subjects.items():
        for split, count in (("dev", num_dev), ("val", num_questions)):
            rows = [[str(i), *row(i, subject)] for i in range(count)]
            write_csv(folder / split / f"{subject}_{split}.csv", [header, *rows])


def write_mmlu(folder: Path, subjects: dict[str, int]) -> None:
    for subject, num_questions in subjects.items():
        for split, count in (("dev", 5), ("test", num_questions)):
            write_csv(
                folder / split / f"{subject}_{split}.csv", [row(i, subject) for i in range(count)]
            )


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    """C-Eval with a subject lm-eval knows and one it doesn't, and MMLU with one subject."""
    folder = tmp_path / "benchmarks"
    write_ceval(folder / "ceval", {"law": 7, "valley_lore": 4})
    write_mmlu(folder / "mmlu", {"anatomy": 6})
    return folder


@pytest.fixture
def job(benchmarks: Path, model_folder: Path, tmp_path: Path) -> Callable[..., EvaluateJob]:
    """A job over both benchmarks, with changes."""

    def make(name: str, *, num_fewshot: int = 2, **changes: Any) -> EvaluateJob:
        jobs = []
        for title in ("ceval", "mmlu"):
            recipe = load_recipe(BenchmarkRecipe, "evals", title)
            benchmark = read_benchmark(title, recipe, benchmarks / title)
            folder = tmp_path / name / title
            jobs.append(
                BenchmarkJob(
                    name=title,
                    folder=str(folder),
                    tasks=write_tasks(benchmark, folder, num_fewshot=num_fewshot),
                    num_questions=benchmark.num_questions(None),
                )
            )
        values: dict[str, Any] = {
            "model": str(model_folder),
            "benchmarks": jobs,
            "chat": False,
            "limit": None,
            "answers": str(tmp_path / name / "answers"),
            "batch_size": 4,
            "dtype": "float32",
            "metrics": str(tmp_path / name / METRICS_FILE),
        }
        return EvaluateJob(**(values | changes))

    return make


def answers_of(job: EvaluateJob) -> list[dict[str, Any]]:
    entry.run(job, entry.load(job, torch.device("cpu")))
    lines = [
        (Path(job.answers) / f"{b.name}.jsonl").read_text().splitlines() for b in job.benchmarks
    ]
    return [json.loads(line) for of_one in lines for line in of_one]


# --- scores


def test_wilson_interval_is_scipys() -> None:
    for right, total in ((0, 1), (1, 1), (3, 10), (30, 100), (602, 602), (150, 602)):
        reference = binomtest(right, total).proportion_ci(0.95, method="wilson")
        assert wilson_interval(right, total) == pytest.approx(
            (reference.low, reference.high), abs=1e-12
        )


@given(st.integers(0, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_stays_in_bounds(case: tuple[int, int]) -> None:
    right, total = case
    low, high = wilson_interval(right, total)
    assert 0 <= low <= high <= 1
    assert total == 0 or low <= right / total <= high


def test_micro_counts_questions_and_macro_counts_subjects() -> None:
    sample = {"truncated": False, "gold": "A"}
    samples = [{**sample, "subject": "small", "choice": "A"}]
    samples += [{**sample, "subject": "large", "choice": c} for c in "ABBB"]
    result = score(samples)
    assert result["accuracy_micro"] == 2 / 5
    assert result["accuracy_macro"] == (1 + 1 / 4) / 2
    assert result["subjects"]["large"] == {"accuracy": 0.25, "num_questions": 4}


# --- reading


def test_every_real_question_is_read(shared: Path) -> None:
    for name, subjects, questions, known in (
        ("ceval", 26, 602, 52),
        ("cmmlu", 34, 6003, 67),
        ("mmlu", 29, 7490, 57),
    ):
        recipe = load_recipe(BenchmarkRecipe, "evals", name)
        benchmark = read_benchmark(name, recipe, shared / "data" / "eval" / name)
        assert len(benchmark.subjects) == subjects
        assert benchmark.num_questions(None) == questions
        assert num_known_subjects(recipe) == known
        assert all(len(splits[recipe.fewshot_split]) == 5 for splits in benchmark.subjects.values())
        # Every subject of the originals has its own prompt in lm-eval.
        assert all(
            (lm_eval_tasks() / recipe.task.format(subject=s)).is_file() for s in benchmark.subjects
        )


def test_numbers_stay_text(benchmarks: Path, tmp_path: Path) -> None:
    for name, column in (("ceval", "A"), ("mmlu", "choices")):
        benchmark = read_benchmark(
            name, load_recipe(BenchmarkRecipe, "evals", name), benchmarks / name
        )
        tasks = write_tasks(benchmark, tmp_path / name, num_fewshot=5)
        dataset = TaskManager(include_path=str(tmp_path / name), include_defaults=False).load(
            [next(iter(tasks))]
        )["tasks"]
        document = next(iter(dataset.values())).eval_docs[1]
        first = document["A"] if column == "A" else document["choices"][0]
        assert first == "1"
        assert (document["B"] if column == "A" else document["choices"][1]) == "007"
        parquet = next((tmp_path / name).rglob("*.parquet"))
        assert "int" not in str(pq.read_schema(parquet).field(column).type)


def test_archives_hold_the_same_benchmarks(benchmarks: Path, tmp_path: Path) -> None:
    for name in ("ceval", "mmlu"):
        recipe = load_recipe(BenchmarkRecipe, "evals", name)
        plain = read_benchmark(name, recipe, benchmarks / name)
        packed = tmp_path / "packed" / name
        packed.mkdir(parents=True)
        files = sorted((benchmarks / name).rglob("*.csv"))
        if name == "ceval":
            with zipfile.ZipFile(packed / "ceval-exam.zip", "w") as archive:
                for file in files:
                    archive.write(file, file.relative_to(benchmarks / name))
                archive.writestr("__MACOSX/val/._law_val.csv", b"\x00\x05\x16\x07")
        else:
            with tarfile.open(packed / "data.tar", "w") as tar:
                for file in files:
                    tar.add(file, Path("data") / file.relative_to(benchmarks / name))
        assert read_benchmark(name, recipe, packed).subjects == plain.subjects


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("2,too few,1,2,3", "line 4: 5 fields instead of 7"),
        ("2,q,1,2,3,4,E", "line 4: the answer is 'E'"),
        ("2,q,1,2,3,4,", "line 4: the answer is ''"),
        ("2,  ,1,2,3,4,A", "line 4: the question is empty"),
        ('2,"never closed,1,2,3,4,A', "line 4: not valid CSV"),
        ("2,\udcff,1,2,3,4,A", "line 4: not UTF-8"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    write_ceval(tmp_path, {"law": 1})
    path = tmp_path / "val" / "law_val.csv"
    # The first row spans two lines: the message must count lines, not rows.
    text = 'id,question,A,B,C,D,answer\n0,"two\nlines",1,2,3,4,A\n' + line + "\n"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=complaint) as caught:
        read_benchmark("ceval", load_recipe(BenchmarkRecipe, "evals", "ceval"), tmp_path)
    assert "law_val.csv" in str(caught.value)


def test_what_is_missing_is_named(tmp_path: Path, benchmarks: Path) -> None:
    recipe = load_recipe(BenchmarkRecipe, "evals", "ceval")
    with pytest.raises(DataError, match="were not acquired"):
        read_benchmark("ceval", recipe, tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no file like val/"):
        read_benchmark("ceval", recipe, benchmarks / "ceval" / "dev")
    (benchmarks / "ceval" / "val" / "law_val.csv").write_text("id,text,A,B,C,D,answer\n")
    with pytest.raises(DataError, match="line 1: no column question"):
        read_benchmark("ceval", recipe, benchmarks / "ceval")
    (benchmarks / "mmlu" / "dev" / "anatomy_dev.csv").unlink()
    benchmark = read_benchmark(
        "mmlu", load_recipe(BenchmarkRecipe, "evals", "mmlu"), benchmarks / "mmlu"
    )
    with pytest.raises(DataError, match="anatomy has 0 worked examples"):
        write_tasks(benchmark, tmp_path / "tasks", num_fewshot=1)


def test_check_refuses_bad_values() -> None:
    validate(EvaluateConfig(), "evaluate")
    for changes in (
        {"benchmarks": []},
        {"benchmarks": ["ceval", "ceval"]},
        {"benchmarks": ["cevil"]},
        {"num_fewshot": -1},
        {"limit": 0},
        {"batch_size": 0},
        {"num_processes": 0},
    ):
        with pytest.raises(ConfigError):
            validate(EvaluateConfig(**changes), "evaluate")


# --- answering


@pytest.mark.parametrize("chat", [False, True])
def test_choices_are_those_of_a_direct_forward_pass(
    job: Callable[..., EvaluateJob], model_folder: Path, chat: bool
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


def test_likelihoods_are_those_of_lm_evals_own_model(job: Callable[..., EvaluateJob]) -> None:
    ours = answers_of(job("ours"))
    stock = job("stock")
    lm = HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(stock.model),
        tokenizer=AutoTokenizer.from_pretrained(stock.model),
        backend="causal",
        batch_size=4,
    )
    theirs = []
    for benchmark in stock.benchmarks:
        manager = TaskManager(include_path=benchmark.folder, include_defaults=False)
        samples = lm_evaluate(lm, manager.load(list(benchmark.tasks)), bootstrap_iters=0)["samples"]
        for task in benchmark.tasks:
            theirs += sorted(samples[task], key=lambda s: s["doc_id"])
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        reference = [logp for logp, _ in other["filtered_resps"]]
        assert one["log_likelihoods"] == pytest.approx(reference, abs=2e-4)
        assert one["right"] == (other["acc"] == 1.0)


def test_prompts_are_lm_evals(job: Callable[..., EvaluateJob]) -> None:
    by_subject = {a["subject"]: a["prompt"] for a in answers_of(job("prompts"))}
    assert by_subject["law"].startswith("以下是中国关于法学的单项选择题")
    assert by_subject["law"].count("答案：") == 3  # two worked examples and the question
    assert by_subject["law"].count("答案： ") == 2
    assert "valley lore" in by_subject["valley_lore"]
    assert by_subject["anatomy"].endswith("Answer:")


def test_batch_size_changes_nothing(job: Callable[..., EvaluateJob]) -> None:
    single = answers_of(job("single", batch_size=1))
    batched = answers_of(job("batched", batch_size=7))
    for one, other in zip(single, batched, strict=True):
        assert one["log_likelihoods"] == pytest.approx(other["log_likelihoods"], abs=2e-4)
        assert one["right"] == other["right"]


def test_finished_benchmarks_are_kept(job: Callable[..., EvaluateJob]) -> None:
    task = job("resume")
    complete = answers_of(task)
    answers = Path(task.answers)
    marked = answers / "ceval.jsonl"
    marked.write_text(marked.read_text().replace('"index": 0', '"index": 99'))
    before = marked.read_text()
    (answers / "mmlu.jsonl").unlink()
    again = answers_of(task)
    assert marked.read_text() == before
    assert again[-6:] == complete[-6:]
    steps = [json.loads(line)["step"] for line in Path(task.metrics).read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps[-1] == 17


def test_prompts_that_do_not_fit_are_counted(
    job: Callable[..., EvaluateJob], model_folder: Path
) -> None:
    task = job("long", num_fewshot=2)
    lm = entry.load(task, torch.device("cpu"))
    lengths = [len(lm.tok_encode(a["prompt"])) for a in answers_of(task)]
    limit = sorted(lengths)[len(lengths) // 2]
    lm.model.config.max_position_embeddings = limit
    short = job("short", num_fewshot=2)
    entry.run(short, lm)
    lines = [(Path(short.answers) / f"{b.name}.jsonl").read_text() for b in short.benchmarks]
    cut = [json.loads(line)["truncated"] for line in "".join(lines).splitlines()]
    # The context holds the prompt but for the letter, which is only predicted.
    assert cut == [length > limit for length in lengths]
    assert any(cut)
    assert not all(cut)


def test_a_diverged_model_is_refused(job: Callable[..., EvaluateJob]) -> None:
    task = job("nan")
    lm = entry.load(task, torch.device("cpu"))
    with torch.no_grad():
        lm.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(DataError, match="not finite"):
        entry.run(task, lm)
    assert not list(Path(task.answers).glob("*.jsonl"))


# --- the stage


@pytest.fixture
def inputs(tmp_path: Path, benchmarks: Path, model_folder: Path) -> dict[str, StageResult]:
    """Inputs of the stage: a model that SFT made, and the benchmarks."""
    trained = tmp_path / "sft"
    trained.mkdir()
    (trained / MODEL_FOLDER).symlink_to(model_folder)
    return {
        "model": StageResult(stage="sft", key="m1", folder=trained, manifest={}),
        "benchmarks": StageResult(stage="acquire", key="e1", folder=benchmarks, manifest={}),
    }


def test_the_stage_counts_every_question(context: Context, inputs: dict[str, StageResult]) -> None:
    config = EvaluateConfig(benchmarks=["ceval", "mmlu"], num_fewshot=1, batch_size=8)
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


@pytest.mark.slow
def test_two_processes_answer_like_one(context: Context, inputs: dict[str, StageResult]) -> None:
    samples = []
    for num_processes in (1, 2):
        config = EvaluateConfig(benchmarks=["ceval"], num_fewshot=0, num_processes=num_processes)
        done = evaluate(config, context=context, label=f"{num_processes}", **inputs)
        samples.append((done.folder / "samples" / "ceval.jsonl").read_text().splitlines())
    for one, other in zip(*samples, strict=True):
        left, right = json.loads(one), json.loads(other)
        scores = [side.pop("log_likelihoods") for side in (left, right)]
        assert scores[0] == pytest.approx(scores[1], abs=2e-4)
        assert left == right


def test_a_model_without_chat_template_is_refused_for_chat(
    inputs: dict[str, StageResult], model_folder: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain" / MODEL_FOLDER
    AutoModelForCausalLM.from_pretrained(model_folder).save_pretrained(plain)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(plain)
    inputs["model"] = StageResult(stage="pretrain", key="m2", folder=plain.parent, manifest={})
    config = EvaluateConfig(benchmarks=["mmlu"], num_fewshot=0, chat=True)
    with pytest.raises(ConfigError, match="has no chat template"):
        run_stage(evaluate, tmp_path / "run", config, **inputs)
