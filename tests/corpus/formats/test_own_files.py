"""A folder of one's own: rows, Word, EPUB and texts mixed; what is damaged costs nothing else."""

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path

import docx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DataError
from corpus.formats.documents import Unreadable, read_document
from corpus.formats.tables import read_table
from corpus.formats.text_keys import TextKeys
from tests.corpus.formats.own_files import epub, normalized


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def parquet(**columns: list[object]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def word(*paragraphs: str) -> bytes:
    document = docx.Document()
    for text in paragraphs:
        document.add_paragraph(text)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


MIXED = {
    "a.jsonl": lines({"content": "甲", "n": 1}, {"content": "乙", "title": "题"}),
    "b.json": json.dumps([{"text": "丙"}, {"text": "丁", "x": {"y": [1]}}], indent=2).encode(),
    "c.json": json.dumps({"n": 1, "text": "戊", "z": {}}, indent=4).encode(),
    "d.json": "\n".join(json.dumps({"text": t, "z": 1}, indent=1) for t in "己庚").encode(),
    "e.csv": 'n,正文\n1,"辛\n""引"""\n2,壬\n'.encode("gb18030"),
    "f.tsv.gz": gzip.compress('body\tn\n癸\t1\n一个 "引号\t2\n'.encode()),
    "g.parquet": parquet(text=["子", "丑"], n=[1, 2]),
    "h.docx": word("寅", "卯"),
    "i.epub": epub(["<p>辰</p>"]),
    "j.txt": "巳".encode(),
    "k.doc": b"\xd0\xcf\x11\xe0",
}
EXPECTED = {
    "a.jsonl#1": "甲",
    "a.jsonl#2": "题\n乙",
    "b.json#1": "丙",
    "b.json#2": "丁",
    "c.json#1": "戊",
    "d.json#1": "己",
    "d.json#2": "庚",
    "e.csv#2": '辛\n"引"',
    "e.csv#4": "壬",
    "f.tsv.gz#2": "癸",
    "f.tsv.gz#3": '一个 "引号',
    "g.parquet#1": "子",
    "g.parquet#2": "丑",
    "h.docx#1": "寅\n卯",
    "i.epub#1": "辰",
    "j.txt#1": "巳",
}


def test_a_folder_of_everything(tmp_path: Path) -> None:
    result, found, _ = normalized(tmp_path, MIXED)
    assert found == EXPECTED
    assert result.passed_over == {".doc": 1}
    assert result.text_keys == {"text": 7, "content": 2, "正文": 2, "body": 2}
    assert result.quarantined == 0


def test_rows_alone_or_lines(tmp_path: Path) -> None:
    rows = {place: text for place, text in EXPECTED.items() if place[0] in "abcdefg"}
    assert normalized(tmp_path / "records", MIXED, reading="records")[1] == rows
    assert normalized(tmp_path / "lines", MIXED, reading="lines")[1] == EXPECTED


def test_bad_rows_and_broken_files_are_named_and_cost_nothing_else(tmp_path: Path) -> None:
    whole = word("好")
    files = {
        "a.csv": '题,内容\n甲,乙\n"开,放\n丙,丁\n一,二,三\n戊,己\n'.encode(),
        "b.jsonl": b'{"text": "x"}\n{"text": 1}\n{oops\n{"text": "y"}\n',
        "c.docx": whole[: len(whole) // 2],
        "d.epub": b"no zip",
        "e.docx": b"\xd0\xcf\x11\xe0 an old one",
    }
    result, found, aside = normalized(tmp_path, files)
    assert found == {
        "a.csv#2": "乙",
        "a.csv#4": "丁",
        "a.csv#6": "己",
        "b.jsonl#1": "x",
        "b.jsonl#4": "y",
    }
    assert result.quarantined == 7
    assert set(result.unreadable_files) == {"x/c.docx", "x/d.epub", "x/e.docx"}
    assert "old .doc" in result.unreadable_files["x/e.docx"]
    named = [
        (row["file"], row["line"]) for row in map(json.loads, aside.read_text("utf-8").splitlines())
    ]
    assert named[:4] == [("x/a.csv", 3), ("x/a.csv", 5), ("x/b.jsonl", 2), ("x/b.jsonl", 3)]


# --- the text's field ----------------------------------------------------------------------------

NESTED = {
    "data": {"body": "甲", "parts": [{"t": "乙"}, {"t": "丙"}]},
    "q": "问",
    "a": "答",
    "e": None,
}


@pytest.mark.parametrize(
    ("text_key", "text"),
    [
        ("data.body", "甲"),
        ("data.parts.t", "乙\n丙"),
        (("q", "a"), "问\n答"),
        (["q", "e", "data.body"], "问\n甲"),
    ],
)
def test_text_key(text_key: str, text: str) -> None:
    assert TextKeys(text_key).record(NESTED)["text"] == text


def test_a_key_with_a_dot_in_its_name() -> None:
    assert TextKeys("a.b").record({"a.b": "x", "a": {"b": "y"}})["text"] == "x"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"n": 1, "Content": "x"}, "x"),
        ({"content": "b", "text": "a"}, "a"),
        ({"question": "q", "answer": "a", "n": 1}, "q\na"),
        ({"instruction": "q", "input": "", "output": "a"}, "q\na"),
        ({"paragraphs": ["一", "二"]}, "一\n二"),
        ({"anything": "x"}, "x"),
    ],
)
def test_guessed_fields(row: dict[str, object], text: str) -> None:
    assert TextKeys().record(row)["text"] == text


