"""Native files of small sets, and the mixture `trial` of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.paths import RECIPES


def write_sets(folder: Path) -> Path:
    """Native files of three sets: 40 Chinese rows, 30 English ones, 8 questions; some bad."""
    rows: dict[str, list[dict[str, Any]]] = {
        "alpaca_zh/zh-data.json": [
            {"instruction": f"问题{n}", "input": "", "output": f"回答{n}"} for n in range(40)
        ]
        + [{"instruction": "空", "input": "", "output": ""}] * 3,
        "code_alpaca/code_alpaca.json": [
            {"instruction": f"ask {n}", "input": "", "output": f"answer {n}"} for n in range(30)
        ],
        "wanjuan_mcq/part.jsonl": [
            {
                "q_type": "单选题",
                "q_main": f"第{n}题？",
                "option_a": "甲",
                "option_b": "乙",
                "std_ans": "AB"[n % 2],
                "answer_detail": "因为别的答案都不符合题目的意思。",
            }
            for n in range(8)
        ],
    }
    for name, content in rows.items():
        path = folder / name
        path.parent.mkdir(parents=True)
        lines = (json.dumps(row, ensure_ascii=False) for row in content)
        path.write_text("\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]")
    return folder


def write_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A mixture `trial`: all Chinese, English 1:4, and letters only of the questions."""
    recipes = tmp_path / "recipes"
    (recipes / "mixtures").mkdir(parents=True)
    (recipes / "sft").symlink_to(RECIPES / "sft")
    (recipes / "mixtures" / "trial.yaml").write_text(
        "{title: Trial, sets: {alpaca_zh: {}, code_alpaca: {pool: english},"
        " wanjuan_mcq: {styles: [letter]}}, pools: {english: {ratio: 0.25, to: zh}}}"
    )
    monkeypatch.setattr("common.recipes.RECIPES", recipes)
    return "trial"
