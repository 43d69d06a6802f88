"""The dirty real files, normalised and cleaned by the mappers of both text recipes: pages without
markup but with all their sentences, macros expanded, mojibake and traditional characters right."""

import gzip
import html.parser
import json
import re
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ftfy
import opencc
import pytest

from corpus.cleaning import recipe as recipes
from tasks.normalize import NormalizeConfig, normalize
from tests.tasks.running import result_of, run_stage, stage_run

Clean = Callable[[list[str]], list[str]]


def mappers_of(name: str) -> Clean:
    """Texts after all mappers of a recipe."""
    from corpus.cleaning.engine.pipeline import build, map_texts

    recipe = recipes.load(name)
    recipe.import_custom_operators()
    mappers = build([op for op in recipe.operators if op.kind == "mapper"])
    return lambda texts: list(map_texts(mappers, texts))


@pytest.fixture(scope="module")
def paper() -> Clean:
    """The paper's recipe."""
    return mappers_of("paper/text")


@pytest.fixture(scope="module")
def repaired() -> Clean:
    """Ours."""
    return mappers_of("repaired/text")


@pytest.fixture
def dirty(shared: Path) -> Path:
    """The folder of dirty files."""
    return shared / "data" / "pretrain" / "dirty"


def normalized(folder: Path, files: dict[str, bytes], corpus: str = "plain_files") -> list[str]:
    """Texts of files after the stage, in the order of their names."""
    (folder / "raw" / corpus).mkdir(parents=True)
    for name, data in files.items():
        (folder / "raw" / corpus / name).write_bytes(data)
    raw = result_of(stage_run(folder / "raw"))
    run = run_stage(
        normalize, folder / "out", NormalizeConfig(corpora=(corpus,), longest={"*": 0}), raw=raw
    )
    assert run.counts["quarantined"] == 0
    lines = (folder / "out" / f"{corpus}.jsonl").read_bytes().splitlines()
    return [json.loads(line)["text"] for line in lines]


def of_rows(folder: Path, texts: list[str]) -> list[str]:
    """Texts as rows of a corpus after the stage."""
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    return normalized(folder, {"x.jsonl": rows.encode()}, "skypile")


# --- HTML ----------------------------------------------------------------------------------------


class Visible(html.parser.HTMLParser):
    """The visible text of a page, by the standard library's parser."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.hidden, self.pieces = 0, list[str]()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if self.hidden <= 0:
            self.pieces.append(data)


TAG = re.compile(
    r"</?(?:div|span|a|p|script|style|li|ul|td|tr|table|nav|h\d|br|img|meta|link|body)\b[^<>]*>"
)
LINK = re.compile(r"(?:https?|ftp)://[\w-]+\.[\w.-]*[a-z]{2,}")
MAIL = re.compile(r"[\w.+-]+@[\w-]+\.[a-z]{2,}")
ADDRESS = re.compile(r"(?<![\w.])(?=[\d.]{0,11}\d{3})(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
"""IPv4 with a part of three digits; 2.1.2.1 is a section's number as often."""
HANZI = re.compile(r"[\u4e00-\u9fff]")
SENTENCE = re.compile(r"[\u4e00-\u9fff]{6,}")


def pages(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.iterdir()):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if ".jsonl" in path.name:
            rows = [json.loads(line) for line in data.decode().splitlines()]
            found |= {f"blog-{n:02d}.html": row["html"] for n, row in enumerate(rows)}
        else:
            found[path.name.removesuffix(".gz")] = data.decode()
    return dict(sorted(found.items()))


