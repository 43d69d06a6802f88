"""Filters of the curated text recipes: symbols, repetition, wrong encodings."""

import functools
import itertools
import random
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.cleaning import recipe as recipes
from corpus.recipes import FAMILIES
from tests.corpus.cleaning.operators.loading import operator

TEXT_FAMILIES = [family for family in FAMILIES if family != "code"]

TABLE = """| 城市 | 2019年(亿元) | 2020年(亿元) | 增长率 |
| --- | ---: | :---: | --- |
| 甲市 | 33803.09 | 36431.38 | 7.8% |
| 乙市 | 36115.27 |  |  |
"""

GOOD = {
    "table": f"问：{TABLE}\n答：甲市增长率最高。",
    "padded table": "| 银行        | 年费   |\n|-------------|--------|\n| 工商银行    | 免费   |",
    "emphasis": "**解：** ****（+2022）****÷13****=÷13+2022**÷13****** ******，余数是**7**。****",
    "formulas": r"1. $\dfrac{1}{a}+\dfrac{1}{b}=\dfrac{1}{10}$，则$\dfrac{a+b}{ab}=$________",
    "options": "(A)$x^{2}+(y-4)^{2}=\\frac{25}{9}$\n(B)$\\{-1,5\\}$\n(C)$\\$ 2.60$\n(D)$(-5,-2)$",
    "ions": "质膜上有____。 $K^+$，$Mg^{2+}$，$Ca^{2+}$ $K^+$，$Cl^-$，$Ca^{2+}$ $K^+$，$Cl^-$",
    "vectors": "若向量组 "
    + "，".join(rf"$\boldsymbol{{\alpha}}_{n} + \boldsymbol{{\beta}}_{n}$" for n in range(30))
    + " 线性无关，则正确的是",
    "bases": "腺嘌呤（A）与胸腺嘧啶（T）配对，鸟嘌呤（G）与胞嘧啶（C）配对，嘌呤总与嘧啶配对。",
    "picture in a fence": "```\n   _ooOoo_\n  o888888o\n  (| -_- |)\n  O = /O\n```\n佛祖保佑。",
    "references": "(A)(1)(2)(4)\n(B)(2)(3)(4)\n(C)(3)(4)(5)\n(D)(1)(3)(5)",
    "chemicals": "对氨基苯磺酰胺、邻苯二甲酸酐、丙烯腈、吡啶、嘧啶、嘌呤、噻吩、呋喃",
    "rhapsody": "鳣鲔鮅鲿，鱮鰋鲨鲂，玄鹤白鹭，黄鹄鵁鹳，鸧鸹鸨鶂，凫鹥鸿雁，朝发河海，夕宿江汉",
    "faces": "(｡･ω･｡)ﾉ♡ 早上好～ (≧▽≦) (╯°□°）╯︵ ┻━┻ 哈哈",
    "regular expressions": r"邮箱：^\w+([-+.]\w+)*@\w+([-.]\w+)*\.\w+([-.]\w+)*$ 空行：\n\s*\r",
    "arithmetic": "问：3x + 7 = 24，求 x。\n答：3x = 24 - 7 = 17，x = 17/3。",
    "numbers": "1. 23\n2. 49\n3. 87\n4. 5\n5. 76\n6. 30\n7. 91\n8. 11\n9. 64\n10. 56",
    "form": "甲方：____________（盖章）\n乙方：____________\n签订日期：____年__月__日",
    "contents": "第一章 总则......................1\n第二章 分则......................9",
    "morse": "hello world 的摩尔斯电码为：.... . .-.. .-.. --- / .-- --- .-. .-.. -..",
    "sonnet": "国殇\n屈原\n操吴戈兮被犀甲，车错毂兮短兵接\n旌蔽日兮敌若云，矢交坠兮士争先",
    "rare words": "臺灣有鸂鶒、䴙䴘。裏革斷罟匡君，宣公夏濫於泗淵，鳥獸孕，水蟲成，登川禽。",
    "headline": "《遍地狼烟》征集片名 何晟铭诠释精忠报国(图)",
    "lyrics": "哗啦啦啦啦\n下雨了\n看到大家都在跑\n叭叭叭叭叭\n出租车\n" * 3,
    "correction": "他昨天去学校没有看到老师所以回家了。\n改：他昨天去了学校没看到老师，回家了。",
    "japanese": "申し訳ありませんが、翻訳したいテキストを提供してください。日本語に翻訳します。",
    "french": "Ça a été un été très chaud à l'hôtel, où les élèves ont mangé des crêpes à Noël.",
    "vietnamese": "Việc học tiếng Việt không khó như người ta vẫn nghĩ, nhưng cần kiên nhẫn lắm.",
    "code": "```python\ndef f(x):\n    return {'a': [x, -x], 'b': (x ** 2) // 3}\n```\n就是这样。",
    "emoji": "今天天气真好☀️，我们去公园玩吧😀😀😀！",
    "chess": "1. e4 e5 2. Nf3 Nc6 3. Bb5 a6 4. Ba4 Nf6 5. O-O Be7",
    "phone list": "张三 138-0000-0000\n李四 139-0000-0000\n王五 137-0000-0000",
    "lost characters": "浪淘沙\n饱食日□□。\n□上危亭。\n东风昨夜入□□。",
    "temperatures": "密度：1.27 g/cm³\n熔点：173-174 °C\n误差：±0.5 °C，×××、·····",
}
"""Texts of kinds that bounds on special characters, perplexity or repetition dropped."""