@pytest.mark.parametrize("text_key", ["", "txt", "a.txt"])
def test_a_missing_field_lists_those_that_are_there(text_key: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the keys are alpha, beta.*text_key"):
        normalized(tmp_path, {"a.jsonl": lines({"alpha": "x", "beta": 1})}, text_key=text_key)


def test_text_key_is_for_rows_only(tmp_path: Path) -> None:
    files = {"a.jsonl": lines({"b": "x", "text": "no"}), "b.txt": b"y"}
    assert normalized(tmp_path, files, text_key="b")[1] == {"a.jsonl#1": "x", "b.txt#1": "y"}


# --- tables --------------------------------------------------------------------------------------

CELL = st.text(st.sampled_from("甲乙ab\"'\n ,;\t"), max_size=8)


@given(rows=st.lists(st.tuples(CELL, CELL), max_size=6), is_tsv=st.booleans())
def test_what_the_csv_module_writes_comes_out(
    rows: list[tuple[str, str]], is_tsv: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("t") / ("x.tsv" if is_tsv else "x.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if is_tsv else ",", quoting=csv.QUOTE_ALL)
        writer.writerows([("a", "b"), *rows])
    found = [record.value for record in read_table(path)]
    assert found == [{"a": a, "b": b} for a, b in rows]


def test_an_open_quote_costs_one_line_in_time_that_grows_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + '"x,1\n' + "y,2\n" * 3000 + '5" z,3\n', encoding="utf-8")
    values = [record.value for record in read_table(path)]
    assert len(values) == 3002
    assert values[-1] == {"a": '5" z', "b": "3"}
    assert sum(not isinstance(value, dict) for value in values) == 1


def test_a_column_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("这是第一句话。\n这是第二句。\n", encoding="utf-8")
    found = [record.value for record in read_table(tmp_path / "x.csv")]
    assert found == [{"text": "这是第一句话。"}, {"text": "这是第二句。"}]


# --- Word and EPUB -------------------------------------------------------------------------------


def test_all_that_word_shows(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("标题", 1)
    document.add_paragraph("前\t后")
    table = document.add_table(2, 2)
    for row, texts in zip(table.rows, ("一二", "三四"), strict=True):
        for cell, text in zip(row.cells, texts, strict=True):
            cell.text = text
    paragraph = document.add_paragraph("留")
    word_xml = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    from docx.oxml import parse_xml

    for tag, inner in (("ins", "t"), ("del", "delText")):
        paragraph._p.append(
            parse_xml(
                f'<w:{tag} xmlns:w="{word_xml}" w:id="1" w:author="x"><w:r><w:{inner}>{tag}'
                f"</w:{inner}></w:r></w:{tag}>"
            )
        )
    document.add_paragraph("尾")
    out = io.BytesIO()
    document.save(out)
    text = read_document(".docx", out.getvalue()).text
    assert text.split("\n") == ["标题", "前\t后", "一\t二", "三\t四", "留ins", "尾"]


BODY = "<p>他说过的话都在这里。</p>" * 3


def test_chapters_of_an_epub_whatever_its_pages_are(tmp_path: Path) -> None:
    pages = [
        "<h1>第一章 起</h1><p>甲<ruby>漢<rt>hàn</rt></ruby>&nbsp;乙<br/>丙</p>" + BODY,
        "<p>接着说</p>",
        f"<div><h1>第二章</h1>{BODY}<h2>小节</h2>{BODY}</div>",
        f"<html><body><h1>第三章</h1><p>不是 XML<br>的页{BODY}</body></html>",
    ]
    result, found, _ = normalized(tmp_path, {"b.epub": epub(pages)})
    assert result.documents == 3
    assert found["b.epub#1"].startswith("第一章 起\n甲漢\xa0乙\n丙")
    assert found["b.epub#1"].endswith("接着说")
    assert "小节" in found["b.epub#2"]
    assert "不是 XML\n的页" in found["b.epub#3"]
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text("utf-8").splitlines()]
    assert [d["meta"]["chapter"] for d in kept] == ["第一章 起", "第二章", "第三章"]
    assert {d["meta"]["book"] for d in kept} == {"书名"}


def test_bombs_and_entities_are_refused(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"0" * (40 << 20))
    levels = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    laughs = f'<!DOCTYPE html [<!ENTITY l0 "ha">{levels}]><html><body>&l9;</body></html>'
    (tmp_path / "secret").write_text("geheim")
    outside = (
        f'<!DOCTYPE html [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]>'
        "<html><body>&x;</body></html>"
    )
    for suffix in (".docx", ".epub"):
        with pytest.raises(Unreadable, match="zip bomb"):
            read_document(suffix, bomb.getvalue())
    for page in (laughs, outside):
        with pytest.raises(Unreadable, match="refused XML"):
            read_document(".epub", epub([page]))
        data = io.BytesIO(word("x"))
        hostile = io.BytesIO()
        with zipfile.ZipFile(data) as old, zipfile.ZipFile(hostile, "w") as new:
            for name in old.namelist():
                content = old.read(name)
                if name == "word/document.xml":
                    declared = (
                        page[: page.index("]>") + 2].replace("html [", "w:document [").encode()
                    )
                    entity = b"&l9;" if b"l9" in declared else b"&x;"
                    content = content.replace(b"<w:document", declared + b"<w:document", 1)
                    content = content.replace(b">x</w:t>", b">x" + entity + b"</w:t>")
                new.writestr(name, content)
        try:
            text = read_document(".docx", hostile.getvalue()).text
        except Unreadable:
            continue
        assert text == "x"


@given(at=st.floats(0, 1, exclude_max=True), garbage=st.binary(min_size=1, max_size=9))
def test_documents_damaged_anywhere_are_read_or_refused(at: float, garbage: bytes) -> None:
    for suffix, data in ((".docx", WORD), (".epub", EPUB)):
        place = int(at * len(data))
        try:
            read_document(suffix, data[:place] + garbage + data[place + len(garbage) :])
        except Unreadable as error:
            assert str(error)


WORD, EPUB = word("甲", "乙"), epub(["<h1>一</h1><p>x</p>", "<p>y</p>"])
