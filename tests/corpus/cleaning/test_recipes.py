"""The repaired recipes: what differs from the paper's, and our operators' behaviour."""

import json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import ftfy
import pytest
from datasets.utils.json import ujson_dumps, ujson_loads
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from corpus.cleaning import recipe as recipes

# The paper's operator -> what stands in its place, in one recipe.
TEXT_OPERATORS = {
    "clean_html_mapper": ["html_to_text_mapper"],
    "clean_copyright_mapper": [],
    "fix_unicode_mapper": ["mend_unicode_mapper"],
    "punctuation_normalization_mapper": [],
}
TEXT_BOUNDS = {
    "remove_repeat_sentences_mapper.min_repeat_sentence_length": 30,
    "remove_specific_chars_mapper.chars_to_remove": "◆●■►▼▲▴▻▷❖♡",
    "alphanumeric_filter.min_ratio": 0.25,
    "alphanumeric_filter.max_ratio": 1.0,
    "average_line_length_filter.min_len": 5,
    "average_line_length_filter.max_len": 100000,
    "maximum_line_length_filter.min_len": 5,
    "maximum_line_length_filter.max_len": 100000,
    "perplexity_filter.max_ppl": 5000,
    "special_characters_filter.max_ratio": 0.61,
    "word_repetition_filter.max_ratio": 0.71,
}
CODE_OPERATORS = {
    "clean_copyright_mapper": ["clean_licence_header_mapper"],
    "fix_unicode_mapper": ["mend_unicode_mapper"],
    "punctuation_normalization_mapper": [],
}
CODE_BOUNDS = {"alphanumeric_filter.max_ratio": 5.0}
PATTERNS = {"clean_ip_mapper", "clean_links_mapper", "clean_email_mapper"}
"""Operators with a pattern of our own, tested by what they match."""


@pytest.mark.parametrize(
    ("paper", "operators", "bounds"),
    [("text", TEXT_OPERATORS, TEXT_BOUNDS), ("code", CODE_OPERATORS, CODE_BOUNDS)],
)
def test_repaired_recipe_differs_only_where_it_says(
    paper: str, operators: dict[str, list[str]], bounds: dict[str, Any]
) -> None:
    old, new = recipes.load(paper).operators, recipes.load(f"{paper}-repaired").operators
    expected = [name for op in old for name in operators.get(op.name, [op.name])]
    assert [op.name for op in new] == expected
    arguments = {op.name: op.arguments for op in old}
    changed = {
        f"{op.name}.{key}": value
        for op in new
        if op.name in arguments and op.name not in PATTERNS and op.kind != "deduplicator"
        for key, value in op.arguments.items()
        if arguments[op.name].get(key) != value
    }
    assert changed == bounds


@pytest.mark.parametrize("name", ["text", "code", "text-repaired", "code-repaired"])
def test_bounds_survive_the_librarys_tables(name: str) -> None:
    """dj-process keeps statistics as JSON of ten digits: 0.6 comes back as 0.6000000000000001, and
    a document exactly on that bound would be dropped there and kept here."""
    for op in recipes.load(name).operators:
        for bound in (v for v in op.arguments.values() if isinstance(v, float)):
            assert ujson_loads(ujson_dumps(bound)) == bound, f"{op.name}: {bound}"


# --- custom operators and Data-Juicer --------------------------------------------------------


def test_resolved_recipe_names_operators_by_absolute_path(tmp_path: Path, root: Path) -> None:
    recipe = recipes.load("text-repaired")
    recipe.write_resolved(tmp_path / "r.yaml", dataset=Path("in.jsonl"), export=Path("out.jsonl"))
    written = (tmp_path / "r.yaml").read_text(encoding="utf-8")
    for file in recipe.custom_operator_files:
        assert file.is_relative_to(root)
        assert f"- {file}\n" in written


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("custom_operator_paths: x.py", "must be a list of Python files"),
        ("custom_operator_paths: [nowhere_mapper.py]", "nowhere_mapper.py, which is not a Python"),
        ("custom_operator_paths: [{here}/odd.py]", "must be named after its operator"),
        ("custom_operator_paths: [{here}/clean_ip_mapper.py]", "there is another operator"),
        (
            "custom_operator_paths: [{here}/my_mapper.py]\nprocess: [my_mapper: {{deph: 1}}]",
            "did you mean 'depth'?",
        ),
        (
            "custom_operator_paths: [{here}/my_mapper.py]\nprocess: [my_maper:]",
            "did you mean 'my_mapper'?",
        ),
    ],
)
def test_wrong_custom_operator_is_refused_with_the_remedy(
    yaml: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("odd", "clean_ip_mapper", "my_mapper"):
        source = "raise RuntimeError('must not be imported')\ndef __init__(self, depth): ...\n"
        (tmp_path / f"{name}.py").write_text(source)
    text = yaml.format(here=tmp_path)
    if "process:" not in text:
        text += "\nprocess: [clean_email_mapper]"
    (tmp_path / "wrong.yaml").write_text(text)
    monkeypatch.setattr(recipes, "recipe_path", lambda kind, name: tmp_path / f"{name}.yaml")
    with pytest.raises(ConfigError, match=r"wrong\.yaml") as caught:
        recipes.load("wrong")
    assert words in str(caught.value)


def test_packages_of_custom_operators_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ftfy" else find_spec(name)
    )
    with pytest.raises(ConfigError, match=r"ftfy .for mend_unicode_mapper"):
        recipes.require_packages([recipes.load("code-repaired")])