SENTENCE = (
    "这里讲的是怎样在家里种花，先要选好花盆和土，然后每天浇一点水，晒一晒太阳，花就开了。" * 2
)
BAD = {
    "keyboard": "!@#$%^&*()_+{}|:<>?~`-=[];',./ " * 4,
    "boxes": "▓▒░┤├┬┴┼╬╠╣╦╩ ◤◢◣◥ ┏┓┗┛ ♩♫♪♬ ◎○●△▲" * 3,
    "emoji": "🎉🎊🎈🎁🎀 买 💥🔥⚡✨🌟 👉👈 🉐㊙️㊗️" * 3,
    "loop": SENTENCE * 30,
    "word": "喵" * 400,
    "utf-8 as gbk": SENTENCE.encode().decode("gb18030", "replace"),
    "gbk as latin-1": SENTENCE.encode("gbk").decode("latin-1"),
    "utf-8 as latin-1": SENTENCE.encode().decode("latin-1"),
    "big5 as gbk": ("這裡講的是怎樣在家裡種花，先要選好花盆和土" * 3)
    .encode("big5")
    .decode("gb18030", "replace"),
    "gbk as utf-8": SENTENCE.encode("gbk").decode("utf-8", "replace"),
    "gbk as shift-jis": SENTENCE.encode("gbk").decode("cp932", "replace"),
    "private use": "".join(chr(0xE000 + n) for n in range(60)),
}


@pytest.fixture(scope="module")
def dropped_by() -> Callable[[str, str], str]:
    """dropped_by(family, text) -> name of the filter of the curated recipe that drops it, or ''."""
    built: dict[str, list[tuple[str, Any]]] = {}

    def find(family: str, text: str) -> str:
        name = f"curated/{family}"
        if family not in built:
            names = [op.name for op in recipes.load(name).operators]
            built[family] = [(n, operator(name, n)) for n in names if n in MEASURES]
        for filter_name, one in built[family]:
            samples = one.compute_stats_batched({"text": [text], "__dj__stats__": [{}]})
            if not next(iter(one.process_batched(samples))):
                return filter_name
        return ""

    return find


