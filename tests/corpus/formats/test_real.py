"""Every source of the paper on real rows: nothing that a raw row says is lost, nothing is added out
of order, and the quirks of each format come out right where they really occur."""

import gzip
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks.core.stage import StageRun
from tasks.normalize import NormalizeConfig, normalize
from tests.tasks.running import result_of, run_stage, stage_run

REAL = {
    "skypile": ("sky", 587),
    "wanjuan": ("wanjuan", 624),
    "wikipedia_cn": ("wiki_cn", 141),
    "baidu_baike": ("baidu_baike", 607),
    "baidu_qa": ("baidu_QA", 590),
    "zhihu": ("zhihu", 590),
    "belle_2m": ("BELLE/train_2M_CN_sample.json", 595),
    "belle_3_5m": ("BELLE/train_3.5M_CN_sample.json", 595),
    "firefly": ("firefly", 595),
    "moss": ("../sft/moss", 678),
    "starcoder_cpp": ("starcode/cpp", 309),
    "starcoder_java": ("starcode/java", 294),
    "starcoder_python": ("starcode/python", 300),
}
"""Corpus -> its real rows, and how many of them are documents."""


@pytest.fixture(scope="module")
def files(shared: Path) -> dict[str, list[Path]]:
    """Corpus -> its real files."""
    found = {}
    for name, (place, _) in REAL.items():
        path = shared / "data" / "pretrain" / place
        found[name] = [path] if path.is_file() else sorted(path.glob("*.[jp]*"))
        assert found[name], path
    return found


@pytest.fixture(scope="module")
def run(files: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """All of them, normalised."""
    raw = tmp_path_factory.mktemp("raw")
    for name, paths in files.items():
        (raw / name).mkdir()
        for path in paths:
            shutil.copy(path, raw / name / path.name)
    out = tmp_path_factory.mktemp("out")
    return run_stage(
        normalize, out, NormalizeConfig(longest={"*": 0}), raw=result_of(stage_run(raw))
    )


def documents(run: StageRun, name: str) -> dict[int, dict[str, Any]]:
    """Row number, from 1 -> document."""
    lines = (run.folder / f"{name}.jsonl").read_bytes().splitlines()
    return {int((d := json.loads(line))["id"].rpartition("#")[2]): d for line in lines}


def raw_rows(paths: list[Path]) -> list[dict[str, Any]]:
    """The rows of files, read by other means than the stage's."""
    rows: list[dict[str, Any]] = []
    for path in paths:
        if path.suffix == ".parquet":
            rows += pq.read_table(path).to_pylist()
            continue
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode()
        rows += (
            json.loads(text)
            if text.startswith("[")
            else [json.loads(line) for line in text.split("\n") if line]
        )
    return rows


MOSS_TAGS = ("<|Human|>:", "<|MOSS|>:", "<eoh>", "<eom>", "<eor>")


def _moss_texts(row: dict[str, Any]) -> Iterator[str]:
    for number in range(1, len(row["chat"]) + 1):
        turn = row["chat"][f"turn_{number}"]
        for said in (turn["Human"], turn["MOSS"]):
            for tag in (*MOSS_TAGS, *(f"<|{number}|>" for number in range(20))):
                said = said.replace(tag, "")
            yield re.sub(r"<sup>[\s,]*</sup>", "", said)


def _baike_texts(row: dict[str, Any]) -> Iterator[str]:
    yield row["title"]
    yield row["summary"] or ""
    for section in row["sections"]:
        yield section["title"] if section["content"].strip() else ""
        yield section["content"]


def _baidu_qa_texts(row: dict[str, Any]) -> Iterator[str]:
    title, desc = row["title"].strip(), row["desc"].strip()
    if desc in title:
        yield title
    elif title.rstrip("?？ ") in desc:  # the title is how the description begins
        yield desc
    else:
        yield from (title, desc)
    yield row["answer"]


def _code(row: dict[str, Any]) -> Iterator[str]:
    content = row["content"].removeprefix("\ufeff")
    for tag in ("reponame", "filename", "gh_stars"):
        if content.startswith(f"<{tag}>"):
            content = re.sub(r"\A<\w+>[^<\n]*", "", content, count=1)
    yield content


TEXTS: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "skypile": lambda row: iter([row["text"]]),
    "wanjuan": lambda row: iter([row["content"]]),
    "wikipedia_cn": lambda row: iter([row["completion"]]),
    "baidu_baike": _baike_texts,
    "baidu_qa": _baidu_qa_texts,
    "zhihu": lambda row: iter([row["INSTRUCTION"], row["RESPONSE"]]),
    "belle_2m": lambda row: iter([row["instruction"], row["input"], row["output"]]),
    "belle_3_5m": lambda row: (turn["value"] for turn in row["conversations"]),
    "firefly": lambda row: iter([row["input"], row["target"]]),
    "moss": _moss_texts,
    "starcoder_cpp": _code,
    "starcoder_java": _code,
    "starcoder_python": _code,
}
"""Corpus -> what a row says, in order, straight from its fields."""