@pytest.mark.slow
def test_plain_dj_process_runs_our_operators(tmp_path: Path) -> None:
    """Data-Juicer's own command line, on the mappers of the resolved recipe."""
    recipe = recipes.load("text-repaired")
    rows = ["他说：“好！”<br>第２个", "# 标题\n正文，《书》。", "价格<b>３．５</b>元"]
    dataset, export = tmp_path / "in.jsonl", tmp_path / "out" / "out.jsonl"
    dataset.write_text("".join(json.dumps({"text": r}) + "\n" for r in rows))
    mappers = tuple(op for op in recipe.operators if op.kind == "mapper")
    data = recipe.data | {
        "process": [{op.name: op.arguments} for op in mappers],
        "work_dir": str(tmp_path / "out"),
    }
    short = recipes.Recipe(
        path=recipe.path,
        data=data,
        operators=mappers,
        custom_operator_files=recipe.custom_operator_files,
    )
    short.write_resolved(tmp_path / "r.yaml", dataset=dataset, export=export)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dj-process")), "--config", str(tmp_path / "r.yaml")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    cleaned = [json.loads(line)["text"] for line in export.read_text().splitlines()]
    assert cleaned == ["他说：“好！”\n第2个", "# 标题\n正文，《书》。", "价格3.5元"]


# --- what the operators do -------------------------------------------------------------------


def operator(recipe: str, name: str) -> Any:
    """An operator of a recipe, as Data-Juicer builds it."""
    from data_juicer.ops import load_ops

    loaded = recipes.load(recipe)
    loaded.import_custom_operators()
    (entry,) = [op for op in loaded.operators if op.name == name]
    (built,) = load_ops([{entry.name: dict(entry.arguments)}])
    return built


@pytest.fixture(scope="module")
def apply() -> Any:
    """apply(recipe, operator, text) -> text."""
    built: dict[tuple[str, str], Any] = {}

    def run(recipe: str, name: str, text: str) -> str:
        if (recipe, name) not in built:
            built[recipe, name] = operator(recipe, name)
        return str(built[recipe, name].process({"text": [text]})["text"][0])

    return run


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("第一段<br>第二段", "第一段\n第二段"),
        ("<p>第一段</p>\n<p class='x'>第二段</p>", "第一段\n第二段\n"),
        ("<ul><li>一</li><li>二</li></ul>", "- 一\n- 二\n"),
        ("面积是18 cm<sup>2</sup>，水是H<sub>2</sub>O", "面积是18 cm²，水是H₂O"),
        ("a < b 且 c > d", "a < b 且 c > d"),
        ("若 a <b 则 c> d", "若 a <b 则 c> d"),
        ("List<String> 和 Map<K, V>", "List<String> 和 Map<K, V>"),
        ("描述：<img data-rawwidth\n答案", "描述：<img data-rawwidth\n答案"),
        ("```html\n<p>例</p>\n```\n<p>文</p>", "```html\n<p>例</p>\n```\n文\n"),
        ("用`<br>`换行<br>好", "用`<br>`换行\n好"),
        ("<script>var a = '<p>';</script>正文<!-- 注 -->", "正文"),
        ('图<svg viewBox="0 0"><path d="M0"/></svg>标', "图标"),
        ("Fran&ccedil;oise &#8226; A&amp;B", "Françoise • A&B"),
        ("?a=1&copy=2&lt", "?a=1&copy=2&lt"),
        ("<<a.b>>", "<<a.b>>"),
    ],
)
def test_html_becomes_text(before: str, after: str, apply: Any) -> None:
    assert apply("text-repaired", "html_to_text_mapper", before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("，。、；：？！（）《》“”‘’—…【】", "，。、；：？！（）《》“”‘’—…【】"),
        ("ＤＨＡ约２００ｍｇ", "DHA约200mg"),
        ("３．１４，１．标题", "3.14，1．标题"),
        ("x² + y³ = ½，㎡，①", "x² + y³ = ½，㎡，①"),
        ("波尔\u200b多", "波尔多"),
        ("cafe\u0301", "café"),
        ("æ\x96‡å\xad—", "文字"),
        ("&lt;b&gt;", "&lt;b&gt;"),
        ("一\r\n二\x00", "一\n二"),
    ],
)
def test_unicode_is_mended(before: str, after: str, apply: Any) -> None:
    assert apply("text-repaired", "mend_unicode_mapper", before) == after


