"""Files as people have them: hand-made JSON, tables of Excel and databases, damaged and odd books,
texts in encodings that nobody states."""

import io
import json
import zipfile
from pathlib import Path

import docx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.formats import text_files
from corpus.formats.chapters import split_chapters
from corpus.formats.documents import Unreadable, read_document
from corpus.json_items import MalformedJson, parse_almost_json
from tests.corpus.formats.own_files import CONTAINER, PAGE, normalized

SENTENCE = "天色渐渐暗了下来，远处的山影连成一片，村里的炊烟也散了。"
LONG = SENTENCE * 8


def read(folder: Path, name: str, data: bytes | str, **recipe: object) -> dict[str, str]:
    """Texts of one file by the number behind its name."""
    data = data.encode() if isinstance(data, str) else data
    found = normalized(folder, {name: data}, **recipe)[1]
    return {place.partition("#")[2]: text for place, text in found.items()}


# --- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        '{"text": "甲"},\n{"text": "乙"},\n{"text": "丙"}\n',  # an array without brackets
        '{"text": "甲"}{"text": "乙"}{"text": "丙"}',
        '{"text": "甲"} {"text": "乙"}\n{"text": "丙"}',
        '{"text": "甲",}\n{"text": "乙",},\n{"text": "丙"}',
        '[\n{"text": "甲"},\n{"text": "乙",},\n{"text": "丙",},\n]\n',
        '["甲", "乙", "丙"]',
        '"甲"\n"乙"\n"丙"\n',
        '{"RECORDS":[\n{"text":"甲"},\n{"text":"乙"},\n{"text":"丙"}\n]}\n',
        '{"version": "1.0", "total": 3, "data": [{"text":"甲"},{"text":"乙"},{"text":"丙"}],'
        ' "next": {"text": "丁"}}',
        '{\n "rows": [\n  {\n   "text": "甲"\n  },\n  {"text": "乙"}, {"text": "丙"}\n ]\n}\n',
        '{"text": "甲"}\r{"text": "乙"}\r{"text": "丙"}\r',
    ],
)
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_json_in_every_form(content: str, codec: str, tmp_path: Path) -> None:
    found = read(tmp_path, "x.json", content.encode(codec), reading="records")
    assert found == {"1": "甲", "2": "乙", "3": "丙"}


def test_a_document_with_a_list_called_data_stays_one(tmp_path: Path) -> None:
    document = {"title": "题", "text": "文", "data": [{"text": "甲"}]}
    content = json.dumps(document, indent=1, ensure_ascii=False)
    assert read(tmp_path, "x.json", content, reading="records") == {"1": "题\n文"}


def test_rows_that_hold_a_list_called_data_stay_rows(tmp_path: Path) -> None:
    rows = '{"data": [{"t": "甲"}, {"t": "乙"}]}\n{"data": [{"t": "丙"}]}\n'
    found = read(tmp_path, "x.jsonl", rows, reading="records", text_key="data.t")
    assert found == {"1": "甲\n乙", "2": "丙"}


@given(st.dictionaries(st.text(), st.text() | st.lists(st.text())))
def test_sound_json_is_parsed_as_it_is(value: dict[str, object]) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert parse_almost_json(text) == value
    assert parse_almost_json(text + ",") == value
    if value:
        assert parse_almost_json(text[:-1] + ", }") == value