MEASURES = (
    "symbol_ratio_filter",
    "garbled_text_filter",
    "repeated_share_filter",
    "text_length_filter",
    "average_line_length_filter",
)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_what_only_looks_odd_is_kept(family: str, dropped_by: Callable[[str, str], str]) -> None:
    assert {k: by for k, text in GOOD.items() if (by := dropped_by(family, text))} == {}


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_what_nobody_can_read_is_dropped(
    family: str, dropped_by: Callable[[str, str], str]
) -> None:
    assert [k for k, text in BAD.items() if not dropped_by(family, text)] == []


@pytest.mark.parametrize("probe", ["08_*", "14_*", "22_*"])
def test_probes_are_kept_by_every_family(
    probe: str, shared: Path, dropped_by: Callable[[str, str], str]
) -> None:
    (path,) = (shared / "data" / "probes").glob(probe)
    text = path.read_text("utf-8")
    assert {f: by for f in TEXT_FAMILIES if (by := dropped_by(f, text))} == {}


def test_every_filter_of_the_text_families_is_tried_here() -> None:
    for family in TEXT_FAMILIES:
        names = {op.name for op in recipes.load(f"curated/{family}").operators}
        assert set(MEASURES) - {"average_line_length_filter"} <= names
        # These judge by layout, by digits, or by a model of other texts.
        assert not names & {"special_characters_filter", "alphanumeric_filter", "perplexity_filter"}


@functools.cache
def module(name: str) -> Any:
    """Our operator's module, as Data-Juicer imports it."""
    operator("curated/web", name)
    return sys.modules[name]


def repeated_share(text: str, window: int) -> float:
    """The definition, window by window."""
    letters = [c for c in text if c.isalnum()]
    seen: set[str] = set()
    repeated = [False] * len(letters)
    for start in range(len(letters) - window + 1):
        run = "".join(letters[start : start + window])
        if run in seen:
            repeated[start : start + window] = [True] * window
        seen.add(run)
    return sum(repeated) / len(letters) if letters else 0.0


@given(st.lists(st.sampled_from(["甲乙丙", "ab", "c1", "，", " ", "🎉", "\n"]), max_size=60))
def test_repeated_share_is_its_definition(parts: list[str]) -> None:
    text = "".join(parts)  # neither formulas nor code
    measure = module("repeated_share_filter").repeated_share
    for window in (1, 2, 5, 12):
        assert measure(text, window) == pytest.approx(repeated_share(text, window))


def test_repeated_share_counts_what_was_said_before() -> None:
    measure = module("repeated_share_filter").repeated_share
    rng = random.Random(1)
    text = "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(500))
    assert measure(text, 12) == 0.0
    for times in (2, 5, 10):
        assert measure(text * times, 12) == pytest.approx(1 - 1 / times)
    assert measure(text + "，".join(text), 12) == pytest.approx(0.5)


@given(st.text())
def test_symbol_ratio_is_a_share(text: str) -> None:
    assert 0.0 <= module("symbol_ratio_filter").symbol_ratio(text) <= 1.0


@given(st.text(alphabet="甲a1é\u0301𠀀，。！￥€🎉 \n"))
def test_symbols_are_all_but_letters_accents_and_digits(text: str) -> None:
    """Without marks of layout, by the definition; a sign said several times counts once."""
    visible = [c for c, _ in itertools.groupby("".join(text.split())) if not c.isalnum()]
    symbols = [c for c in visible if unicodedata.category(c)[0] not in "LMN"]
    letters = [c for c in text if unicodedata.category(c)[0] in "LMN"]
    expected = len(symbols) / max(1, len(symbols) + len(letters))
    assert module("symbol_ratio_filter").symbol_ratio(text) == pytest.approx(expected)


@given(st.text(alphabet="\u4e00甲乙丙丁ÄãºÃ鸂鶒ab �\ue000，", max_size=80))
def test_garbled_ratio_is_a_share(text: str) -> None:
    assert 0.0 <= module("garbled_text_filter").garbled_ratio(text) <= 1.0
