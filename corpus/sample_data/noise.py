"""What is wrong with real crawled text, put into our own on purpose.

Every `EVERY`-th document of a corpus is soiled, kind after kind, so that each kind stands in every
corpus of some size and the rates don't depend on the seed:

    document 0  1  2  3  4  5  6  7  8  9 10 11 …
             ·  ·  ·  ·  html  ·  ·  ·  ·  e-mail  ·  · …
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random

EVERY = 5
"""One document in so many is dirty."""

MOJIBAKE_SAMPLES = ("naïve café", "“über”", "señor – años", "l’été à Genève")
GLYPHS = "◆●■►▲□"


def _insert(rng: Random, text: str, piece: str) -> str:
    """`text` with `piece` on a line of its own between two lines, or at the end."""
    lines = text.split("\n")
    lines.insert(rng.randint(1, len(lines)), piece)
    return "\n".join(lines)


def html(rng: Random, text: str) -> str:
    """Tags, entities and a script around the text."""
    lines = "".join(f"<p class='txt'>{line}</p>\n" for line in text.split("\n"))
    return f"<div id='main'><h1>山谷日报</h1>\n{lines}<br/><a href='#top'>返回&nbsp;顶部</a></div>"


def email(rng: Random, text: str) -> str:
    """A contact line with an address."""
    return _insert(
        rng, text, f"投稿请寄 editor{rng.randint(1, 99)}@valley-news.example.com 谢谢大家。"
    )


def link(rng: Random, text: str) -> str:
    """Links in running text."""
    return _insert(
        rng,
        text,
        f"原文见 https://www.valley.example.org/news/{rng.randint(1000, 9999)}.html 欢迎转载。",
    )


def ip(rng: Random, text: str) -> str:
    """An IP address, as forums print it."""
    address = ".".join(str(rng.randint(1, 254)) for _ in range(4))
    return _insert(rng, text, f"这一条留言来自 {address} 的读者，时间是早上。")


def mojibake(rng: Random, text: str) -> str:
    """UTF-8 read as Windows-1252, once over."""
    sample = rng.choice(MOJIBAKE_SAMPLES)
    broken = sample.encode().decode("cp1252", errors="ignore")
    return _insert(rng, text, f"门上的牌子写着 {broken} ，没有人看得懂。")


def latex(rng: Random, text: str) -> str:
    """A macro, defined and used."""
    number = rng.randint(2, 9)
    lines = text.split("\n")
    lines.insert(0, "\\newcommand{\\valley}{山谷}")
    lines.append(f"在 \\valley 里一共有 {number} 条小路，写成式子就是 $n = {number}$ 。")
    return "\n".join(lines)


def repeated(rng: Random, text: str) -> str:
    """Some sentences three times over."""
    first = text.split("\n")[-1]
    return "\n".join((text, first, first))


def long_line(rng: Random, text: str) -> str:
    """Everything on one line of more than 1,000 characters."""
    line = text.replace("\n", "")
    return line + line[::-1] * (1100 // max(1, len(line)) + 1)


def glyphs(rng: Random, text: str) -> str:
    """Bullets and boxes before each line."""
    return "\n".join(rng.choice(GLYPHS) + line for line in text.split("\n"))


def copyright_notice(rng: Random, text: str) -> str:
    """A line of rights."""
    return text + "\n/* Copyright (c) 2021 Valley Press. All rights reserved. */"


def symbols(rng: Random, text: str) -> str:
    """More punctuation than text, as in a broken table."""
    return "\n".join("|----|====|****|  " + line[:6] + "  |####|%%%%|" for line in text.split("\n"))


def short(rng: Random, text: str) -> str:
    """Too little to be a document."""
    return rng.choice(("。", "顶", "已阅", "？？", "沙发"))


TEXT_DIRT: dict[str, Callable[[Random, str], str]] = {
    function.__name__: function
    for function in (
        html,
        email,
        link,
        ip,
        mojibake,
        latex,
        repeated,
        long_line,
        glyphs,
        copyright_notice,
        symbols,
        short,
    )
}
"""Kinds of dirt inside a text. `near_duplicate` is made beside these by `soil`."""


def near_duplicate(rng: Random, text: str) -> str:
    """`text` with another last character: one shingle in all differs, whatever its width."""
    return text[:-1] + rng.choice("啊吧呢哦呀")


def soil(rng: Random, texts: Sequence[str], *, offset: int = 0) -> Iterator[str]:
    """The texts in order, one in `EVERY` made dirty. `offset` says with which kind to begin."""
    kinds = [*TEXT_DIRT, "near_duplicate"]
    for index, text in enumerate(texts):
        if index % EVERY != EVERY - 1:
            yield text
            continue
        kind = kinds[(index // EVERY + offset) % len(kinds)]
        if kind == "near_duplicate":
            yield near_duplicate(rng, texts[index - 1])
        else:
            yield TEXT_DIRT[kind](rng, text)


MALFORMED = (
    '{"text": "这一行没有写完'.encode(),
    b"{'text': 'single quotes are no JSON'}",
    b'{"text": "\xff\xfe not UTF-8 \xd6\xd0\xce\xc4"}',
    b"",
    b"null",
)
"""Lines that hold no record: cut off, wrong quotes, wrong encoding, nothing, no object."""


def with_malformed(rng: Random, lines: Sequence[bytes]) -> list[bytes]:
    """JSON lines with every kind of malformed line among them, anywhere but first."""
    mixed = list(lines)
    for bad in MALFORMED:
        mixed.insert(rng.randint(1, len(mixed)), bad)
    return mixed


_HEADERS = {
    "python": "# Copyright (c) {year} The Valley Authors.\n# Contact: {mail}\n"
    "# Licensed under the Valley License, https://valley.example.org/license\n\n",
    "java": "/*\n * Copyright (c) {year} The Valley Authors.\n * Contact: {mail}\n */\n",
    "cpp": "// Copyright (c) {year} The Valley Authors. All rights reserved.\n"
    "// See https://valley.example.org/license or write to {mail}\n\n",
}


def soil_code(rng: Random, language: str, files: Sequence[str]) -> Iterator[str]:
    """Source files with what public repositories add: headers, addresses, tags, generated lines.

    Two in five open with a notice, one in three with StarCoder's own tags; one in fifteen is a near
    copy of the one before, one in fifteen one endless line, one in thirty nearly empty.
    """
    for index, text in enumerate(files):
        if index % 15 == 9:
            yield near_duplicate_code(rng, files[index - 1])
            continue
        if index % 15 == 14:
            numbers = ", ".join(str(rng.randint(100, 999)) for _ in range(400))
            yield f"{text}\n{'#' if language == 'python' else '//'} {numbers}\n"
            continue
        if index % 30 == 7:
            yield "\n"
            continue
        if index % 5 < 2:
            mail = f"dev{rng.randint(1, 30)}@valley.example.com"
            text = _HEADERS[language].format(year=rng.randint(2015, 2023), mail=mail) + text
        if index % 3 == 0:
            text = f"<reponame>valley/tools<filename>src/file{index}<gh_stars>1-10\n{text}"
        yield text


def near_duplicate_code(rng: Random, text: str) -> str:
    """The same file with another number in it."""
    return text.replace("3", "4", 1) + "\n"