@pytest.mark.parametrize("name", REAL)
def test_a_document_says_what_its_row_says_in_order(
    name: str, run: StageRun, files: dict[str, list[Path]]
) -> None:
    found = documents(run, name)
    assert len(found) == REAL[name][1]
    for number, row in enumerate(raw_rows(files[name]), 1):
        said = [t.replace("\r\n", "\n").replace("\r", "\n").strip() for t in TEXTS[name](row)]
        if number not in found:
            assert name == "baidu_baike"  # the rows without any text, looked at below
            assert not any(said[1:])
            continue
        text, at, between = found[number]["text"].strip(), 0, []
        for part in filter(None, said):
            assert part in text[at:], (number, part[:80])
            start = text.index(part, at)
            between.append(text[at:start])
            at = start + len(part)
        # Beyond what the row says there are line ends and the marks of question and answer.
        assert set(between) <= {"", "\n", "问：", "\n答：", "\n问："}, number
        assert at == len(text), (number, text[at : at + 80])
    assert run.notes["sources"][name]["documents"] == len(found)


def test_baike_without_summary_is_kept_if_it_has_any_text(
    run: StageRun, files: dict[str, list[Path]]
) -> None:
    rows, found = raw_rows(files["baidu_baike"]), documents(run, "baidu_baike")
    no_summary = [n for n, row in enumerate(rows, 1) if not row["summary"]]
    with_sections = [
        n for n in no_summary if any(s["content"].strip() for s in rows[n - 1]["sections"])
    ]
    assert len(no_summary) == len(with_sections) == 420
    assert set(with_sections) <= set(found), "the published code dropped all of these"
    assert run.notes["sources"]["baidu_baike"]["reasons"] == {"a title without any text": 4}


def test_upvotes_of_real_answers(run: StageRun, files: dict[str, list[Path]]) -> None:
    found, spelled = documents(run, "zhihu"), 0
    for number, row in enumerate(raw_rows(files["zhihu"]), 1):
        shown = json.loads(row["METADATA"])["upvotes"].removeprefix("赞同").strip()
        votes = found[number]["meta"]["upvotes"]
        if shown.endswith("万"):  # "1.2 万", which the published code read as 0
            spelled += 1
            tenths = shown.removesuffix("万").strip().replace(".", "")
            assert votes == int(tenths) * (1_000 if "." in shown else 10_000)
        else:
            assert votes == int(shown or 0)
    assert spelled == 10


def test_descriptions_of_real_questions_are_used(
    run: StageRun, files: dict[str, list[Path]]
) -> None:
    rows, found = raw_rows(files["baidu_qa"]), documents(run, "baidu_qa")
    described = [n for n, row in enumerate(rows, 1) if row["desc"].strip()]
    assert len(described) == 476
    for number in described:
        question = found[number]["text"].partition("\n答：")[0]
        assert (
            rows[number - 1]["desc"].replace("\r\n", "\n").replace("\r", "\n").strip() in question
        )


def test_turns_of_real_conversations_stay_in_order(
    run: StageRun, files: dict[str, list[Path]]
) -> None:
    rows, found = raw_rows(files["belle_3_5m"]), documents(run, "belle_3_5m")
    many = [n for n, row in enumerate(rows, 1) if len(row["conversations"]) > 2]
    assert len(many) == 163
    for number in many:
        turns = [turn["value"].strip() for turn in rows[number - 1]["conversations"]]
        shown = "\n".join(f"{'答' if i % 2 else '问'}：{turn}" for i, turn in enumerate(turns))
        assert found[number]["text"] == shown.replace("\r\n", "\n")


def test_moss_keeps_no_tag_and_no_thought(run: StageRun, files: dict[str, list[Path]]) -> None:
    rows, found = raw_rows(files["moss"]), documents(run, "moss")
    for number, row in enumerate(rows, 1):
        text = found[number]["text"]
        assert not re.search(r"<eo[a-z]>|<\|", text)
        assert text.count("\n答：") >= row["num_turns"]


def test_wikipedia_keeps_the_titles_that_open_an_article(
    run: StageRun, files: dict[str, list[Path]]
) -> None:
    rows, found = raw_rows(files["wikipedia_cn"]), documents(run, "wikipedia_cn")
    opened = 0
    for number, row in enumerate(rows, 1):
        first, newline, rest = row["completion"].partition("\n")
        if newline and len(first) < 40 and first in rest:
            opened += 1
            assert found[number]["text"].startswith(f"{first}\n{rest.strip()[:10]}")
    assert opened == 3


def test_code_loses_its_training_tags_and_keeps_its_indentation(
    run: StageRun, files: dict[str, list[Path]]
) -> None:
    tagged = 0
    for name in ("starcoder_cpp", "starcoder_java", "starcoder_python"):
        found = documents(run, name)
        for number, row in enumerate(raw_rows(files[name]), 1):
            tagged += row["content"].startswith("<")
            text, content = found[number]["text"], row["content"].replace("\r\n", "\n").rstrip()
            assert not re.match(r"<(reponame|filename|gh_stars)>", text)
            assert text == content.removeprefix("\ufeff") or content.endswith(f"\n{text}")
    assert tagged > 300


def test_nothing_else_is_set_aside_and_all_of_it_is_utf8(run: StageRun) -> None:
    sources = run.notes["sources"]
    assert {n: r["quarantined"] for n, r in sources.items() if r["quarantined"]} == {
        "baidu_baike": 4
    }
    of_parquet = {"zhihu", "starcoder_cpp", "starcoder_java", "starcoder_python"}
    for name, row in sources.items():
        assert row["encodings"] == ({} if name in of_parquet else {"UTF-8": 1})
