"""Blanks and invisible characters: what carries meaning stays, what carries none goes."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus.cleaning.operators.loading import applied, own_operator

ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"

STAYS = {
    "family": "👨‍👩‍👧‍👦 全家福",
    "flag of a rainbow": "🏳️‍🌈 旗",
    "skin tone and profession": "🧑🏽‍💻👩🏿‍⚕️",
    "heart on fire": "❤️‍🔥 ❤️ ☺️ ✔︎",
    "keycaps": "1️⃣ #️⃣ ©️ ‼️",
    "flag of England": f"{ENGLAND} 英格兰",
    "flags of letters": "🇨🇳🇯🇵",
    "Persian": "می‌خواهم کتاب‌ها",
    "Persian with a vowel sign": "کتابً\u200cها",
    "joiner at the end of a Persian word": "ه‍ بزرگ",
    "Sinhala": "ශ්‍රී ලංකා",
    "Hindi": "क्‍ष और क्‌ष",
    "Malayalam": "അവന്‍",
    "Thai": "ภาษา\u200bไทย",
    "Khmer": "ខ្មែរ\u200bភាសា",
    "Mongolian": "ᠨ\u180dᠠ",
    "Hebrew": "שלום\u200f! \u2067abc\u2069",
    "mathematics": "∩\ufe00 和 ∪",
    "Braille": "⠁⠀⠃",
    "Korean": "가\u1160",
    "Makefile": "用 make：\n```make\nall:\n\tgcc -o a a.c\n```",
    "unfenced Makefile": "all:\n\tgcc -o a a.c\n\nclean:\n\trm -f a",
    "table": "姓名\t年龄\t城市\n甲\t20\t北京\n乙\t\t\n丙\t30\t",
    "first line": "    def f():\n        return 1",
    "first line with a tab": "\tint a;\n\tint b;",
    "columns": "a    b    c\n1    2    3",
    "fenced code": "例：```py\nx = 1  \n\n\n\n\ny = 2\n```\n完",
    "levels": "　　一级\n　　　　二级",
    "within a line": "第一条　为了规范",
    "lost character of an old poem": "饱食日□□。",
    "bullets": "■客家特产■客家小吃\n●案情回顾●\n▲概念图",
    "wrongly decoded": "锟\ufffd\ufffd拷\ufffd\ufffd斤\ufffd 烫\ue0f1屯",
    "go": "●○●\n○●○\n■=黑子",
    "pause of the ellipsis": "……—— ·",
    "beyond the first plane": "𠮷野家 𝒙 🀄",
}  # fmt: skip

CHANGES = [
    ("同样\u200b\u200b也", "同样也"),
    ("\ufeff开头\u2060词", "开头词"),
    ("中\u200d文 a\u200cb 👍\u200d", "中文 ab 👍"),
    ("Auf\u200clage", "Auflage"),
    ("危险\ufe0f，100%\ufe0f，1\ufe0f", "危险，100%，1"),
    ("葛\U000e0100城", "葛城"),
    ("好\U000e0068\U000e0069人", "好人"),
    ("🏴\U000e0067无尾", "🏴无尾"),
    ("\u202eabc\u202c 左\u200e右\u200f", "abc 左右"),
    ("עברית \u202eabc", "עברית abc"),
    ("pro-\xadgovernment", "pro-government"),
    ("现有\x7f70个\x00\x08\x1f", "现有70个"),
    ("\x1b[1;31m错误\x1b[0m", "错误"),
    ("一\r\n二\r三\u2028四\u2029五\x0c六\x0b七\x85八", "一\n二\n三\n四\n五\n六\n七\n八"),
    ("一\xa0二\u2002三\u202f四\u3000五", "一 二 三 四\u3000五"),
    ("f\u2061(x)\u2062y", "f(x)y"),
    ("\ufdd0非\uffff字\U0001fffe", "非字"),
    ("图\ufffc片", "图片"),
    ("名\u3164字 x\u2800y", "名字 x y"),
    ("赌王何鸿\ufffd\ufffd入院", "赌王何鸿□入院"),
    ("it\ufffds don\ufffdt x\ufffdy t\ufffds", "it's don't x□y t□s"),
    ("斩\ue3bc濮王，\ue0d4离", "斩□濮王，□离"),
    ("\ue612首页 电话\ue600", "首页 电话"),
    ("\ue5e5\ue5e5在上古", "在上古"),
    ("\ue7c8\u3000\ue831", "\u01f9\u3000\U000215d7"),
    ("\uf0b7 项目\n\uf0d8 项目", "• 项目\n➢ 项目"),
    ("\U000f0001x", "x"),
    ("行尾  \n　　下一段　\n\u3000", "行尾\n下一段"),
    ("一\n \n\t\n\n\n\n二", "一\n\n\n二"),
    ("\n \n   code\n  end\n\n", "   code\n  end"),
    ("第一段\n\n　　第二段\n  　第三段", "第一段\n\n第二段\n第三段"),
    ("甲 \t\n乙\t\n", "甲\n乙"),
    ("甲 \n乙\t\n丙\t丁\t\n", "甲\n乙\t\n丙\t丁\t"),
    ("", ""),
    (" \u3000\n\t", ""),
]


@pytest.fixture(scope="module")
def mapper() -> Any:
    return own_operator("tidy_whitespace_mapper")


@pytest.mark.parametrize("text", STAYS.values(), ids=STAYS)
def test_meaning_stays(mapper: Any, text: str) -> None:
    assert applied(mapper, text) == text


@pytest.mark.parametrize("text", STAYS.values(), ids=STAYS)
def test_mending_keeps_the_same(text: str) -> None:
    mend = own_operator("mend_unicode_mapper")
    assert applied(mend, text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_what_means_nothing_goes(mapper: Any, before: str, after: str) -> None:
    assert applied(mapper, before) == after


def test_mending_knows_radicals_and_vertical_tabs(mapper: Any) -> None:
    mend = own_operator("mend_unicode_mapper")
    assert applied(mend, "⼀个⼈\x0b⽂字３．５ภาษา\u200bไทย 波\u200b尔") == (
        "一个人\n文字3.5ภาษา\u200bไทย 波尔"
    )


PIECES = st.lists(
    st.sampled_from([*STAYS.values(), *(before for before, _ in CHANGES)])
    | st.text(max_size=12)
    | st.text(alphabet=" \t\n\u3000\xa0`~\u200d\ufe0f\ufffd\ue5e5\u200f文a1א👍", max_size=12),
    max_size=6,
)


@settings(max_examples=300)
@given(pieces=PIECES, glue=st.sampled_from(["", "\n", "\t", " "]))
def test_a_second_time_changes_nothing(mapper: Any, pieces: list[str], glue: str) -> None:
    once = applied(mapper, glue.join(pieces))
    assert applied(mapper, once) == once


@settings(max_examples=300)
@given(pieces=PIECES)
def test_visible_characters_stay_in_order(mapper: Any, pieces: list[str]) -> None:
    """Letters, digits, punctuation and symbols, whatever stands between them."""
    text = "".join(pieces).replace("\x1b", "")

    def visible(of: str) -> str:
        return "".join(c for c in of if unicodedata.category(c)[0] in "LNPS" and c not in HANDLED)

    assert visible(applied(mapper, text)) == visible(text)


HANDLED = frozenset("\ufffd\ufffc\u2800\u3164\uffa0\u115f\u1160□'•➢\u01f9\U000215d7")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "text",
    [
        "\u200f" * 300_000 + "א",
        " " * 400_000 + "x",
        (" " * 1_000 + "\t") * 400 + "x",
        "\n" * 400_000,
        "```\n" * 100_000,
        "\U0001f3f4\U000e0067" * 100_000,
        "\x1b[" * 200_000,
        "a\u200d" * 200_000,
        "n" * 300_000 + "\ufffd",
    ],
    ids=range(9),
)
def test_long_runs_do_not_take_quadratic_time(mapper: Any, text: str) -> None:
    """The timeout is the assertion: these take milliseconds, in quadratic time they took hours."""
    applied(mapper, text)


def test_real_rows_keep_every_visible_character(mapper: Any, real_rows: Any) -> None:
    def visible(of: str) -> str:
        return "".join(c for c in of if unicodedata.category(c)[0] in "LNPS" and c not in "\ufffd□")

    places = [
        ("sky/*", "skypile"),
        ("baidu_baike/*", "baidu_baike"),
        ("BELLE/*2M*", "belle_instruction"),
    ]
    before = after = 0
    for place, name in places:
        for text in real_rows(place, name):
            tidied = applied(mapper, text)
            assert visible(tidied) == visible(text)
            before += len(text.encode())
            after += len(tidied.encode())
    assert 0.99 * before < after < before