@pytest.mark.parametrize("text", ['{"a": 1', '{"a" 1}', '{,"a": 1}', "{'a': 1}", '{"a": "b}', ""])
def test_what_is_no_json_stays_none(text: str) -> None:
    with pytest.raises(MalformedJson):
        parse_almost_json(text)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            {
                "conversations": [
                    {"from": "system", "value": "你是助手。"},
                    {"from": "human", "value": "一加一？"},
                    {"from": "gpt", "value": "二"},
                    {"from": "human", "value": "再加一？"},
                    {"from": "gpt", "value": "三"},
                ]
            },
            "你是助手。\n问：一加一？\n答：二\n问：再加一？\n答：三",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "早"},
                    {"role": "assistant", "content": "您早"},
                ]
            },
            "问：早\n答：您早",
        ),
        ({"text": "", "content": "有"}, "有"),
        ({"text": "文", "messages": [{"role": "user", "content": "问"}]}, "文"),
        ({"text": b"\xe7\x94\xb2"}, "甲"),
    ],
)
def test_rows_of_the_usual_forms(row: dict[str, object], text: str, tmp_path: Path) -> None:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row]), out)
    assert read(tmp_path, "x.parquet", out.getvalue(), reading="records") == {"1": text}


def test_a_damaged_byte_costs_its_character_not_its_row(tmp_path: Path) -> None:
    rows = [{"text": LONG}, {"text": "后"}]
    good = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    bad = good.replace("山".encode(), "山".encode()[:2], 1)
    files = {
        "a.jsonl": bad,
        "b.json": b"[" + b",".join(bad.splitlines()) + b"]",
        "c.csv": ("text\n" + LONG + "\n后\n").encode().replace("山".encode(), b"\xff", 1),
        "d.csv": ("text\n" + f"{LONG}\n" * 9).encode("gb18030").replace(b"\xc9\xbd", b"\xc9", 1),
        "f.jsonl": (row := good.decode().split("\n")[0].encode("gb18030"))
        + b"\n"
        + row.replace(b"\xc9\xbd", b"\xc9", 1),  # without a line end
        "e.jsonl": good.decode().encode("gb18030").replace(b"\xc9\xbd", b"\xc9", 1),
    }
    result, found, _ = normalized(tmp_path, files, reading="records")
    assert result.quarantined == 0
    assert sorted(result.damaged_files) == [f"x/{name}" for name in sorted(files)]
    for place in ("a.jsonl#1", "b.json#1", "c.csv#2", "d.csv#2", "e.jsonl#1", "f.jsonl#2"):
        assert found[place] == LONG.replace("山", "\ufffd", 1), place
    assert found["d.csv#3"] == LONG


def test_lines_of_another_encoding_in_one_file(tmp_path: Path) -> None:
    data = f"{SENTENCE}\n".encode() * 4 + f"{SENTENCE}\n".encode("gb18030") * 4
    assert read(tmp_path / "a", "x.txt", data) == {"1": "\n".join([SENTENCE] * 8)}
    lines = read(tmp_path / "b", "x.txt", data, reading="lines")
    assert list(lines.values()) == [SENTENCE] * 8


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [LONG, "Plain words of a page.\n" * 5, f"{SENTENCE}\r\n" * 4])
def test_utf16_without_a_mark(codec: str, text: str, tmp_path: Path) -> None:
    found = read(tmp_path, "x.txt", text.encode(codec))
    assert found == {"1": text.replace("\r\n", "\n").strip()}


# --- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("sep=;\r\n题;正文\r\n春;暖，真好\r\n", {"3": "暖，真好"}),
        ("题,正文\n春,暖,\n夏,热,,\n", {"2": "暖", "3": "热"}),
        ('id,text\n1,"他说 \\"好\\"，走了"\n2,"完"\n', {"2": '他说 "好"，走了', "3": "完"}),
        ("题,正文\r春,暖\r夏,热\r", {"2": "暖", "3": "热"}),
        (
            "7,今天天气很好，我们去公园玩。,正面\n8,雨。,负面\n",
            {"1": "今天天气很好，我们去公园玩。", "2": "雨。"},
        ),
        ("col.1,text,is_spam?,2020-01-01\n1,甲,0,x\n", {"2": "甲"}),
    ],
)
def test_tables_of_other_programs(content: str, found: dict[str, str], tmp_path: Path) -> None:
    texts = read(tmp_path, "x.csv", content, reading="records")
    assert {place: text.rpartition("\n")[2] for place, text in texts.items()} == found


