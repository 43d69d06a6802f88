"""The stage `adjusted_scores`: accuracies of contaminated questions and of the others."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.files import json_line, read_json_lines, write_json
from corpus.benchmarks.questions import LETTERS
from corpus.decontaminate import ContaminationConfig
from model.train.run.folder import MIXTURE_FILE
from tasks.contamination import ContaminationCheckConfig, contamination
from tasks.core.manifest import StageResult
from tasks.core.stage import StageRun
from tasks.evaluate.adjusted import IN_PROMPT, AdjustedScoresConfig, adjusted_scores
from tests.tasks.running import data_sets, result_of, run_stage, stage_run
from tests.tasks.test_contamination import cleaned

CONFIG = AdjustedScoresConfig(min_questions=2, search=ContaminationConfig(action="flag"))
QUESTIONS = {
    "市场价格上升时，企业通常会怎样调整产量和投资计划？": "扩大产量 缩减产量 停止营业 转让商标",
    "货币流通速度加快而商品数量不变，会引起哪种现象？": "物价上涨 利率归零 出口禁止 人口减少",
    "居民把新增收入中的多大部分用于消费，用什么来表示？": "边际倾向 恩格尔律 机会成本 比较优势",
    "灯塔发出的光不能排除过往船只，这说明它属于哪一类物品？": "公共物品 私人物品 劣等物品 奢侈物品",
    "工会与雇主通过谈判确定工资水平，这种制度一般叫什么？": "集体协商 计件薪酬 最低保障 股权激励",
}
"""Stem -> options."""
STEMS = list(QUESTIONS)


def write_ceval(folder: Path, dev: Sequence[str] = ()) -> None:
    """A subject with the questions of STEMS, a bad row among them, and worked examples."""
    for split, stems in (("val", STEMS), ("dev", dev)):
        path = folder / "ceval" / split / f"economics_{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "question", *LETTERS, "answer"])
            for number, stem in enumerate(stems):
                writer.writerow([number, stem, *QUESTIONS.get(stem, "1 2 3 4").split(), "A"])
                if split == "val" and not number:
                    writer.writerow([99, "no question", "", "", "", "", ""])


def evaluation(folder: Path, right: Sequence[bool], num_fewshot: int = 0) -> StageResult:
    """A finished evaluation with these answers."""
    (folder / "samples").mkdir(parents=True)
    lines = [
        {"subject": "economics", "index": n, "gold": "A", "choice": "A" if ok else "B"}
        for n, ok in enumerate(right)
    ]
    (folder / "samples" / "ceval.jsonl").write_bytes(b"".join(map(json_line, lines)))
    result = {"title": "C-Eval", "chance": 0.25, "num_fewshot": num_fewshot, "modes": {}}
    write_json(folder / "results.json", {"ceval": result})
    return StageResult(stage="evaluate", key="e", folder=folder, manifest={})


def finetuning(folder: Path, matches: Sequence[dict[str, Any]], **more: Any) -> StageResult:
    """A finished SFT or DPO with these matches."""
    folder.mkdir()
    (folder / "contamination.jsonl").write_bytes(b"".join(map(json_line, matches)))
    notes = {"contamination": {"action": "flag", "index": {"splits": {"ceval/val": 5}}}} | more
    return StageResult(stage="sft", key="s", folder=folder, manifest={"notes": notes})


@pytest.fixture
def benchmarks(tmp_path: Path) -> dict[str, StageResult]:
    write_ceval(tmp_path / "evals")
    return data_sets(result_of(stage_run(tmp_path / "evals")))


def rows_of(done: StageRun) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((done.folder / "adjusted.json").read_text())["rows"]
    return rows


def asked(number: int) -> str:
    return "\n".join((STEMS[number], *QUESTIONS[STEMS[number]].split()))


def numbers(row: dict[str, Any]) -> dict[str, tuple[int, int | None]]:
    parts = ("full", "clean", "contaminated", "not_checkable")
    return {name: (row[name]["num_questions"], row[name]["num_right"]) for name in parts}


def run(folder: Path, config: AdjustedScoresConfig = CONFIG, **inputs: Any) -> StageRun:
    return run_stage(adjusted_scores, folder, config, **inputs)


def test_each_source_of_a_question_is_shown(
    tmp_path: Path, benchmarks: dict[str, StageResult]
) -> None:
    """Corpora, conversations that were drawn and pairs that were trained on; no others. A bad row
    moves the numbers of rows, and not the places of questions."""
    corpora = run_stage(
        contamination,
        tmp_path / "search",
        ContaminationCheckConfig(workers=1),
        cleaned=cleaned(tmp_path / "cleaned", {"zhihu": [asked(0)], "skypile": ["无关。" * 30]}),
        benchmarks=benchmarks,
    )
    corpora.notes["benchmarks"] = {"ceval": {}}
    drawn = {"benchmark": "ceval", "question_id": "economics/val/2", "drawn": True}
    tuned = finetuning(
        tmp_path / "sft",
        [
            {**drawn, "id": "belle/a#1"},
            {**drawn, "question_id": "economics/val/3", "id": "belle/a#2", "drawn": False},
        ],
    )
    pair = {"benchmark": "ceval", "question_id": "economics/val/2"}
    aligned = finetuning(
        tmp_path / "dpo",
        [
            {**pair, "id": "zhihu_rlhf/b#1"},
            {**pair, "question_id": "economics/val/4", "id": "zhihu_rlhf/b#2"},
            {**pair, "question_id": "economics/val/4", "id": "zhihu_rlhf/b#3"},
        ],
    )
    splits = {"zhihu_rlhf/b#1": "train", "zhihu_rlhf/b#2": "validation"}
    lines = [json_line({"place": place, "split": split}) for place, split in splits.items()]
    (aligned.folder / MIXTURE_FILE).write_bytes(b"".join(lines))
    inputs: dict[str, Any] = {
        "evaluations": {"0": evaluation(tmp_path / "e", [True, True, False, False, True])},
        "benchmarks": benchmarks,
        "corpora": result_of(corpora),
    }
    done = run(tmp_path / "base", **inputs)
    (row,) = rows_of(done)
    assert row["sources"] == {"corpus zhihu": 1}
    assert row["contaminated"] == {
        "num_questions": 1,
        "num_right": None,
        "accuracy": None,
        "interval_95": None,
    }
    assert "accuracy_contaminated/ceval/0_shot" not in done.counts
    assert done.counts["questions_contaminated/ceval/0_shot"] == 1
    done = run(tmp_path / "all", **inputs, tuned=tuned, aligned=aligned)
    (row,) = rows_of(done)
    assert numbers(row) == {
        "full": (5, 3),
        "clean": (3, 1),
        "contaminated": (2, 2),
        "not_checkable": (0, None),
    }
    assert row["sources"] == {"SFT set belle": 1, "corpus zhihu": 1, "preference set zhihu_rlhf": 1}
    assert row["unknown"] == []
    assert done.counts["accuracy_contaminated/ceval/0_shot"] == 1.0
    assert done.counts["accuracy_clean/ceval/0_shot"] == pytest.approx(1 / 3)
    listed = list(read_json_lines(done.folder / "contaminated.jsonl"))
    assert [(q["question_id"], q["index"], q["right"]) for q in listed] == [
        ("economics/val/0", 0, True),
        ("economics/val/2", 1, True),
    ]
    (table,) = vars(done.track)["tables"].values()
    assert table[0]["contaminated %"].endswith("of 2")


def test_texts_that_nobody_searched_are_unknown_and_not_clean(
    tmp_path: Path, benchmarks: dict[str, StageResult]
) -> None:

    inputs: dict[str, Any] = {
        "evaluations": {"0": evaluation(tmp_path / "e", [True] * 5)},
        "benchmarks": benchmarks,
    }
    given = replace(CONFIG, unknown=("what the given model m was trained on",))
    (row,) = rows_of(run(tmp_path / "given", given, **inputs))
    assert row["full"]["num_right"] == 5
    assert row["clean"] is row["contaminated"] is row["not_checkable"] is None
    assert row["unknown"] == ["what the given model m was trained on"]
    # SFT that was not screened, or for another benchmark alone.
    for number, contaminated in enumerate(
        ({"action": "off"}, {"action": "drop", "index": {"splits": {"mmlu/test": 9}}})
    ):
        tuned = finetuning(tmp_path / f"sft{number}", [], contamination=contaminated)
        (row,) = rows_of(run(tmp_path / f"run{number}", **inputs, tuned=tuned))
        assert row["clean"] is None
        assert row["unknown"] == ["conversations of SFT were not searched for it"]
    # What is known of one text is used, and the other is named.
    tuned = finetuning(tmp_path / "sft", [])
    (row,) = rows_of(run(tmp_path / "both", given, **inputs, tuned=tuned))
    assert row["clean"]["num_questions"] == 5
    assert row["unknown"] == ["what the given model m was trained on"]


def test_a_prompt_that_holds_the_question_contaminates_it_in_few_shot_alone(tmp_path: Path) -> None:
    """A worked example is the question itself: its answer stands in the prompt."""
    write_ceval(tmp_path / "evals", dev=[STEMS[4], *(f"第{n}个例子是什么意思？" for n in range(4))])
    benchmarks = data_sets(result_of(stage_run(tmp_path / "evals")))

    done = run(
        tmp_path / "run",
        replace(CONFIG, on_bad_row="skip", min_questions=1),
        evaluations={
            "5": evaluation(tmp_path / "e5", [False] * 4 + [True], 5),
            "0": evaluation(tmp_path / "e0", [False] * 5, 0),
        },
        benchmarks=benchmarks,
        tuned=finetuning(tmp_path / "sft", []),
    )
    five, none = rows_of(done)
    assert (five["num_fewshot"], none["num_fewshot"]) == (5, 0)
    assert five["sources"] == {IN_PROMPT: 1}
    assert numbers(five)["contaminated"] == (1, 1)
    assert numbers(five)["clean"] == (4, 0)
    assert none["sources"] == {}
    assert numbers(none)["clean"] == (5, 0)
