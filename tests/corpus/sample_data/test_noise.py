"""Noise in the sample data: every kind is there, and only as often as intended."""

import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from corpus.sample_data.noise import MALFORMED, NOISE_INTERVAL, TEXT_NOISE, add_noise
from tests.corpus.sample_data.records import all_rows

MARKS = {
    "html": r"<p class='txt'>",
    "email": r"@valley-news\.example\.com",
    "link": r"https://www\.valley\.example\.org",
    "ip": r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b",
    "mojibake": r"Ã|â€",
    "latex": r"\\newcommand\{",
    "glyphs": r"^[◆●■►▲□]",
    "copyright_notice": r"Copyright \(c\)",
    "symbols": r"\|====\|",
}


@pytest.mark.parametrize("name", ["skypile", "wanjuan", "wikipedia_cn"])
def test_every_kind_of_noise_is_there(name: str, sample_files: Path) -> None:
    texts = [
        text
        for row in all_rows(sample_files / "corpora" / name)
        for text in row.values()
        if isinstance(text, str)
    ]
    for kind, mark in MARKS.items():
        assert any(re.search(mark, text, re.MULTILINE) for text in texts), kind
    assert any(len(line) > 1000 for text in texts for line in text.split("\n"))
    assert any(len(set(lines)) <= len(lines) - 2 for lines in (t.split("\n") for t in texts))
    assert any(len(text) <= 2 for text in texts)
    ends = Counter(text[:-1] for text in set(texts) if len(text) > 100)
    assert max(ends.values()) > 1, "no near-duplicate"


def test_some_texts_are_traditional(sample_files: Path) -> None:
    texts = [row["text"] for row in all_rows(sample_files / "corpora/skypile")]
    num_traditional = sum("隻" in text or "輛" in text or "場" in text for text in texts)
    assert 0.03 < num_traditional / len(texts) < 0.2


def test_jsonl_corpora_hold_every_kind_of_malformed_line(sample_files: Path) -> None:
    names = ("skypile", "baidu_baike", "baidu_qa", "belle_2m", "belle_3_5m", "moss", "firefly")
    for name in names:
        (file,) = (p for p in (sample_files / "corpora" / name).rglob("*") if p.is_file())
        lines = file.read_bytes().split(b"\n")
        assert all(bad in lines[1:] for bad in MALFORMED)
        assert lines[0].startswith(b"{")


def test_code_has_headers_tags_long_lines_and_empty_files(sample_files: Path) -> None:
    for name in ("starcoder_cpp", "starcoder_java", "starcoder_python"):
        contents = [row["content"] for row in all_rows(sample_files / "corpora" / name)]
        assert any("Copyright (c)" in text and "@" in text for text in contents)
        assert any(text.startswith("<reponame>") for text in contents)
        assert any(len(line) > 1000 for text in contents for line in text.split("\n"))
        assert any(not text.strip() for text in contents)


def test_python_files_are_python(sample_files: Path) -> None:
    contents = [row["content"] for row in all_rows(sample_files / "corpora/starcoder_python")]
    for text in contents:
        compile(re.sub(r"^<reponame>.*\n", "", text), "sample.py", "exec")


def test_noise_is_in_one_text_of_so_many() -> None:
    texts = [f"第{number}篇文章，讲的是一件小事。\n后来大家都知道了。" for number in range(260)]
    noisy = list(add_noise(Random(0), texts))
    changed = [index for index, text in enumerate(noisy) if text != texts[index]]
    assert changed == list(range(NOISE_INTERVAL - 1, 260, NOISE_INTERVAL))
    assert len(changed) >= 2 * len(TEXT_NOISE)
