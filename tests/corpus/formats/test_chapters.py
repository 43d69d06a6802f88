"""Novels become chapters by their headings; nothing is lost, and prose about chapters is none."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.formats.chapters import split_chapters
from tests.corpus.formats.own_files import normalized

PROSE = "他说过的话都在这里，没有别的。第三章讲的是什么，谁也不记得。\n" * 20
WRAPPED = (
    "上一页说的事情，要等到\n第三章讲的是爱情\n才会有人再提起来，那时\n第二章里的人都老了。\n" * 10
)


def titles(text: str) -> list[str]:
    chapters = split_chapters(text)
    assert "".join(chapter.text for chapter in chapters) == text
    for chapter in chapters:
        assert text.split("\n")[chapter.line - 1] == chapter.text.split("\n")[0]
    return [chapter.title for chapter in chapters]


def novel(*headings: str, body: str = PROSE) -> str:
    return "".join(f"{heading}\n\n{body}\n" for heading in headings)


@pytest.mark.parametrize(
    "headings",
    [
        ["第一回 灵根育孕源流出", "第二回 悟彻菩提真妙理", "第三回 四海千山皆拱伏"],
        ["第一回灵根育孕源流出", "第二回悟彻菩提真妙理", "第三回四海千山皆拱伏"],
        ["　　第１章　风", "　　第２章　雨", "　　第３章　雷"],
        ["第一百零九章：你是谁？", "第一百一十章：走！", "第一百一十一章"],
        ["楔子", "第1章 起", "第2章 承", "尾声", "番外一 旧事", "后记"],
        ["卷一", "卷二", "卷三"],
        ["卷之一　总论", "卷之二　水", "卷之三　火"],
        ["第一卷 风云 第一章 起", "第一卷 风云 第二章 承", "第二卷 雷 第三章 转"],
        ["【第一章】", "【第二章】", "【第三章】"],
        ["## 第一章 起", "## 第二章 承", "## 第三章 转"],
        ["第壹幕", "第貳幕", "第叁幕"],
        ["Chapter 1", "Chapter 2", "Chapter 3"],
        ["CHAPTER I. The Boy", "CHAPTER II. The Man", "CHAPTER III. The End"],
        ["Prologue", "Chapter One: Rain", "Chapter Two: Snow", "Epilogue"],
        ["正文 第一章 起", "正文 第二章 承", "正文 第三章 转"],
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_headings_of_many_kinds(headings: list[str], line_end: str) -> None:
    text = ("书名\n作者：某\n\n" + novel(*headings)).replace("\n", line_end)
    found = titles(text)
    assert len(found) == len(headings) + 1
    assert found[0] == ""
    for title, heading in zip(found[1:], headings, strict=True):
        assert title == heading.strip().strip("#").strip()


@pytest.mark.parametrize("body", [PROSE, WRAPPED])
def test_prose_about_chapters_is_no_heading(body: str) -> None:
    assert titles(novel("第一章 起", "第二章 承", "第三章 转", body=body)) == [
        "第一章 起",
        "第二章 承",
        "第三章 转",
    ]
    assert titles(body * 5) == [""]


def test_a_table_of_contents_is_front_matter() -> None:
    names = [f"第{n}章 题目{n}" for n in "一二三四五六"]
    contents = "目录\n" + "\n".join(names) + "\n\n"
    assert titles(contents + novel(*names)) == ["", *names]
    assert titles(contents + "出版说明\n\n" + PROSE + novel(*names)) == ["", *names]


def test_volumes_and_repeated_titles_join_their_chapter() -> None:
    text = novel("第一卷 风\n第一章 起", "第二章 承\n第二章 承", "第二卷 雷\n第三章 转")
    assert titles(text) == ["第一卷 风 第一章 起", "第二章 承", "第二卷 雷 第三章 转"]
    pages = novel("第一章 起", "第一章 起", "第二章 承", "第三章 转", "第三章 转")
    assert titles(pages) == ["第一章 起", "第二章 承", "第三章 转"]


def test_laws_outlines_and_short_texts_stay_whole() -> None:
    articles = "".join(f"第{n}条 为了保护权益，制定本法，所有人都适用。\n" for n in "一二三四")
    law = "".join(f"第{n}章 规定\n{articles * 3}" for n in "一二三四五六")
    assert titles(law) == [""]
    assert titles(novel("第一章 总 则", "第二章 出让", "第三章 附 则")) == [""]
    assert titles("".join(f"第{n}章 题\n两三句话。\n" for n in "一二三四五六") * 30) == [""]
    assert titles("第一章 起\n短\n第二章 承\n短\n第三章 转\n短\n") == [""]


PIECES = st.sampled_from(
    [
        "第一章 起",
        "第二章",
        "楔子",
        "目录",
        "Chapter 3",
        "卷一",
        "",
        " ",
        "　",
        "\r",
        "第三章讲的是",
        PROSE,
    ]
)


@given(parts=st.lists(PIECES, max_size=40), is_book=st.booleans())
def test_no_character_is_lost(parts: list[str], is_book: bool) -> None:
    text = "\n".join(parts)
    chapters = split_chapters(text, is_book=is_book)
    assert "".join(chapter.text for chapter in chapters) == text
    assert chapters


def test_a_real_novel(shared: Path, tmp_path: Path) -> None:
    data = (shared / "data" / "pretrain" / "classics" / "xiyouji.txt.gz").read_bytes()
    text = gzip.decompress(data).decode()
    found = split_chapters(text)
    assert "".join(chapter.text for chapter in found) == text
    numbered = [chapter.title for chapter in found if chapter.title.startswith("第")]
    assert len(numbered) == 100
    assert [c.title.partition(" ")[0] for c in found if c.title not in numbered] == ["", "附录"]
    result, documents, _ = normalized(tmp_path, {"xiyouji.txt.gz": data})
    assert result.documents == len(documents) == 102
    whole = "".join(documents.values())
    assert "".join(whole.split()) == "".join(text.split())
    encoded = gzip.compress(text.encode("gb18030"))
    _, again, _ = normalized(tmp_path / "gb", {"xiyouji.txt.gz": encoded})
    assert list(again.values()) == list(documents.values())