def test_the_column_that_is_asked_for_makes_a_first_row_one_of_names(tmp_path: Path) -> None:
    survey = "编号,您对本产品有什么看法，请写下来\n1,不错\n"
    key = "您对本产品有什么看法，请写下来"
    assert read(tmp_path, "x.csv", survey, reading="records", text_key=key) == {"2": "不错"}


# --- Word and EPUB -------------------------------------------------------------------------------


def test_what_word_shows_and_hides(tmp_path: Path) -> None:
    document = docx.Document()
    document.sections[0].header.paragraphs[0].text = "页眉"
    paragraph = document.add_paragraph("解")
    w = nsdecls("w")
    math = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
    for xml in (
        f"<m:oMath {math}><m:r><m:t>x=1</m:t></m:r></m:oMath>",
        f"<w:r {w}><w:rPr><w:vanish/></w:rPr><w:t>隐</w:t></w:r>",
        f'<w:r {w}><w:rPr><w:vanish w:val="0"/></w:rPr><w:t>显</w:t></w:r>',
        f"<w:r {w}><w:ruby><w:rt><w:r><w:t>pin</w:t></w:r></w:rt>"
        "<w:rubyBase><w:r><w:t>拼</w:t></w:r></w:rubyBase></w:ruby></w:r>",
    ):
        paragraph._p.append(parse_xml(xml))
    out = io.BytesIO()
    document.save(out)
    files = {"x.docx": out.getvalue(), "~$x.docx": b"lock", "__MACOSX/x.txt": b"x"}
    result, found, _ = normalized(tmp_path, files)
    assert found == {"x.docx#1": "解x=1显拼"}
    assert not result.quarantined


def book(pages: dict[str, str | bytes], manifest: str, spine: str, encryption: str = "") -> bytes:
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata/>'
        f"<manifest>{manifest}</manifest><spine>{spine}</spine></package>"
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("META-INF/container.xml", CONTAINER)
        archive.writestr("OEBPS/content.opf", package)
        if encryption:
            archive.writestr("META-INF/encryption.xml", encryption)
        for name, page in pages.items():
            archive.writestr(f"OEBPS/{name}", page)
    return out.getvalue()


def item(identifier: str, href: str, kind: str = "application/xhtml+xml") -> str:
    return f'<item id="{identifier}" href="{href}" media-type="{kind}"/>'


FIRST, SECOND = PAGE.format("<p>甲</p>"), PAGE.format("<p>乙</p>")
BOTH = '<itemref idref="a"/><itemref idref="b"/>'


@pytest.mark.parametrize(
    ("pages", "manifest", "spine"),
    [
        ({"a.xhtml": FIRST, "b.xhtml": SECOND}, item("a", "a.xhtml") + item("b", "b.xhtml"), ""),
        (
            {"a.xhtml": FIRST, "b.xhtml": SECOND},
            item("a", "a.xhtml") + item("b", "b.xhtml"),
            '<itemref idref="a"/><itemref idref="gone"/>',
        ),
        (
            {"第一 章.xhtml": FIRST, "B%20.xhtml": SECOND},
            item("a", "%E7%AC%AC%E4%B8%80%20%E7%AB%A0.xhtml") + item("b", "b%20.xhtml"),
            BOTH,
        ),
        (
            {"a.htm": FIRST, "b.html": SECOND},
            item("a", "a.htm", "text/x-oeb1-document") + item("b", "b.html#top", "text/html"),
            BOTH,
        ),
    ],
)
def test_books_whose_order_or_addresses_are_not_right(
    pages: dict[str, str | bytes], manifest: str, spine: str
) -> None:
    found = read_document(".epub", book(pages, manifest, spine))
    assert found.text.split() == ["甲", "乙"]
    assert not found.missing