def test_literals_in_code_stay(apply: Any) -> None:
    source = '\ufeffa = "（１）&nbsp;"\nb = "e\u0301 Ã©"\n'
    assert apply("code-repaired", "mend_unicode_mapper", source) == source[1:]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("// Copyright 2020 A\n// All rights reserved.\n\n#include <x>\n", "#include <x>\n"),
        ("#include <x>\n// Copyright 2020\nint a;", "#include <x>\n// Copyright 2020\nint a;"),
        ("#!/bin/sh\n# Licensed under the MIT License.\n\nls\n", "#!/bin/sh\n\nls\n"),
        (
            "# -*- coding: utf-8 -*-\n# 说明\nimport os\n",
            "# -*- coding: utf-8 -*-\n# 说明\nimport os\n",
        ),
        ("/* A list. */\n/* (c) 2001 B */\nint a;", "/* A list. */\n\nint a;"),
        ("/* Copyright", "/* Copyright"),
        ("/* Copyright */ int a;", "/* Copyright */ int a;"),
        ("package a.b;\n\n/* Copyright C */\n\nclass D {}", "package a.b;\n\nclass D {}"),
        ("// 版权所有 2020\nint a;\n/* Copyright */", "int a;\n/* Copyright */"),
        ("# 标题\n正文", "# 标题\n正文"),
    ],
)
def test_only_licence_headers_go(before: str, after: str, apply: Any) -> None:
    assert apply("code-repaired", "clean_licence_header_mapper", before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("见https://a.cn/b?c=1，谢谢", "见，谢谢"),
        ("登录www.qhxdrcw.com）查看", "登录）查看"),
        ("[知乎](https://www.zhihu.com/a_(b))和![图](http://x.cn/1.png)", "知乎和图"),
        ("维基[条目](https://zh.wikipedia.org/wiki/a)。", "维基条目。"),
        ("公众号mp.weixin.qq.com/s/1N04m。", "公众号。"),
        ("CAS:1075-62-3 与 ID:abc，std::move", "CAS:1075-62-3 与 ID:abc，std::move"),
        ("EN14362--1:2003纺织品", "EN14362--1:2003纺织品"),
        ("文件 a.com 和 Node.js/Vue", "文件 a.com 和 Node.js/Vue"),
    ],
)
def test_only_links_go_from_text(before: str, after: str, apply: Any) -> None:
    assert apply("text-repaired", "clean_links_mapper", before) == after


def test_addresses_go_next_to_chinese(apply: Any) -> None:
    text = "邮箱:abc.d-e@qq.com。联系x@a.edu.cn处"
    assert apply("text-repaired", "clean_email_mapper", text) == "邮箱:。联系处"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("服务器 180.106.80.10 已停", "服务器  已停"),
        ("服务器180.106.80.10已停，http://39.96.105.144:8198/K", "服务器已停，http://:8198/K"),
        ("见 3.1.4.1 节，版本 3.4.0.0", "见 3.1.4.1 节，版本 3.4.0.0"),
        ("13.0.0.0.0 与 1234.5.6.7.8", "13.0.0.0.0 与 1234.5.6.7.8"),
        ("2001:0db8:85a3:0000:0000:8a2e:0370:7334", ""),
        ("12:30:45", "12:30:45"),
    ],
)
def test_only_addresses_go(before: str, after: str, apply: Any) -> None:
    assert apply("text-repaired", "clean_ip_mapper", before) == after


