"""Lines that many documents share go where they are boilerplate, and stay where they are not."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus.cleaning.operators.pages import BODIES, FOOTER, MENU, repeated_lines


def taken_out(texts: list[str], **parameters: Any) -> list[str | None]:
    """Texts without their repeated lines, counted among themselves."""
    operator = repeated_lines(**parameters)
    counts = Counter(key for text in texts for key in operator.line_hashes(text))
    repeated = {key for key, count in counts.items() if count >= operator.min_documents}
    return [operator.without(text, repeated.__contains__) for text in texts]


def test_menus_and_footers_go() -> None:
    assert taken_out([f"{MENU}\n\n{body}\n\n{FOOTER}" for body in BODIES]) == BODIES


def test_a_notice_between_paragraphs_goes() -> None:
    notice = "（点击上方蓝字关注我们的公众号）"
    texts = [body.replace("\n", f"\n{notice}\n") for body in BODIES]
    assert taken_out(texts) == BODIES


def test_a_footer_that_does_not_say_what_it_is_goes_from_the_end() -> None:
    footer = "某某集团成立于一九九八年，总部位于南方的一座小城，产品远销世界各地，深受客户欢迎。"
    assert taken_out([f"{body}\n{footer}" for body in BODIES]) == BODIES
    inside = [body.replace("\n", f"\n{footer}\n") for body in BODIES]
    assert taken_out(inside) == inside


def test_few_documents_are_not_enough() -> None:
    texts = [f"{body}\n{FOOTER}" for body in BODIES[:9]]
    assert taken_out(texts) == texts
    assert taken_out(texts, min_documents=9) == BODIES[:9]


REPEATED_BUT_GOOD = {
    "code": "```python\nimport os\nprint('版权所有 copyright')\n```",
    "indented code": "    copyright = load('版权所有')\n    return copyright",
    "a line of code": "from share import follow_us",
    "table": "| 首页 | 版权所有 |\n| --- | --- |\n| 分享到 | 扫码关注 |",
    "tabs": "首页\t版权所有\t登录",
    "formula": "$$\n版权所有 = x + y\n$$",
    "inline formula": "设 $版权$ 归 $x$ 所有，则版权所有者的收益为 $y$。",
    "poem": "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。",
    "regulated verse": "国破山河在，城春草木深，感时花溅泪，恨别鸟惊心。",
    "answer": "答案：B\n解析：版权所有者是甲公司，转载须经其同意。",
    "options": "A. 版权所有\nB. 未经授权\nC. 分享到朋友圈\nD. 以上都是",
    "law": "第十条 未经许可，任何单位和个人不得转载、分享。",
    "heading": "一、研究背景",
    "short end": "谢谢大家",
}


@pytest.mark.parametrize("kind", REPEATED_BUT_GOOD)
@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_what_is_repeated_for_what_it_says_stays(kind: str, place: str) -> None:
    good = REPEATED_BUT_GOOD[kind]
    texts = {
        "start": [f"{good}\n{body}" for body in BODIES],
        "middle": [body.replace("\n", f"\n{good}\n") for body in BODIES],
        "end": [f"{body}\n{good}" for body in BODIES],
    }[place]
    assert taken_out(texts) == texts


def test_a_scripture_that_many_pages_quote_is_not_eaten_from_its_start() -> None:
    verses = [f"第{i}节说，人应当怎样对待他的邻舍，又应当怎样对待远方来的客人。" for i in range(30)]
    verses = [verse.replace("第", "经文之") for verse in verses]
    texts = ["\n".join([*verses[i:], body]) for i, body in enumerate(BODIES)]
    assert taken_out(texts) == texts


def test_a_document_of_nothing_else_is_dropped() -> None:
    texts = [f"{MENU}\n{i}月{i}日\n{FOOTER}" for i in range(12)]
    assert taken_out(texts) == [None] * 12
    # One that was short before, and has none of them, is not this operator's matter.
    assert taken_out([*texts, "短文。"])[-1] == "短文。"


def test_spaces_capitals_and_marks_around_a_line_make_no_difference() -> None:
    notices = [
        "版权所有 某某网",
        "**版权所有  某某网**",
        "> 版权所有 某某网",
        "版权所有\u3000某某网。",
    ]
    texts = [f"{body}\n{notices[i % 4]}" for i, body in enumerate(BODIES)]
    assert taken_out(texts) == BODIES


MAY_GO = ["首页", "版权所有", "长" * 25, "短", "甲乙丙丁。"]
LINES = st.sampled_from([*MAY_GO, "", "---", "```", "$$", "| a | b |", "答案：A"])
TEXTS = st.lists(st.lists(LINES, max_size=12).map("\n".join), min_size=1, max_size=8)


@given(texts=TEXTS, seed=st.sets(st.sampled_from(MAY_GO)))
def test_only_repeated_lines_go(texts: list[str], seed: set[str]) -> None:
    operator = repeated_lines(min_text_length=0)
    repeated = {key for line in seed for key in operator.line_hashes(line)}.__contains__
    for text in texts:
        left = operator.without(text, repeated)
        assert left is not None
        gone = Counter(text.split("\n")) - Counter(left.split("\n"))
        assert set(gone) <= seed | {"", "---"}
        assert not Counter(left.split("\n")) - Counter(text.split("\n")) - Counter([""])
        if not seed & set(text.split("\n")):
            assert left == text


def test_dj_process_takes_the_same_lines_out(tmp_path: Path) -> None:
    import datasets

    texts = [f"{MENU}\n{body}\n{FOOTER}" for body in BODIES] + [f"{MENU}\n{FOOTER}"] * 2
    operator = repeated_lines()
    rows = datasets.Dataset.from_list([{"text": text, "n": i} for i, text in enumerate(texts)])
    left = operator.run(rows)
    assert left["text"] == BODIES
    assert left["n"] == list(range(20))
    assert set(left.column_names) == {"text", "n"}


@pytest.mark.timeout(120)
def test_long_runs_take_linear_time() -> None:
    """Backtracking over 400,000 characters would take longer than the test's own limit."""
    operator = repeated_lines()
    for text in (
        "a(" * 200_000,
        "|" + "x" * 400_000,
        "\n" * 400_000,
        "$" + "x" * 400_000,
        "首页\n" * 100_000,
        "#" * 400_000,
        "甲乙丙丁" * 100_000,
        ";" + " " * 400_000 + "x",
        "\\" * 400_000,
        "--" * 200_000 + "x",
        "x ==" * 100_000,
        "ab" * 200_000 + "(",
    ):
        keys = set(operator.line_hashes(text))
        operator.without(text, keys.__contains__)


def test_bounds_are_checked() -> None:
    with pytest.raises(ValueError, match="min_documents"):
        repeated_lines(min_documents=1)