def test_a_page_that_cannot_be_read_is_named_and_costs_no_other(tmp_path: Path) -> None:
    data = book(
        {"a.xhtml": "", "c.xhtml": FIRST},
        item("a", "a.xhtml") + item("b", "b.xhtml") + item("c", "c.xhtml"),
        '<itemref idref="a"/><itemref idref="b"/><itemref idref="c"/>',
    )
    result, found, _ = normalized(tmp_path, {"x.epub": data})
    assert found == {"x.epub#1": "甲"}
    assert "OEBPS/b.xhtml" in result.unreadable_files["x/x.epub"]


@pytest.mark.parametrize("encrypted", ["fonts/f.ttf", "OEBPS/a.xhtml"])
def test_garbled_fonts_are_no_protection_and_garbled_pages_are(encrypted: str) -> None:
    rights = f'<encryption><CipherReference URI="{encrypted}"/></encryption>'
    data = book({"a.xhtml": FIRST}, item("a", "a.xhtml"), '<itemref idref="a"/>', rights)
    if encrypted.endswith("ttf"):
        assert read_document(".epub", data).text.strip() == "甲"
    else:
        with pytest.raises(Unreadable, match="protected"):
            read_document(".epub", data)


def test_a_page_flows_as_browsers_show_it() -> None:
    page = PAGE.format(
        "<p>\n  A line that goes\n  on, and <i>on</i>.\n</p>\n<p>　　中文\n也是。</p>"
        "<table><tr><td>甲</td><td>乙</td></tr>\n<tr><td>丙</td><td>丁</td></tr></table>"
        "<pre>if x:\n    y</pre>"
    )
    data = book({"a.xhtml": page}, item("a", "a.xhtml"), '<itemref idref="a"/>')
    assert [line for line in read_document(".epub", data).text.split("\n") if line.strip()] == [
        "A line that goes on, and on.",
        "　　中文也是。",
        "甲\t乙",
        "丙\t丁",
        "if x:",
        "    y",
    ]


# --- novels --------------------------------------------------------------------------------------

CHAPTER = f"　　{LONG}\n" * 4


@pytest.mark.parametrize(
    "heading",
    ["{}、风起", "{}.风起", "{:03d} 风起", "{}", "第{}章 你是谁？我不知道！", "第{}章 走吧！走？"],
)
@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n"])
def test_headings_of_web_novels(heading: str, line_end: str, tmp_path: Path) -> None:
    text = "".join(f"{heading.format(n)}\n{CHAPTER}" for n in range(1, 10))
    found = read(tmp_path, "x.txt", text.replace("\n", line_end))
    assert len(found) == 9
    assert [t.split("\n")[0] for t in found.values()] == [heading.format(n) for n in range(1, 10)]


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"{n}、要点如下：\n{CHAPTER}" for n in range(1, 10)),  # a sentence, no title
        "".join(f"{n % 4 + 1}、要点\n{CHAPTER}" for n in range(12)),  # lists that begin again
        "".join(f"{n}、要点\n" for n in range(1, 400)) + CHAPTER,
        "".join(f"{n}. A tip\n{'Some words go here. ' * 40}\n" for n in range(1, 15)),
        "".join(f"{n}、要点\n{CHAPTER}" for n in range(1, 6)),
    ],
)
def test_numbered_points_are_no_chapters(text: str) -> None:
    assert [chapter.text for chapter in split_chapters(text)] == [text]


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=4, max_size=12),
    codec=st.sampled_from(["utf-8", "gb18030", "utf-16"]),
    title=st.sampled_from(["第{}章 风\n", "{}\n"]),
)
def test_a_text_longer_than_is_read_at_once_loses_nothing(
    lengths: list[int], codec: str, title: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    chapters = [title.format(n) + f"{LONG}{n}\n" * k for n, k in enumerate(lengths, 1)]
    text = "".join(chapters)
    folder = tmp_path_factory.mktemp("long")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "MAX_FILE", 1 << 13)
        found = read(folder, "x.txt", text.encode(codec))
    assert "\n".join(found.values()) == text.strip()
    places = [int(place) for place in found]
    assert places == sorted(set(places))
