"""Benchmark files: read strictly, from folders and archives, and written as lm-eval's tasks."""

import tarfile
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from lm_eval.tasks import TaskManager

from common.errors import DataError
from common.recipes import load_recipe
from corpus.benchmarks.lm_eval_tasks import lm_eval_tasks, num_known_subjects, write_tasks
from corpus.benchmarks.questions import BenchmarkRecipe, read_benchmark
from tests.tiny_benchmarks import write_benchmarks, write_ceval


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    return write_benchmarks(tmp_path / "benchmarks")


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
        ("2,\udcff,1,2,3,4,A", "line 4: question holds a NUL, or bytes that are not UTF-8"),
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
