"""Questions that tests plant in texts, and an index of them."""

import random
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st
from opencc import OpenCC

from corpus.decontaminate import BenchmarkQuestion, ContaminationConfig, Index

POEM = BenchmarkQuestion(
    benchmark="cmmlu",
    id="poetry/test/0",
    stem="“落霞与孤鹜齐飞，秋水共长天一色”出自下列哪一篇文章？这篇文章的作者是____。",
    options=("《滕王阁序》王勃", "《岳阳楼记》范仲淹", "《醉翁亭记》欧阳修", "《赤壁赋》苏轼"),
)
SHORT = BenchmarkQuestion(
    benchmark="ceval",
    id="physics/val/3",
    stem="光在真空中的速度约为____。",
    options=("3×10^8米每秒", "3×10^5米每秒", "340米每秒", "1500米每秒"),
)
ENGLISH = BenchmarkQuestion(
    benchmark="mmlu",
    id="anatomy/test/7",
    stem="Which of these nerves carries sensation from the front two thirds of the tongue?",
    options=("The lingual nerve", "The vagus nerve", "The facial nerve", "The optic nerve"),
)
TINY = BenchmarkQuestion(
    benchmark="ceval", id="physics/val/4", stem="1+1=", options=("1", "2", "3", "4")
)
FOUND = (POEM, SHORT, ENGLISH)
CONFIG = ContaminationConfig()
INDEX = Index.build((*FOUND, TINY), CONFIG)
TO_TRADITIONAL = OpenCC("s2t").convert


def found(text: str, index: Index = INDEX) -> set[str]:
    return {match.question_id for match in index.find(text)}


def asked(question: BenchmarkQuestion) -> str:
    lines = (f"{letter}. {o}" for letter, o in zip("ABCD", question.options, strict=True))
    return "\n".join((question.stem, *lines))


TEXT = st.text(max_size=200)


def write_benchmarks(folder: Path, questions: tuple[BenchmarkQuestion, ...]) -> None:
    """Benchmark files as the benchmarks' authors lay them out."""
    for q in questions:
        subject, split, _ = q.id.split("/")
        name = f"{subject}.csv" if q.benchmark == "cmmlu" else f"{subject}_{split}.csv"
        path = folder / q.benchmark / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        letters = "A,B,C,D"
        head = {
            "cmmlu": f",Question,{letters},Answer\n",
            "ceval": f"id,question,{letters},answer\n",
            "mmlu": "",
        }[q.benchmark]
        cells = ['"' + cell.replace('"', '""') + '"' for cell in (q.stem, *q.options, "A")]
        number = "" if q.benchmark == "mmlu" else "0,"
        path.write_text(head + number + ",".join(cells) + "\n")


VARIANTS: dict[str, Callable[[BenchmarkQuestion, random.Random], str]] = {
    "as it is": lambda q, rng: asked(q),
    "options in another order": lambda q, rng: asked(shuffled(q, rng)),
    "one option missing": lambda q, rng: asked(without_one(q, rng)),
    "traditional": lambda q, rng: TO_TRADITIONAL(asked(q)),
    "other punctuation, full width": lambda q, rng: wide(asked(q)),
    "5% edited": lambda q, rng: edited(asked(q), rng),
}


def shuffled(question: BenchmarkQuestion, rng: random.Random) -> BenchmarkQuestion:
    options = rng.sample(question.options, len(question.options))
    return BenchmarkQuestion(benchmark="", id="", stem=question.stem, options=tuple(options))


def without_one(question: BenchmarkQuestion, rng: random.Random) -> BenchmarkQuestion:
    options = list(question.options)
    options[rng.randrange(len(options))] = ""
    return BenchmarkQuestion(benchmark="", id="", stem=question.stem, options=tuple(options))


def wide(text: str) -> str:
    text = text.replace("，", ", ").replace("。", ".").replace("____", "（　）").replace("？", "?")
    return "".join(chr(ord(c) + 0xFEE0) if 33 <= ord(c) < 127 else c for c in text)


def edited(text: str, rng: random.Random) -> str:
    """5 % of the characters replaced, left out, or preceded by another."""
    out = []
    for character in text:
        if character.isspace() or rng.random() >= 0.05:
            out.append(character)
            continue
        other = chr(rng.randrange(0x4E00, 0x9000)) if ord(character) > 0x3000 else rng.choice("xyz")
        out.append(rng.choice((other, "", other + character)))
    return "".join(out)