@pytest.mark.timeout(300)
@pytest.mark.parametrize("recipe", ["text-repaired", "code-repaired"])
def test_long_runs_do_not_take_quadratic_time(recipe: str, apply: Any) -> None:
    """Backtracking over 400,000 characters would take longer than the test's own limit."""
    runs = [
        "a" * 400_000 + " @ ",
        "a." * 200_000 + " @",
        "1." * 200_000,
        " " * 400_000 + "<",
        "<!--" * 100_000,
        "<script " * 50_000,
        "<p a=" * 80_000,
        "[a](http://" * 40_000,
    ]
    for entry in recipes.load(recipe).operators:
        if entry.name.endswith(("email_mapper", "ip_mapper", "links_mapper", "text_mapper")):
            for run in runs:
                apply(recipe, entry.name, run)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("clean_email_mapper", "author: jane.doe@example.com,", "author: ,"),
        ("clean_email_mapper", "y = q@k.transpose(0, 1)", "y = q@k.transpose(0, 1)"),
        ("clean_email_mapper", "y = q@k.to(x) + a@b.mm[0]", "y = q@k.to(x) + a@b.mm[0]"),
        ("clean_links_mapper", 'get("https://a.b/c?d=e")', 'get("")'),
        (
            "clean_links_mapper",
            "a?bb:cc; name:str; std::move(x)",
            "a?bb:cc; name:str; std::move(x)",
        ),
    ],
)
def test_code_keeps_what_only_looks_like_a_link(
    name: str, before: str, after: str, apply: Any
) -> None:
    assert apply("code-repaired", name, before) == after


PUNCTUATION = "，。、；：？！（）《》“”‘’—…【】「」·～"
WORDS = st.text(alphabet="中文字母繁體" + PUNCTUATION + "ab １Ａ．\n<>&;/*#-`", max_size=60)
PIECES = st.lists(
    st.sampled_from(
        [
            "<p>",
            "</p>",
            "<br/>",
            "<b>",
            "&amp;",
            "```",
            "# Copyright\n",
            "// 说明\n",
            "/* (c) 2001 */",
            "#!/bin/sh\n",
            "文，字。",
            "a < b",
            "\u200b",
            "²",
        ]
    )
    | WORDS,
    max_size=12,
).map("".join)


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("text-repaired", "mend_unicode_mapper"),
        ("code-repaired", "mend_unicode_mapper"),
        ("code-repaired", "clean_licence_header_mapper"),
    ],
)
@settings(max_examples=150, deadline=None)
@given(text=PIECES)
def test_a_second_time_changes_nothing(apply: Any, recipe: str, name: str, text: str) -> None:
    once = apply(recipe, name, text)
    assert apply(recipe, name, once) == once


@settings(max_examples=150, deadline=None)
@given(text=PIECES)
def test_chinese_and_its_punctuation_survive(apply: Any, text: str) -> None:
    """In order; HTML's comments and scripts aside, whose text is none."""
    wanted = re.compile(f"[{PUNCTUATION}\u4e00-\u9fff²]")
    text = text.replace("<!--", "").replace("<script", "").replace("<style", "")
    for name in ("html_to_text_mapper", "mend_unicode_mapper"):
        after = apply("text-repaired", name, text)
        assert wanted.findall(after) == wanted.findall(text), name
        text = after


@settings(max_examples=400, deadline=None)
@given(
    text=st.lists(
        st.one_of(
            st.text(alphabet="a Z09.,'\"(-/<&中文，。（）“”‘’—…·　！［～", max_size=30),
            st.text(alphabet="aé×â€œÃ¤ \x85\u2028\r中“", max_size=12),
        ),
        max_size=4,
    ).map("\n".join)
)
def test_lines_that_are_not_given_to_ftfy_are_those_it_leaves_alone(apply: Any, text: str) -> None:
    mapper = operator("text-repaired", "mend_unicode_mapper")
    whole = ftfy.fix_text(text, mapper.config)
    folded = whole.translate(str.maketrans("０９ＺＡ", "09ZA"))
    assert mapper.mend(text) == folded.replace("\ufeff", "")


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=80))
def test_mending_loses_only_what_is_invisible(apply: Any, text: str) -> None:
    """Letters and digits, of any script, in order, up to their width and composition."""

    def visible(of: str) -> str:
        folded = unicodedata.normalize("NFKC", of)
        return "".join(c for c in folded if unicodedata.category(c)[0] in "LN")

    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates are not text
        return
    if text.isascii() or not any("\x80" <= c <= "\u017f" for c in text):  # else: mojibake
        assert visible(apply("text-repaired", "mend_unicode_mapper", text)) == visible(text)


@settings(max_examples=150, deadline=None)
@given(text=WORDS.filter(lambda t: not re.search(r"<[/!a-zA-Z]|&", t)))
def test_text_without_tags_is_not_touched(apply: Any, text: str) -> None:
    assert apply("text-repaired", "html_to_text_mapper", text) == text


@settings(max_examples=150, deadline=None)
@given(text=PIECES)
def test_header_goes_in_whole_lines(apply: Any, text: str) -> None:
    """The remaining lines are lines of the file, in order; none is shortened."""
    after = apply("code-repaired", "clean_licence_header_mapper", text)
    remaining = iter(text.split("\n"))
    assert all(any(line == old for old in remaining) for line in after.split("\n") if line)
