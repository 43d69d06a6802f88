"""Texts that a model of web pages does not judge."""

import json
from pathlib import Path
from typing import Any

import pytest

from corpus.cleaning.quality.scope import SHORT, is_judged
from tests.corpus.cleaning.operators.loading import own_operator

PROSE = (
    "市气象台昨天发布大风预警，今天白天到夜间本市大部分地区有五级左右的偏北风，山区阵风可达八级。\n"
)
TABLE = "| 年 | 值 |\n|---|---|\n" + "".join(f"| {n} | {n * n} |\n" for n in range(2000, 2020))
CODE = "def f(x):\n    if x > 0:\n        return a(x)\n    return b(x)\n\n\n" * 3
FORMULAS = (
    "错误率为\n$P(f(x)=h(x))$\n是它的补；以及\n$$\\sum_{i=1}^n x_i = 0$$\n代入得\n$x=0$\n" * 2
)
CLASSICAL = "操吴戈兮被犀甲，车错毂兮短兵接。旌蔽日兮敌若云，矢交坠兮士争先。\n" * 4
MAKE = "all:\n\tgcc -o a a.c\nclean:\n\trm a\n" * 4
SHELL = "安装：\n```\n" + "pip install steel-lm\n" * 6 + "```\n完成。"


@pytest.mark.parametrize(
    "text", [TABLE, CODE, FORMULAS, CLASSICAL, MAKE, SHELL, PROSE, "a\tb\tc\n" * 30]
)
def test_code_formulas_tables_classics_and_short_texts_stay(text: str) -> None:
    assert not is_judged(text)
    low = own_operator("quality_filter", min_score=1.1)
    assert low.process_batched({"text": [text], "__dj__stats__": [{"quality": 0.1}]}) == [True]


@pytest.mark.parametrize(
    "text",
    [
        PROSE * 4,
        PROSE * 8 + CODE,
        "标题一\n标题二\n更多精彩，点击阅读原文\n" * 9,
        "加微信领券，限时特价。\n" * 20,
        "Best price! Buy now, call us today. Free delivery for all orders.\n" * 5,
        "他以此为业，而其父之名不为人知的原因是这样的：那时候没有人记下来，也没有人问过他们。" * 4,
    ],
)
def test_prose_and_lists_of_titles_are_judged(text: str) -> None:
    assert len(text) >= SHORT
    assert is_judged(text)
    low = own_operator("quality_filter", min_score=1.1)
    assert low.process_batched({"text": [text], "__dj__stats__": [{"quality": 0.1}]}) == [False]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("run", ["| a ", "$a", "\t", "a=", "+-", "{", "\\a", "之", "def "])
def test_long_runs_take_linear_time(run: str) -> None:
    is_judged(run * 100_000)
    is_judged((run + "\n") * 100_000)


def test_real_pages_are_judged(shared: Path) -> None:
    rows: list[Any] = []
    for path, field in (("sky", "text"), ("wanjuan", "content")):
        for file in sorted((shared / "data" / "pretrain" / path).glob("*.jsonl")):
            rows += [json.loads(line)[field] for line in file.read_text("utf-8").splitlines()]
    assert rows
    judged = sum(map(is_judged, rows))
    assert judged > 0.98 * len(rows)
