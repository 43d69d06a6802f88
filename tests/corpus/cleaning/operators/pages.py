"""Pages of a site: bodies that differ, and what all have around them."""

import random
from pathlib import Path
from typing import Any

from corpus.cleaning import recipe as recipes

FILE = Path(recipes.__file__).with_name("operators") / "repeated_lines_deduplicator.py"


def words(rng: random.Random, count: int) -> str:
    """Sentences of characters by chance."""
    return "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(count)) + "。"


BODIES = [f"{words(random.Random(i), 90)}\n{words(random.Random(-i - 1), 60)}" for i in range(20)]
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
