"""Options are texts: from a file of any quoting to lm-eval's prompt nothing of them changes."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.tasks import TaskManager

from common.recipes import load_recipe
from corpus.benchmarks.lm_eval_tasks import write_tasks
from corpus.benchmarks.questions import BenchmarkRecipe, Question, parse_questions, read_benchmark
from tests.tiny_benchmarks import write_csv

VALUES = [
    *("None", "none", "NA", "N/A", "nan", "NaN", "null", "NULL", "inf", "-inf", "True", "false"),
    *("1.0", "1.50", "007", "+1", "1e5", "1_000", "0x10", "1,000", "-0", "½", "１２", "2024-01-01"),
    *('"', '""', "'", '"quoted"', 'a "b" c', ",", ",,,", "a,b", ";", "\t", "|", "\\", "\\n", "\\,"),
    *(
        "two\nlines",
        "\nfirst",
        "last\n",
        "a\r\nb",
        "a\rb",
        " leading",
        "trailing ",
        "\u3000全角\u3000",
    ),
    *("{{ A }}", "{% if x %}", "${x}", "#", "# no comment", "=1+1", "@x", "[1, 2]", "{'a': 1}"),
    *(
        "A",
        "B.",
        "答案：C",
        "中文，全角标点。",
        "e\u0301",
        "é",
        "\ufeffmark",
        "a\u200bb",
        "\x1b[0m",
        "😀",
    ),
]
"""Texts that readers of tables take for something else."""

visible = st.text(
    st.sampled_from([*"\"', \r\n\t;|\\{}%A1.0-中é\u3000"]), min_size=1, max_size=12
).filter(lambda text: bool(text.strip()) and text.count(",") + text.count("\n") < 4)
cells = st.one_of(st.sampled_from([v for v in VALUES if v.strip()]), visible)
questions = st.builds(
    lambda text, options, answer: Question(text=text, options=tuple(options), answer=answer),
    cells,
    st.lists(cells, min_size=4, max_size=4),
    st.sampled_from("ABCD"),
)


def as_csv(recipe: BenchmarkRecipe, asked: list[Question], **style: Any) -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, **style)
    if recipe.header:
        writer.writerow(recipe.columns)
    writer.writerows([q.text, *q.options, q.answer] for q in asked)
    return file.getvalue()


@pytest.mark.parametrize("name", ["ceval", "cmmlu", "mmlu"])
@settings(max_examples=40)
@given(
    asked=st.lists(questions, min_size=1, max_size=4),
    # With other line ends Python 3.11 leaves a carriage return without quotes, which ends the row.
    style=st.sampled_from(
        [(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\n"), (csv.QUOTE_ALL, "\r\n")]
    ),
)
def test_the_reader_keeps_every_character(
    name: str, asked: list[Question], style: tuple[int, str]
) -> None:
    recipe = load_recipe(BenchmarkRecipe, "evals", name)
    text = as_csv(recipe, asked, quoting=style[0], lineterminator=style[1])
    assert list(parse_questions(recipe, "a.csv", text)) == asked


def rendered(folder: Path, name: str, asked: list[Question]) -> list[str]:
    """lm-eval's prompts for the questions of one subject, with one worked example."""
    recipe = load_recipe(BenchmarkRecipe, "evals", name)
    for split in (recipe.fewshot_split, recipe.scored_split):
        path = folder / recipe.file.format(split=split, subject="law")
        head = [list(recipe.columns)] if recipe.header else []
        write_csv(path, head + [[q.text, *q.options, q.answer] for q in asked])
    benchmark = read_benchmark(name, recipe, folder)
    tasks = write_tasks(benchmark, folder / "tasks", num_fewshot=1)
    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    (task,) = manager.load(list(tasks))["tasks"].values()
    return [task.doc_to_text(doc) for doc in task.eval_docs]


@pytest.mark.parametrize("name", ["ceval", "mmlu"])
def test_lm_eval_shows_every_character(tmp_path: Path, name: str) -> None:
    values = [value for value in VALUES if value.strip()]
    asked = [
        Question(text=f"{value}?", options=(value, f"x{value}", value, f"{value}y"), answer="B")
        for value in values
    ]
    prompts = rendered(tmp_path, name, asked)
    assert len(prompts) == len(asked)
    for question, prompt in zip(asked, prompts, strict=True):
        a, b, c, d = question.options
        end = "Answer:" if name == "mmlu" else "答案："
        # lm-eval strips the question, and nothing else.
        expected = f"{question.text.strip()}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\n{end}"
        assert prompt == expected


@settings(max_examples=3)
@given(asked=st.lists(questions, min_size=20, max_size=20))
def test_lm_eval_shows_any_text(
    tmp_path_factory: pytest.TempPathFactory, asked: list[Question]
) -> None:
    prompts = rendered(tmp_path_factory.mktemp("any"), "cmmlu", asked)
    for question, prompt in zip(asked, prompts, strict=True):
        a, b, c, d = question.options
        expected = f"{question.text.strip()}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\n答案："
        assert prompt == expected
