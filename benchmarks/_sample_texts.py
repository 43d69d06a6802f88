"""Real documents from ../shared/data, and edits that make other documents of them."""

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from common.paths import ROOT

SHARED = ROOT.parent / "shared" / "data" / "pretrain"
MIN_PLANTED = 200
"""Characters of the shortest document that is planted."""


def _lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        for line in file:
            yield json.loads(line)


STARCODER_TAGS = re.compile(r"\A(?:<(?:reponame|filename|gh_stars)>[^<\n]*)+\n?")


def chinese(shared: Path) -> list[str]:
    """Web pages, encyclopaedia articles and answers."""
    texts = [row["text"] for row in _lines(next((shared / "sky").glob("*.jsonl")))]
    texts += [row["content"] for row in _lines(next((shared / "wanjuan").glob("*.jsonl")))]
    for row in _lines(next((shared / "firefly").glob("*.jsonl"))):
        texts.append(f"{row['input']}\n{row['target']}")
    for row in _lines(next((shared / "baidu_QA").glob("*.json"))):
        texts.append(f"{row['title']}\n{row['answer']}")
    for row in _lines(next((shared / "BELLE").glob("*2M*.json"))):
        texts.append(f"{row['instruction']}\n{row['output']}")
    table = pq.read_table(next((shared / "zhihu").glob("*.parquet")))
    for question, answer in zip(table["INSTRUCTION"], table["RESPONSE"], strict=True):
        texts.append(f"{question}\n{answer}")
    return [text for text in texts if text.strip()]


def english(shared: Path) -> list[str]:
    """Web pages and encyclopaedia articles."""
    texts = [row["text"] for row in _lines(shared / "english" / "c4_demo.jsonl")]
    with (shared / "english" / "wiki_demo.txt").open(encoding="utf-8") as file:
        texts += [line.strip() for line in file if line.strip()]
    return texts


def code(shared: Path) -> list[str]:
    """Source files in C++, Java and Python: single ones, and whole repositories."""
    texts: list[str] = []
    for folder in ("starcode", "code_repos"):
        for path in sorted((shared / folder).rglob("*.parquet")):
            texts += pq.read_table(path, columns=["content"])["content"].to_pylist()
    texts = [STARCODER_TAGS.sub("", text) for text in texts if text]
    return [text for text in texts if text.strip()]


def headlines(shared: Path) -> list[str]:
    """News headlines of a line each."""
    with (shared / "thucnews" / "test.txt").open(encoding="utf-8") as file:
        return [line.split("\t")[0].strip() for line in file if line.strip()]


def questions(shared: Path) -> list[str]:
    """Questions with short answers."""
    rows = _lines(next((shared / "baidu_QA").glob("*.json")))
    texts = (f"问：{row['title']}\n答：{row['answer']}" for row in rows)
    return [text for text in texts if len(text) < MIN_PLANTED]


SENTENCE = re.compile(r"(?<=[。！？!?\n])")


def shuffled(text: str, chance: random.Random) -> str:
    """The sentences of a text in another order."""
    sentences = SENTENCE.split(text)
    chance.shuffle(sentences)
    return "".join(sentences)


# --- edits -----------------------------------------------------------------------------------

HEADER = """\
/*
 * Copyright (c) 2019 The Example Authors. All rights reserved.
 *
 * Licensed under the Apache License, Version 2.0 (the "License");
 * you may not use this file except in compliance with the License.
 * You may obtain a copy of the License at
 *
 *     http://www.apache.org/licenses/LICENSE-2.0
 */
"""
BOILERPLATE = {
    "chinese": "本文来源于网络，版权归原作者所有，如有侵权请联系我们删除。\n",
    "english": "Click here to subscribe to our newsletter and never miss an update.\n",
    "code": HEADER,
}
TO_ASCII = str.maketrans("，。：；？！（）“”", ',.:;?!()""')


def characters(rate: float) -> Callable[[str, random.Random, str], str]:
    """An edit that replaces, inserts or leaves out this share of the characters."""

    def edit(text: str, rng: random.Random, _: str) -> str:
        out: list[str] = []
        for character in text:
            kind = rng.randrange(3) if rng.random() < rate else None
            if kind != 0:
                out.append(rng.choice(text) if kind == 1 else character)
            if kind == 2:
                out.append(rng.choice(text))
        return "".join(out)

    return edit


def without_a_sentence(text: str, rng: random.Random, language: str) -> str:
    """A sentence, in code a line, less."""
    ends = {"chinese": "。", "english": ". ", "code": "\n"}[language]
    parts = text.split(ends)
    inner = [i for i, part in enumerate(parts) if 0 < len(part.strip()) <= len(text) / 10]
    if inner:
        del parts[rng.choice(inner)]
    return ends.join(parts)


def respaced(text: str, rng: random.Random, language: str) -> str:
    """Other white space: lines end elsewhere; code is indented otherwise."""
    if language == "code":
        return text.replace("    ", "\t") if "    " in text else text.replace("\t", "    ")
    return "\n".join(line.strip() for line in text.splitlines() if line.strip()).replace(
        "。", "。\n"
    )


def restyled(text: str, rng: random.Random, language: str) -> str:
    """Other punctuation and capitals; code keeps its own."""
    if language == "code":
        return text
    return text.translate(TO_ASCII).upper()


def framed(text: str, rng: random.Random, language: str) -> str:
    """A line, in code a licence, before the text."""
    return BOILERPLATE[language] + text


EDITS: dict[str, Callable[[str, random.Random, str], str]] = {
    "0.5 %": characters(0.005),
    "1 %": characters(0.01),
    "2 %": characters(0.02),
    "5 %": characters(0.05),
    "sentence": without_a_sentence,
    "spaces": respaced,
    "style": restyled,
    "frame": framed,
}