@pytest.mark.parametrize("name", ["paper/text", "repaired/text"])
def test_pages_lose_their_markup_and_keep_their_sentences(
    name: str, dirty: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    clean: Clean = request.getfixturevalue("paper" if name == "paper/text" else "repaired")
    raw = pages(dirty / "html_zh")
    assert len(raw) == 43
    cleaned = clean(normalized(tmp_path, {k: page.encode() for k, page in raw.items()}))
    simplified = opencc.OpenCC("t2s").convert
    sentences = missing = 0
    before = dict.fromkeys((LINK, MAIL, ADDRESS), 0)
    after, scripts, marked = dict(before), 0, 0
    for page, text in zip(raw.values(), cleaned, strict=True):
        seen = "".join(Visible(page).pieces)
        # Code that a page shows may hold tags; none of the page's own is left.
        marked += not set(TAG.findall(text)) <= set(TAG.findall(seen))
        scripts += "function(" in text and "function(" not in seen
        for what in before:
            before[what] += len(what.findall(page))
            after[what] += len(what.findall(text))
        packed = re.sub(r"\s", "", text)
        wanted = set(SENTENCE.findall(simplified("\n".join(Visible(page).pieces))))
        sentences += len(wanted)
        missing += sum(sentence not in packed for sentence in wanted)
    assert all(count > 3 for count in before.values()), "there was something to remove"
    assert (after[MAIL], after[ADDRESS]) == (0, 0)
    # Two Markdown links, broken in the pages themselves, have an address for their words.
    assert after[LINK] <= 2 < before[LINK] // 100
    # The paper's operator gives the code of inline scripts as text, with the tags in it. Ours
    # leaves tags between two backticks alone: they are code in Markdown, but not in one page here.
    assert (scripts, marked <= 2) == ((41, True) if name == "paper/text" else (0, True))
    assert sentences > 8000
    # The paper's link pattern takes the Chinese words behind a link with it.
    assert missing == 0 if name == "repaired/text" else 0 < missing < 100


# --- LaTeX ---------------------------------------------------------------------------------------

MACROS = (
    "\\newcommand{\\steel}{钢铁模型}\n\\def\\lang{中文语料}\n\\newcommand{\\two}[1]{#1 二}\n"
    "正文：\\steel 由 \\lang 训练。\\two{x}"
)


def test_macros_without_arguments_are_expanded(
    paper: Clean, repaired: Clean, tmp_path: Path
) -> None:
    (text,) = normalized(tmp_path, {"a.tex": MACROS.encode()})
    for clean in (paper, repaired):
        last = clean([text])[0].split("\n")[-1]
        assert "钢铁模型" in last
        assert "中文语料" in last
        assert "\\steel" not in last
        assert "\\lang" not in last
        assert "\\two{x}" in last


def test_real_latex_keeps_its_sentences_and_formulas(
    paper: Clean, repaired: Clean, dirty: Path, tmp_path: Path
) -> None:
    files = {p.name: p.read_bytes() for p in sorted((dirty / "latex").iterdir())}
    texts = normalized(tmp_path, files)
    assert [len(t) for t in texts] == [len(f.decode().strip()) for f in files.values()]
    for raw, text in zip(texts, repaired(texts), strict=True):
        packed = re.sub(r"\s", "", text)
        prose = "\n".join(line for line in raw.split("\n") if "http" not in line)
        wanted = SENTENCE.findall(opencc.OpenCC("t2s").convert(prose))
        assert len(wanted) > 200
        assert not [sentence for sentence in wanted if sentence not in packed]
    # Data-Juicer's operator knows \newcommand{\x}{…} and \def\x{…}, not \newcommand\x{…}.
    chapter = texts[list(files).index("chap.04.math.tex")]
    assert "\\newcommand\\diff{" in chapter
    assert paper([chapter])[0].count("\\diff") == chapter.count("\\diff")


# --- mojibake ------------------------------------------------------------------------------------


def cases(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return [case for case in found if ftfy.fix_text(case["original"]) == case["fixed"]]


QUOTES = str.maketrans("„“”‘’`´", "\"\"\"''''") | {0x149: "'n", 0x2026: "...", 0x2BC: "'"}


def folded(text: str) -> str:
    """Without what a recipe may well keep as it is: quotes, ellipses, kinds of blanks."""
    return " ".join(unicodedata.normalize("NFC", text).translate(QUOTES).split())


def test_mojibake_is_repaired(paper: Clean, repaired: Clean, dirty: Path, tmp_path: Path) -> None:
    broken = cases(dirty / "mojibake" / "ftfy_in-the-wild.json")
    assert len(broken) == 70, "plain ftfy repairs all of them"
    texts = of_rows(tmp_path, [case["original"] for case in broken])
    exact = sum(t == c["fixed"].strip() for t, c in zip(paper(texts), broken, strict=True))
    # The rest: dashes, ellipses and accents that punctuation_normalization turns into ASCII.
    assert exact == 62
    wrong = [
        (text, case["fixed"])
        for text, case in zip(repaired(texts), broken, strict=True)
        if folded(text) not in (folded(case["fixed"]), folded(case.get("fixed-encoding", "")))
    ]
    assert not wrong


def test_what_only_looks_like_mojibake_stays(
    paper: Clean, repaired: Clean, dirty: Path, tmp_path: Path
) -> None:
    sound = cases(dirty / "mojibake" / "ftfy_negative.json")
    assert len(sound) == 31
    texts = of_rows(tmp_path, [case["original"] for case in sound])
    wrong = [
        (text, case["original"])
        for text, case in zip(repaired(texts), sound, strict=True)
        if folded(text) not in (folded(case["original"]), folded(case["fixed"]))
    ]
    assert not wrong
    exact = sum(t == c["fixed"].strip() for t, c in zip(paper(texts), sound, strict=True))
    assert exact == 16, "the paper's operators rewrite the punctuation of the other 15"


def test_the_papers_operators_rewrite_chinese_punctuation_and_ours_do_not(
    paper: Clean, repaired: Clean
) -> None:
    text = "面积是 x² 平方米，对吗？《书》（全角）！"
    assert paper([text]) == ['面积是 x² 平方米,对吗?"书"(全角)!']
    assert repaired([text]) == [text]


# --- traditional characters, feeds ---------------------------------------------------------------


def test_traditional_characters_become_simplified(
    paper: Clean, repaired: Clean, dirty: Path, tmp_path: Path
) -> None:
    file = json.loads((dirty / "trad_simp" / "opencc_testcases.json").read_text(encoding="utf-8"))
    wanted = [case for case in file["cases"] if "t2s" in case["expected"]]
    assert len(wanted) == 33
    texts = of_rows(tmp_path, [case["input"] for case in wanted])
    expected = [case["expected"]["t2s"] for case in wanted]
    assert repaired(texts) == expected
    exact = sum(a == b for a, b in zip(paper(texts), expected, strict=True))
    assert exact == 27, "six lose their Chinese punctuation"


def test_a_whole_traditional_text_equals_its_simplified_form(
    paper: Clean, repaired: Clean, dirty: Path, tmp_path: Path
) -> None:
    folder = dirty / "trad_simp"
    names = ("us_constitution_s2t.txt", "us_constitution_zhs.txt")
    texts = normalized(tmp_path, {name: (folder / name).read_bytes() for name in names})
    for clean in (paper, repaired):
        traditional, simplified = clean(texts)
        assert traditional == simplified
    assert texts[1].startswith(simplified[:10])


FEEDS = {
    "GB2312/acnnewswire.net.xml": "中国银联",
    "GB2312/cindychen.com.xml": "人生漫步",
    "GB2312/cnblog.org.xml": "出版商",
    "GB2312/coverer.com.xml": "网站排名下降",
    "GB2312/luciferwang.blogcn.com.xml": "奥登说的大实话",
    "GB2312/w3cn.org.xml": "标签的默认样式",
    "GB2312/xy15400.blogcn.com.xml": "我",
    "Big5/0804.blogspot.com.xml": "萧邦",
    "Big5/blog.worren.net.xml": "基本位元操作符号",
    "Big5/carbonxiv.blogspot.com.xml": "我",
    "Big5/catshadow.blogspot.com.xml": "异次元",
    "Big5/coolloud.org.tw.xml": "不见棺材",
    "Big5/letterlego.blogspot.com.xml": "纽约公共图书馆",
    "Big5/linyijen.blogspot.com.xml": "短发俏丽",
}
"""Feed -> words of it, in simplified characters."""


def test_feeds_in_gb2312_and_big5_become_readable(
    paper: Clean, repaired: Clean, dirty: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(dirty / "encoded" / "feeds_gb2312_big5.zip") as archive:
        for name, words in FEEDS.items():
            folder = tmp_path / name
            # What the feeds say of their own encoding is taken away: the bytes must do.
            data = re.sub(rb'encoding="[^"]*"|Expect: \w+', b"", archive.read(name))
            entries = normalized(folder, {"feed.xml": data})
            assert len(entries) >= 5, name
            for clean in (paper, repaired):
                text = "\n".join(clean(entries))
                assert words in text, name
                assert "\ufffd" not in text, name
                # One feed writes `<img … / width=…>`, which is left as text.
                assert not re.search(r"<(?:br|p|a|img|div|span)\b[^<>/]*/?>", text), name
                # The paper's pattern misses links that follow a Chinese character at once.
                links = [
                    m
                    for m in LINK.finditer(text)
                    if clean is repaired or not HANZI.match(text[m.start() - 1])
                ]
                assert not links, name
