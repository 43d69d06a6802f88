"""Pages of a site: bodies that differ, and what all have around them."""

from pathlib import Path
from typing import Any

from corpus.cleaning import recipe as recipes

FILE = Path(recipes.__file__).with_name("operators") / "repeated_lines_deduplicator.py"

BODIES = [
    f"第{i}号稿件说的是{a}{b}的事情，与别的稿件没有一句话是相同的。\n"
    f"{b}先生后来又去了{a}，住了{i + 3}天，写下了他在那里看到的一切，寄给了远方的朋友。"
    for i, (a, b) in enumerate((a, b) for a in "甲乙丙丁戊" for b in "赵钱孙李")
]
MENU = "首页\n新闻\n体育\n用户登录\n当前位置：首页 > 新闻 > 正文"
FOOTER = (
    "分享到：\n上一篇\n下一篇\n版权所有 © 2003-2021 某某新闻网 未经授权不得转载\n京ICP备00000001号"
)


def repeated_lines(**arguments: Any) -> Any:
    """The operator, as the engine builds it."""
    from corpus.cleaning.engine import pipeline

    recipes._import_file(FILE)
    (operator,) = pipeline.build([recipes.Operator(name=FILE.stem, arguments=arguments)])
    return operator
