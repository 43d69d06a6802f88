"""Native formats of corpora: the quirks of each, and records that are rejected."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.formats import record_formats as formats
from corpus.formats.record_formats import RECORD_FORMATS, Rejected, parse_upvotes, to_document
from tests.corpus.formats.json_values import JSON


def text_of(name: str, record: Any) -> str:
    return to_document(RECORD_FORMATS[name], record).text


def reason(name: str, record: Any) -> str:
    with pytest.raises(Rejected) as caught:
        to_document(RECORD_FORMATS[name], record)
    return str(caught.value)


def test_baike_with_null_summary_keeps_its_sections() -> None:
    sections = [("简介", "第一段。"), ("空", ""), ("历史", "第二段。\r\n第三段。")]
    record = {
        "title": "甲",
        "summary": None,
        "tags": ["物"],
        "url": "u",
        "sections": [{"title": title, "content": content} for title, content in sections],
    }
    document = to_document(RECORD_FORMATS["baidu_baike"], record)
    assert document.text == "甲\n简介\n第一段。\n历史\n第二段。\n第三段。"
    assert document.meta == {"url": "u", "title": "甲", "tags": ["物"]}
    assert reason("baidu_baike", {"title": "甲", "summary": None, "sections": []})
    assert reason("baidu_baike", {"title": "甲", "sections": [{"content": 3}]})


@pytest.mark.parametrize(
    ("shown", "votes"),
    [
        ("赞同 127", 127),
        ("赞同 1.2 万", 12_000),
        ("赞同 1.5万", 15_000),
        ("赞同", 0),
        (None, 0),
        ("赞同 4,432", 4432),
        (88, 88),
        (float("nan"), 0),
        ("1.2k", 1200),
        ("赞同 .", 0),
        (["赞同 5"], 0),
        ({"votes": 12}, 0),
    ],
)
def test_upvotes(shown: Any, votes: int) -> None:
    assert parse_upvotes(shown) == votes


def test_zhihu_metadata() -> None:
    record = {
        "INSTRUCTION": "何故？",
        "RESPONSE": "因为。",
        "SOURCE": "Zhihu",
        "METADATA": json.dumps({"upvotes": "赞同 1.2 万", "url": "z"}),
    }
    document = to_document(RECORD_FORMATS["zhihu"], record)
    assert document.text == "问：何故？\n答：因为。"
    assert document.meta == {"upvotes": 12_000, "url": "z"}
    assert "METADATA" in reason("zhihu", record | {"METADATA": "{broken"})


def test_baidu_qa_uses_desc_without_saying_it_twice() -> None:
    def question(title: str, desc: Any) -> str:
        return text_of("baidu_qa", {"title": title, "desc": desc, "answer": "好"}).split("\n答：")[
            0
        ]

    assert question("我的狗", "两个月大，怎么养？") == "问：我的狗\n两个月大，怎么养？"
    assert (
        question("很长的问题开头?", "很长的问题开头，然后才说完。")
        == "问：很长的问题开头，然后才说完。"
    )
    assert question("问题", "") == "问：问题"
    assert question("问题", None) == "问：问题"
    answer = {"title": "问", "desc": "", "answer": "一\r\n二\r"}
    assert text_of("baidu_qa", answer) == "问：问\n答：一\n二"


def test_belle_input_is_kept() -> None:
    record = {"instruction": "分类：", "input": "苹果", "output": "水果"}
    assert text_of("belle_instruction", record) == "问：分类：\n苹果\n答：水果"
    assert "output" in reason("belle_instruction", record | {"output": "  "})


def test_turns_stay_in_order_and_answers_keep_their_ends() -> None:
    turns = [("human", "一"), ("assistant", "二 <|im_end|>n"), ("human", "三"), ("assistant", "四")]
    record = {"id": "7", "conversations": [{"from": f, "value": v} for f, v in turns]}
    assert text_of("belle_conversations", record) == "问：一\n答：二 <|im_end|>n\n问：三\n答：四"


def test_turns_that_do_not_alternate() -> None:
    def text(*turns: tuple[str, str]) -> str:
        record = {"conversations": [{"from": f, "value": v} for f, v in turns]}
        return text_of("belle_conversations", record)

    assert (
        text(
            ("assistant", "先"),
            ("human", "一"),
            ("human", "二"),
            ("assistant", "三"),
            ("human", "没有回答"),
        )
        == "问：一\n二\n答：三"
    )
    with pytest.raises(Rejected, match="question"):
        text(("human", "没有回答"))
    with pytest.raises(Rejected, match="turn"):
        text(("system", "?"))


def test_moss_forms_agree_and_lose_their_tags() -> None:
    conversation = {
        "conversation": [
            {"human": "<|Human|>: 一<eoh>\n", "assistant": "二<eom>"},
            {"human": "三", "assistant": "四"},
        ]
    }
    thoughts = "<|Inner Thoughts|>: 想<eot>"
    chat = {
        "chat": {
            f"turn_{n}": {
                "Human": f"<|Human|>: {q}<eoh>\n",
                "Inner Thoughts": thoughts,
                "MOSS": f"<|MOSS|>: {a}<eom>\n",
            }
            for n, q, a in [(10, "三", "四"), (9, "一", "二")]
        }
    }
    plain = {"plain_text": "[Human]: 一<eoh> [MOSS]: 二<eoa> [Human]: 三<eoh> [MOSS]: 四<eoa>"}
    expected = "问：一\n答：二\n问：三\n答：四"
    assert [text_of("moss", r) for r in (conversation, chat, plain)] == [expected] * 3
    assert "conversation" in reason("moss", {"category": "x"})


def test_wanjuan_web_page_and_exam_item() -> None:
    page = {"id": "B", "content": "# 题目\n正文"}
    assert text_of("wanjuan", page) == "# 题目\n正文"
    assert text_of("wanjuan", page | {"title": "题目"}) == "# 题目\n正文"
    assert text_of("wanjuan", {"id": "B", "title": "另题", "content": "正文"}) == "另题\n正文"
    item = {
        "id": "e",
        "q_main": "1+1=?",
        "option_a": "1",
        "option_b": "2",
        "option_c": "",
        "option_d": None,
        "std_ans": "B",
        "answer_detail": "加法",
        "grade": "小学",
    }
    document = to_document(RECORD_FORMATS["wanjuan"], item)
    assert document.text == "1+1=?\nA. 1\nB. 2\n答案：B\n解析：加法"
    assert document.meta == {"id": "e", "grade": "小学"}
    assert "question" in reason("wanjuan", item | {"q_main": ""})


def test_wikipedia_keeps_its_title_line() -> None:
    assert text_of(
        "wikipedia_cn", {"completion": "昭通机场\n昭通机场位于云南。", "source": "w"}
    ) == ("昭通机场\n昭通机场位于云南。")


def test_firefly() -> None:
    assert text_of("firefly", {"kind": "NLI", "input": "甲", "target": "乙"}) == "问：甲\n答：乙"


def test_starcoder_tags_go_into_meta_and_indentation_stays() -> None:
    content = "<reponame>a/b<filename>x.py<gh_stars>1-10\n\n    # kept\nx = '<filename>'\n"
    record = {"content": content, "id": "1", "max_stars_count": None, "max_stars_repo_name": "a/b"}
    document = to_document(RECORD_FORMATS["starcoder"], record)
    assert document.text == "    # kept\nx = '<filename>'"
    assert document.meta["gh_stars"] == "1-10"
    assert document.meta["filename"] == "x.py"
    assert "content" in reason("starcoder", {"content": b"x"})


def test_text_is_not_rewritten() -> None:
    """The published code turned x² into x2 here (NFKC)."""
    assert text_of("skypile", {"text": "x² ＡＢ①"}) == "x² ＡＢ①"


@pytest.mark.parametrize(
    "record",
    [
        None,
        3,
        "text",
        [],
        {"text": None},
        {"text": 3},
        {"text": ""},
        {"text": ["a"]},
        {},
        {"text": "\ud800"},
    ],
)
def test_wrongly_typed_records_are_rejected(record: Any) -> None:
    assert reason("skypile", record)


@given(record=JSON, name=st.sampled_from(sorted(RECORD_FORMATS)))
def test_any_json_is_a_document_or_rejected(record: Any, name: str) -> None:
    try:
        document = to_document(RECORD_FORMATS[name], record)
    except Rejected:
        return
    assert document.text == document.text.rstrip(formats.BLANKS)
    assert document.text
    json.dumps(document.meta)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("\n    def f():\n        return 1\n\n", "    def f():\n        return 1"),
        ("\tall:\n\t\tgcc", "\tall:\n\t\tgcc"),
        ("\r\n  - a\r\n  - b", "  - a\n  - b"),
        ("\u3000\u3000第一段\n\u3000\u3000第二段 ", "第一段\n\u3000\u3000第二段"),
        ("  one line  ", "one line"),
        (" \n\t", None),
    ],
)
def test_the_first_of_several_lines_keeps_its_indentation(written: str, text: str | None) -> None:
    if text is None:
        with pytest.raises(Rejected):
            to_document(RECORD_FORMATS["plain"], {"text": written})
    else:
        assert to_document(RECORD_FORMATS["plain"], {"text": written}).text == text
