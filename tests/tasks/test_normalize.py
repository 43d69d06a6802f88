"""Normalise: each format's quirks, what is set aside and why, and the same result after an
interruption."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import validate
from common.errors import ConfigError, DataError
from common.paths import RECIPES
from corpus import json_items
from corpus.formats import record_formats as formats
from corpus.formats.record_formats import RECORD_FORMATS, Rejected, parse_upvotes, to_document
from corpus.formats.records import Damaged, read_records
from tasks.core.manifest import StageResult
from tasks.normalize import NormalizeConfig, normalize
from tests.tasks.running import result_of, run_stage, stage_run


def text_of(name: str, record: Any) -> str:
    return to_document(RECORD_FORMATS[name], record).text


def reason(name: str, record: Any) -> str:
    with pytest.raises(Rejected) as caught:
        to_document(RECORD_FORMATS[name], record)
    return str(caught.value)


def raw_result(folder: Path) -> StageResult:
    return result_of(stage_run(folder))


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


# --- formats ---------------------------------------------------------------------------------


PAPER = {
    "skypile",
    "wanjuan",
    "wikipedia_cn",
    "baidu_baike",
    "baidu_qa",
    "zhihu",
    "belle_2m",
    "belle_3_5m",
    "firefly",
    "moss",
    "starcoder_cpp",
    "starcoder_java",
    "starcoder_python",
}


def test_every_corpus_recipe_has_a_format() -> None:
    names = [path.stem for path in (RECIPES / "corpora").glob("*.yaml")]
    assert set(names) == {*PAPER, "plain_files", "plain_lines"}
    validate(NormalizeConfig(corpora=tuple(names)), "normalize")


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


KEYS = """text title summary sections content desc answer instruction input output conversations
from value conversation human assistant chat turn_1 Human MOSS plain_text kind target INSTRUCTION
RESPONSE METADATA upvotes q_main option_a std_ans completion tags"""
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(record=JSON, name=st.sampled_from(sorted(RECORD_FORMATS)))
def test_any_json_is_a_document_or_rejected(record: Any, name: str) -> None:
    try:
        document = to_document(RECORD_FORMATS[name], record)
    except Rejected:
        return
    assert document.text == document.text.rstrip(formats.BLANKS)
    assert document.text
    json.dumps(document.meta)


# --- reading ---------------------------------------------------------------------------------


def read(path: Path) -> list[Any]:
    return [
        r.value if not isinstance(r.value, Damaged) else r.value.reason.split(":")[0]
        for r in read_records(path)
    ]


def test_json_lines_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(
        b'\xef\xbb\xbf{"a": 1}\n\n{"a": "\xe2\x80\xa8"}\n{"a": \n\xff\xfe{}\n'
        + b"[" * 100_000
        + b'\n{"a": 4}'
    )
    assert read(path) == [
        {"a": 1},
        "empty line",
        {"a": "\u2028"},
        "malformed JSON",
        "not UTF-8 at byte 0",
        "malformed JSON",
        {"a": 4},
    ]
    assert [r.line for r in read_records(path)] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_json_array_item_by_item(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_items, "CHUNK", chunk)
    path = tmp_path / "x.json"
    path.write_bytes(
        '[\n  {"a": "]}\\"[{", "b": {"c": [1]}},\n  {"a": 一},\n {"a": "'.encode()
        + b"\xff"
        + '"},\n  {"a": "没有结尾},\n  {"a": "好"}, null, 3, "x"\n]\n'.encode()
    )
    assert read(path) == [
        {"a": ']}"[{', "b": {"c": [1]}},
        "malformed JSON",
        "not UTF-8",
        "malformed JSON",
        {"a": "好"},
        None,
        3,
        "x",
    ]


def test_array_that_ends_early_loses_only_its_last_item(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"a": 1}, {"a": 2}, {"a": ')
    assert read(path) == [{"a": 1}, {"a": 2}, "malformed JSON"]


@given(values=st.lists(JSON, max_size=6), indent=st.sampled_from([None, 1]))
def test_array_reading_equals_the_json_module(
    values: list[Any], indent: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("array") / "x.json"
    text = json.dumps([{"v": v} for v in values], indent=indent)
    path.write_text(text, encoding="utf-8")
    read_back = [r.value for r in read_records(path)]
    assert json.dumps(read_back) == json.dumps(json.loads(text))


def test_gzip_and_a_cut_off_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"a": 1}\n' * 5000)
    (tmp_path / "x.jsonl.gz").write_bytes(whole)
    assert len(read(tmp_path / "x.jsonl.gz")) == 5000
    (tmp_path / "y.jsonl.gz").write_bytes(whole[:-12])
    assert read(tmp_path / "y.jsonl.gz")[-1] == "cannot read on"


def test_parquet_with_a_damaged_cell_and_a_damaged_file(tmp_path: Path) -> None:
    good = tmp_path / "x.parquet"
    strings = pa.array([b"one", b"\xff\xfe", None], type=pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": strings}), good)
    assert read(good) == [{"text": "one"}, "not UTF-8 at byte 0", {"text": None}]
    bad = tmp_path / "y.parquet"
    bad.write_bytes(good.read_bytes()[:40])
    assert read(bad) == ["cannot read on"]


def test_overlong_line_is_one_damage_and_reading_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_items, "MAX_RECORD", 16)
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n' + '{"a": "' + "y" * 50 + '"}\n{"a": 2}\n')
    assert read(path) == [{"a": 1}, "longer than a record may be", {"a": 2}]


# --- stage -----------------------------------------------------------------------------------


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    (folder / "skypile").mkdir(parents=True)
    (folder / "firefly").mkdir()
    (folder / "skypile" / "a.jsonl").write_bytes(
        '{"text": "甲"}\n{"text": \n{"text": null}\n{"text": "乙"}\n'.encode() + b"\xff\n"
    )
    (folder / "skypile" / "README.md").write_text("# no records")
    (folder / "skypile" / "b.jsonl").write_text('{"text": "丙"}\n')
    (folder / "firefly" / "f.jsonl").write_text('{"kind": "k", "input": "问", "target": "答"}\n')
    return folder


def test_documents_say_where_they_come_from_and_the_rest_is_set_aside(
    raw: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = run_stage(normalize, out, NormalizeConfig(), raw=raw_result(raw))
    assert lines(out / "skypile.jsonl") == [
        {"text": text, "source": "skypile", "id": f"skypile/{place}", "meta": {}}
        for text, place in [("甲", "a.jsonl#1"), ("乙", "a.jsonl#4"), ("丙", "b.jsonl#1")]
    ]
    aside = lines(out / "quarantine" / "skypile.jsonl")
    assert [(row["file"], row["line"]) for row in aside] == [
        ("skypile/a.jsonl", line) for line in (2, 3, 5)
    ]
    assert aside[1]["reason"] == "`text` is null"
    assert run.counts == {"documents": 4, "characters": 3 + len("问：问\n答：答"), "quarantined": 3}


def test_every_record_is_a_document_or_in_quarantine(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_stage(normalize, out, NormalizeConfig(), raw=raw_result(raw))
    records = sum(1 for f in (raw / "skypile").glob("*.jsonl") for _ in read_records(f))
    kept = lines(out / "skypile.jsonl") + lines(out / "quarantine" / "skypile.jsonl")
    assert len(kept) == records


def test_interrupted_run_gives_the_same_bytes_and_repeats_no_finished_source(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_stage(normalize, whole, NormalizeConfig(), raw=raw_result(raw))
    original = formats.RECORD_FORMATS["skypile"]

    def fail(record: Any) -> formats.Document:
        if record["text"] == "丙":
            raise KeyboardInterrupt
        return original(record)

    with monkeypatch.context() as patch:
        patch.setitem(RECORD_FORMATS, "skypile", fail)
        with pytest.raises(KeyboardInterrupt):
            run_stage(normalize, broken, NormalizeConfig(), raw=raw_result(raw))
    assert not (broken / "skypile.jsonl").exists(), "nothing half-made under its own name"
    finished = (broken / "firefly.jsonl").stat().st_ino
    again = run_stage(normalize, broken, NormalizeConfig(), raw=raw_result(raw))
    assert (broken / "firefly.jsonl").stat().st_ino == finished
    assert again.counts["documents"] == 4
    for name in ("skypile.jsonl", "firefly.jsonl", "quarantine/skypile.jsonl"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_limit(raw: Path, tmp_path: Path) -> None:
    config = NormalizeConfig(corpora=("skypile",), limit=2)
    run_stage(normalize, tmp_path / "out", config, raw=raw_result(raw))
    assert [d["text"] for d in lines(tmp_path / "out" / "skypile.jsonl")] == ["甲", "乙"]
    assert not (tmp_path / "out" / "firefly.jsonl").exists()


def test_corpus_without_a_document_is_refused_with_the_reasons(tmp_path: Path) -> None:
    folder = tmp_path / "raw" / "firefly"
    folder.mkdir(parents=True)
    (folder / "f.jsonl").write_text('{"text": "another format"}\n')
    with pytest.raises(DataError, match="firefly") as caught:
        run_stage(normalize, tmp_path / "out", NormalizeConfig(), raw=raw_result(folder.parent))
    assert "`input` is missing: 1" in str(caught.value)


def test_empty_and_missing_corpora_are_refused(tmp_path: Path) -> None:
    (tmp_path / "raw" / "firefly").mkdir(parents=True)
    (tmp_path / "raw" / "firefly" / "empty.jsonl").touch()
    with pytest.raises(DataError, match="firefly"):
        run_stage(normalize, tmp_path / "out", NormalizeConfig(), raw=raw_result(tmp_path / "raw"))
    with pytest.raises(ConfigError, match="skypile"):
        validate(NormalizeConfig(corpora=("skypyle",)), "normalize")
