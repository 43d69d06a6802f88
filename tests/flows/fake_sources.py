"""Fakes of the files that shipped configurations name: small, and in each one's own format.

The locations stay as they are shipped; only the project's root is another folder, so a wrong
pattern or a file that a recipe would not take is found.
"""

import gzip
import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from common.recipes import read_yaml, recipe_path
from common.urls import is_url
from corpus.chats.recipes import load_set
from corpus.sources.datasets import HUBS, SAMPLE_DATA
from flows.config import KINDS
from tests.tiny_benchmarks import write_ceval, write_csv, write_mmlu

QUESTION, ANSWER = "天空为什么是蓝色的？请用一句话回答。", "因为空气把蓝色的光散射得最多。"

ROWS: dict[str, list[dict[str, Any]]] = {
    "alpaca": [{"instruction": QUESTION, "input": "", "output": ANSWER}],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]}
    ],
    "sharegpt_pair": [
        {
            "conversations": [{"from": "human", "value": QUESTION}],
            "chosen": {"from": "gpt", "value": ANSWER},
            "rejected": {"from": "gpt", "value": "不知道。"},
        }
    ],
    "question_answer": [{"question": "How many are two and two?", "answer": "They are four."}],
    "llm_adapters": [
        {
            "instruction": "Please choose the answer to the question: Which one is a fruit?\n\n"
            "Answer1: stone Answer2: apple\n\nAnswer format: answer1/answer2",
            "input": "",
            "output": "the correct answer is answer2",
            "answer": "answer2",
        }
    ],
    "wanjuan_exam": [
        {
            "q_type": "单选题",
            "q_main": "哪一个是水果？",
            "option_a": "石头",
            "option_b": "苹果",
            "std_ans": "B",
            "answer_detail": "苹果是水果，石头不是。",
        }
    ],
}

LOGIQA = """
b
All stones are hard.
Which one follows?
A.No stone is hard.
B.This stone is hard.
C.This stone is soft.
D.This stone floats.
"""


def write_fakes(config: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a file for each location on this machine that a configuration names, and make
    `project` the root that relative ones start at."""
    project.mkdir()
    for folder in ("data_recipes", "corpus"):  # recipes name operators by their path
        (project / folder).symlink_to(config.parents[1] / folder)
    monkeypatch.setattr("common.paths.ROOT", project)
    data = read_yaml(config)
    # Benchmarks first: a corpus may be some of their files.
    for kind, key in [("evals", "decontaminate"), ("evals", "benchmarks"), *KINDS.items()]:
        for name, location in (data.get(key) or {}).items():
            if location not in (*HUBS, SAMPLE_DATA) and not is_url(location):
                _write(kind, name, project / location)


def _write(kind: str, name: str, place: Path) -> None:
    if kind == "evals":
        if not place.exists():
            _write_benchmark(name, place)
        return
    if kind == "corpora":
        path = _file(place, "part.jsonl")
        _fill(path, '{"text": "这是一个文本。"}\n')
        return
    recipe = load_set(kind, name)  # type: ignore[arg-type]
    file = _file(place, recipe.files[0].rpartition("/")[2].replace("*", "") or "part.jsonl")
    taken = [p for p in recipe.files if fnmatch(f"/{file.name}", f"*/{p.rpartition('/')[2]}")]
    assert taken, f"{name}: the recipe would not take {file.name}, which its location names"
    if recipe.format == "logiqa":
        _fill(file, LOGIQA)
        return
    rows = [json.dumps(row, ensure_ascii=False) for row in ROWS[recipe.format]]
    in_lines = ".jsonl" in file.name
    _fill(file, "\n".join(rows) + "\n" if in_lines else f"[{', '.join(rows)}]")


def _file(place: Path, name: str) -> Path:
    """A file at a location: itself, or one in the folder or below the pattern that it is."""
    parts = [part.replace("*", "x") for part in place.parts if part != "**"]
    if "*" not in place.name:
        file = Path(*parts)
        return file if file.suffix else file / _named(name)
    suffix = place.name.rpartition("*")[2]
    stem = _named(name).partition(".")[0]
    return Path(*parts[:-1]) / f"{stem}{suffix}"


def _named(name: str) -> str:
    return f"part{name}" if name.startswith(".") else name


def _fill(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def _write_benchmark(name: str, folder: Path) -> None:
    if name == "ceval":
        write_ceval(folder, {"law": 3})
    elif name == "mmlu":
        write_mmlu(folder, {"anatomy": 3})
    else:
        assert name == "cmmlu", f"no fake of {name}: {recipe_path('evals', name)}"
        header = ["", "Question", "A", "B", "C", "D", "Answer"]
        for split, count in (("dev", 5), ("test", 3)):
            rows = [[str(n), f"第{n}题", "甲", "乙", "丙", "丁", "A"] for n in range(count)]
            write_csv(folder / split / "anatomy.csv", [header, *rows])
