"""Plain files, lines and feeds: what of a folder becomes a document, and what is refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import DataError
from corpus.formats.records import Damaged
from corpus.formats.text_files import read_file
from tasks.core.stage import StageRun
from tasks.normalize import NormalizeConfig, normalize
from tests.tasks.running import result_of, run_stage, stage_run


def normalized(folder: Path, name: str, files: dict[str, bytes]) -> StageRun:
    for file, data in files.items():
        path = folder / "raw" / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    config = NormalizeConfig(corpora=(name,))
    return run_stage(normalize, folder / "out", config, raw=result_of(stage_run(folder / "raw")))


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_each_text_file_is_a_document(tmp_path: Path) -> None:
    files = {
        "a.txt": "第一行\r\n第二行\r\n".encode("gb18030") * 40,
        "deep/b.md": "# 题\n文".encode(),
        "c.html": "<p>网页 &amp; 标签</p>".encode(),
        "d.tex.gz": gzip.compress(b"\\def\\a{x}"),
        "e.png": b"\x89PNG",
        "f.txt": b"",
        "g.txt": "好\n".encode() + b"\xff\xff\xff\n",
        ".hidden.txt": b"x",
    }
    run = normalized(tmp_path, "plain_files", files)
    found = {d["id"]: d["text"] for d in lines(tmp_path / "out" / "plain_files.jsonl")}
    assert found == {
        "plain_files/a.txt#1": ("第一行\n第二行\n" * 40).strip(),
        "plain_files/c.html#1": "<p>网页 &amp; 标签</p>",
        "plain_files/d.tex.gz#1": "\\def\\a{x}",
        "plain_files/deep/b.md#1": "# 题\n文",
    }
    reasons = {a["file"]: a["reason"] for a in lines(tmp_path / "out/quarantine/plain_files.jsonl")}
    assert reasons["plain_files/f.txt"] == "no text"
    assert reasons["plain_files/g.txt"].endswith("of line 2")
    row = run.notes["sources"]["plain_files"]
    assert row["passed_over"] == {".png": 1}
    assert row["encodings"] == {"UTF-8": 5, "GB18030": 1}


def test_each_line_is_a_document(tmp_path: Path) -> None:
    data = "\ufeff甲\n\n 乙 \r\n".encode() + b"\xff\xff\xff\n" + "丙\n".encode()
    normalized(tmp_path, "plain_lines", {"a.txt": data, "README.md": b"# no document"})
    found = [(d["id"], d["text"]) for d in lines(tmp_path / "out" / "plain_lines.jsonl")]
    assert found == [
        ("plain_lines/a.txt#1", "甲"),
        ("plain_lines/a.txt#3", "乙"),
        ("plain_lines/a.txt#5", "丙"),
    ]
    (aside,) = lines(tmp_path / "out" / "quarantine" / "plain_lines.jsonl")
    assert aside["line"] == 4


def test_a_folder_without_such_files_says_what_it_passed_over(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.json"):
        normalized(tmp_path, "plain_files", {"a.json": b"{}"})


def entries(tmp_path: Path, xml: str) -> list[Any]:
    (tmp_path / "x.xml").write_text(xml, encoding="utf-8")
    return [r.value for r in read_file(tmp_path / "x.xml")]


def test_feed_entries_unescape_html_once(tmp_path: Path) -> None:
    rss = """<?xml version="1.0" encoding="gb2312"?><rss><channel><title>站</title>
    <item><title>一</title><description>&lt;p&gt;1 &amp;lt; 2&lt;/p&gt;</description></item>
    <item><title>二</title><description>短</description>
      <c:encoded xmlns:c="urn:c"><![CDATA[<b>全文</b>&nbsp;在此]]></c:encoded></item>
    </channel></rss>"""
    assert entries(tmp_path, rss) == [
        {"title": "一", "text": "<p>1 &lt; 2</p>"},
        {"title": "二", "text": "<b>全文</b>&nbsp;在此"},
    ]
    atom = """<feed xmlns="http://www.w3.org/2005/Atom"><entry><title>三</title>
    <content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml">甲<br/>乙<p>丙</p>丁</div>
    </content></entry></feed>"""
    (entry,) = entries(tmp_path, atom)
    assert entry["text"].split() == ["甲", "乙丙", "丁"]


def test_feeds_with_common_faults_are_read(tmp_path: Path) -> None:
    rss = (
        "<rss><item><title>A & B\x0b&nbsp;</title><description>好 &#2...</description></item></rss>"
    )
    assert entries(tmp_path, rss) == [{"title": "A & B&nbsp;", "text": "好 &#2..."}]


def test_hostile_and_broken_xml_is_refused(tmp_path: Path) -> None:
    levels = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    laughs = f'<!DOCTYPE r [<!ENTITY l0 "ha">{levels}]><rss><item><title>&l9;</title></item></rss>'
    secret = tmp_path / "secret"
    secret.write_text("geheim")
    outside = f'<!DOCTYPE r [<!ENTITY x SYSTEM "file://{secret}">]><rss><item>&x;</item></rss>'
    for xml, reason in (
        (laughs, "refused XML"),
        (outside, "refused XML"),
        ("<rss><item>", "malformed XML"),
    ):
        (damage,) = entries(tmp_path, xml)
        assert isinstance(damage, Damaged)
        assert damage.reason.startswith(reason)
    (deep,) = entries(tmp_path, "<r>" * 50_000 + "底" + "</r>" * 50_000)
    assert deep == {"text": "底"}
