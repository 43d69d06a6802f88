"""Repeated passages of prose go; code, formulas, turns, lists and verse stay to the byte."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus.cleaning.operators.loading import applied, own_operator

LEAD = (
    "昨天下午，全市第三座跨江大桥正式合龙，参加仪式的各界代表约有两百人。"
    "据介绍，大桥全长四千二百米，双向六车道，预计明年春天通车。"
)
LONG = (
    "保温层紧密地粘结在钢管外皮上，隔绝了空气和水的渗入，能够起到良好的防腐作用，同时它的发泡孔都是"
    "闭合的，吸水性很小，在高温和低温下都有稳定的性能，因此这种管道被广泛用于集中供热。"
)
REST = "大桥的建设历时三年，克服了江面宽、水流急、地质复杂等许多困难。"
ENGLISH = (
    "The bridge was opened in the spring of last year after three years of work. "
    "Its builders say that it will stand for at least a hundred years without repairs."
)


@pytest.fixture(scope="module")
def mapper() -> Any:
    return own_operator("remove_repeated_passages_mapper")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{LEAD}\n{LEAD}{REST}", f"{LEAD}\n{REST}"),
        (f"{LEAD}\n{LEAD}\n{REST}", f"{LEAD}\n{REST}"),
        (f"{LEAD}{REST}\n\n{LEAD}", f"{LEAD}{REST}\n"),
        (f"{REST}{LONG}\n首先。{LONG}{REST}", f"{REST}{LONG}\n首先。{REST}"),
        (f"{LONG}{LONG}{LONG}", LONG),
        (f"{ENGLISH}\n{ENGLISH} More is known.", f"{ENGLISH}\nMore is known."),
        (f"标题\n{LONG}{LEAD}\n{LONG}\n{LEAD}", f"标题\n{LONG}{LEAD}"),
    ],
)
def test_a_passage_goes_the_second_time(mapper: Any, before: str, after: str) -> None:
    assert applied(mapper, before) == after


FUNCTION = """def mean_of_all_numbers(numbers_in_list):
    total_of_the_numbers = sum(numbers_in_list)
    return total_of_the_numbers / len(numbers_in_list)"""
FORMULA = (
    r"$P_{\boldsymbol{x}\sim\mathcal{D}_t}\left(f(\boldsymbol{x})%sh_t(\boldsymbol{x})\right)$"
)
CHORUS = "\n".join(["长亭外，古道边，芳草碧连天。", "晚风拂柳笛声残，夕阳山外山。"] * 2)
OFFER = (
    "2.餐食供应：免费供应早中晚一日三餐，荤素搭配带水果，另有加班餐和夜宵可以选择，节日还有加餐；\n"
    "3.管住：免费提供空调宿舍，场区覆盖无线网络，四人一间，有独立卫生间和热水，洗衣机每层两台可用；"
)

STAYS = {
    "corrected function": f"问：写。\n答：```py\n{FUNCTION}\n```\n" * 2,
    "fenced twice": f"先写：\n```\n{LEAD}\n```\n再写：\n```\n{LEAD}\n```",
    "tildes": f"~~~\n{LEAD}\n~~~\n文\n~~~\n{LEAD}\n~~~",
    "never closed": f"```\n{LEAD}\n{LEAD}",
    "indented": f"    {LEAD}\n\n    {LEAD}",
    "code without a fence": f"{FUNCTION}\n\n{FUNCTION}",
    "signs": "".join(f"{LONG[:40]}，其中判别式的值满足关系a{s}0，{LONG[40:]}" for s in "<>"),
    "digits": LEAD + LEAD.replace("四千二百", "四千三百").replace("两百人", "三百人"),
    "formulas": "\n".join(FORMULA % sign for sign in ("=", r"\neq ", "<", "=")) * 2,
    "display formula": f"$$\n{LONG}\n$$\n文字\n$$\n{LONG}\n$$",
    "environment": f"\\begin{{proof}}\n{LONG}\n\\end{{proof}}\n" * 2,
    "table": f"| {LONG} | 一 |\n| {LONG} | 二 |",
    "rows with tabs": f"{LONG}\t一\n{LONG}\t二",
    "job offers": f"电焊工\n{OFFER}\n\n叉车工\n{OFFER}",
    "list": f"- {LONG}\n- {REST}\n- {LONG}",
    "chorus": f"{CHORUS}\n问君此去几时来，来时莫徘徊。\n{CHORUS}",
    "turns": f"问：{LONG}\n答：{LONG}",
    "interview": f"记者：{LONG}\n王先生：{LONG}\n记者：好。",
    "labels": f"产品：甲\n简介：{LONG}\n产品：乙\n简介：{LONG}\n产品：丙\n简介：{REST}",
    "quotation": f"{LONG}\n这里再读一遍原文：“{LONG}”\n可见作者的用意。",
    "after a colon": f"{LONG}\n请看原文：{LONG}",
    "half a quotation": f"他说：“{LEAD}好。”\n后来又说：“真的，{LEAD}”",
    "short": "谢谢大家。\n谢谢大家。\n谢谢大家。",
    "one sentence": f"{REST}\n{REST}",
    "questions": "\n".join(f"{i}．正确的是（　）\nA．{REST}{LEAD}\nB．{REST}" for i in range(3)),
}  # fmt: skip


@pytest.mark.parametrize("text", STAYS.values(), ids=STAYS)
def test_all_else_stays_to_the_byte(mapper: Any, text: str) -> None:
    assert applied(mapper, text) == text


def test_the_size_of_a_passage_is_a_parameter() -> None:
    text = f"{LONG}\n首先。{LONG}"
    assert applied(own_operator("remove_repeated_passages_mapper", min_bytes=10_000), text) == text


PIECES = st.lists(
    st.sampled_from([LEAD, LONG, REST, ENGLISH, FUNCTION, CHORUS, OFFER, *STAYS.values()])
    | st.sampled_from(["\n", "```\n", "“", "$$", "问：", "\t", "    "])
    | st.text(alphabet="文字。！\n ab.“”", max_size=30),
    max_size=10,
).map("".join)


@settings(max_examples=300)
@given(text=PIECES)
def test_what_is_left_stood_there_and_nothing_is_lost(mapper: Any, text: str) -> None:
    """The result is the text without ranges, and every sentence of the text is still in it."""
    after = applied(mapper, text)
    remaining = iter(text)
    assert all(any(c == old for old in remaining) for c in after)
    for line in text.split("\n"):
        for sentence in re.split("[。！“”.]", line):
            assert sentence.strip() in after


@settings(max_examples=200)
@given(text=PIECES)
def test_every_line_that_is_no_prose_stays(mapper: Any, text: str) -> None:
    def others(of: str) -> list[str]:
        return [line for line in of.split("\n") if line.strip() and len(line) < 40]

    after = iter(applied(mapper, text).split("\n"))
    assert all(any(line == kept for kept in after) for line in others(text))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "text",
    [
        LONG * 8_000,
        f"{LONG}\n" * 8_000,
        *(
            f"{LONG}\n" * 2 + rest
            for rest in (
                "aa" + "." * 400_000,
                "$$\n" * 100_000,
                "[a" * 200_000,
                "ab. " * 100_000,
                "“" * 300_000,
                (" " * 50 + "x") * 8_000,
                "！?" * 200_000,
            )
        ),
    ],
    ids=range(9),
)
def test_long_runs_do_not_take_quadratic_time(mapper: Any, text: str) -> None:
    """The timeout is the assertion: these take less than a second."""
    applied(mapper, text)


def test_real_pages_lose_only_what_stands_in_them(mapper: Any, real_rows: Any) -> None:
    changed = 0
    for text in real_rows("sky/*", "skypile"):
        after = applied(mapper, text)
        if after != text:
            changed += 1
            lines = {line.strip() for line in after.split("\n")}
            for sentence in (s for line in text.split("\n") for s in line.split("。")):
                assert sentence.strip() in after or sentence.strip() in lines
    assert 10 <= changed <= 40


@pytest.mark.parametrize("place", ["poetry/poet.tang.10000.json", "poetry/ci.song.1000.json"])
def test_real_verse_stays(mapper: Any, shared: Any, place: str) -> None:
    for poem in json.loads((shared / "data" / "pretrain" / place).read_bytes()):
        text = "\n".join(poem["paragraphs"] * 2)
        assert applied(mapper, text) == text
