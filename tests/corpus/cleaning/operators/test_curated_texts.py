"""The mappers of the curated recipes, one after the other: what they must leave as it is."""

from pathlib import Path
from typing import Any

import pytest
from data_juicer.ops import load_ops

from corpus.cleaning import recipe as recipes
from tests.corpus.cleaning.operators.loading import applied

FAMILIES = ("web", "encyclopedia", "dialogue", "qa", "book")

PROBES = (
    "01_repeat_sentences_code.txt",
    "03_repeat_sentences_latex.md",
    "05_opencc_dahuai.txt",
    "12_emoji_zwj.txt",
    "13_makefile_tabs.txt",
)

TEXTS = {
    "emoji": "👩‍❤️‍💋‍👨 👨🏻‍🤝‍👨🏿 🏴‍☠️ 👁️‍🗨️ 1️⃣ 表情。",
    "Persian": "کتاب‌خانه‌ای در ایران؛ نیم‌فاصله مهم است.",
    "Hindi": "श्री राम क्‍या र्‍य और भाषा",
    "Thai": "ภาษา\u200bไทย เป็นภาษา",
    "rows": "id\tname\tscore\n1\t甲\t90\n2\t乙\t\n3\t\t80",
    "Go": 'func main() {\n\tfmt.Println("你好")\n\tif a < b && c > d {\n\t\treturn\n\t}\n}',
    "method": "    def area(self):\n        return self.w * self.h\n\n    x = 1\n    y = 2",
    "YAML": "a:\n  - b: 1\n    c: 2\nd:\n  - e",
    "signs": "当 $a>0$ 时函数递增，需要分情况讨论。\n当 $a<0$ 时函数递减，需要分情况讨论。",
    "names": "文徵明、钱锺书、毕昇、王濛、洪昇、乾县、康乾盛世、李乾元、赵孟頫，打坏，毛坯。",
    "Japanese": "私は東京の図書館で本を読みました。国会図書館の蔵書は多い。",
    "song": "我和你，心连心，同住地球村。\n"
    "为梦想，千里行，相会在北京。\n我和你，心连心，同住地球村。",
    "board": "●○●○●\n○●○●○\n黑棋●，白棋○，■为障碍，□为空位。",
}


@pytest.fixture(scope="module")
def mappers() -> dict[str, list[Any]]:
    """Family -> its mappers, in order."""
    built = {}
    for family in FAMILIES:
        recipe = recipes.load(f"curated/{family}")
        recipe.import_custom_operators()
        built[family] = [
            load_ops([{op.name: dict(op.arguments)}])[0]
            for op in recipe.operators
            if op.kind == "mapper"
        ]
    return built


def changed_by(mappers: list[Any], text: str) -> list[str]:
    """Names of the mappers that change a text; line ends at its end do not count."""
    names = []
    for mapper in mappers:
        after = applied(mapper, text)
        if after.rstrip("\n") != text.rstrip("\n"):
            names.append(f"{mapper._name}: {after!r}")
        text = after
    return names


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", TEXTS)
def test_a_text_with_nothing_to_clean_stays(
    mappers: dict[str, list[Any]], family: str, name: str
) -> None:
    assert changed_by(mappers[family], TEXTS[name]) == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("probe", PROBES)
def test_a_text_that_was_damaged_stays(
    mappers: dict[str, list[Any]], family: str, probe: str, shared: Path
) -> None:
    text = (shared / "data" / "probes" / probe).read_text(encoding="utf-8")
    assert changed_by(mappers[family], text) == []


def test_repeats_go_from_web_pages_only(mappers: dict[str, list[Any]]) -> None:
    passage = (
        "昨天下午，全市第三座跨江大桥正式合龙，参加仪式的各界代表约有两百人。"
        "据介绍，大桥全长四千二百米，双向六车道，预计明年春天通车。"
    )
    text = f"{passage}\n{passage}大桥的建设历时三年。"
    assert changed_by(mappers["web"], text)
    assert not any(changed_by(mappers[family], text) for family in FAMILIES if family != "web")
