"""Web addresses: sentences stay sentences, code keeps its addresses."""

from typing import Any

import pytest
from data_juicer.ops.base_op import OPERATORS
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.cleaning import recipe as recipes


@pytest.fixture(scope="module")
def convert() -> Any:
    """convert(text) -> text."""
    recipes.load("curated/web").import_custom_operators()
    return OPERATORS.modules["links_to_hosts_mapper"]().convert


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("请访问 https://www.python.org/downloads/ 下载", "请访问 www.python.org 下载"),
        ("见https://a.cn/b?c=1，谢谢", "见a.cn，谢谢"),
        ("公众号mp.weixin.qq.com/s/1N04m。", "公众号mp.weixin.qq.com。"),
        ("网站（http://www.gsxt.gov.cn/index.html）查询", "网站查询"),
        ("平台(网址：http://a.cn/x)查询", "平台查询"),
        ("服务器http://180.106.80.10:8082/x停了", "服务器停了"),
        ("见[知乎](https://www.zhihu.com/a_(b))和![图](http://x.cn/1.png)。", "见知乎和图。"),
        ('[标题](https://a.cn/x "说明")', "标题"),
        ("![](http://a.cn/1.png)正文", "正文"),
        ("见<https://a.cn/b>。", "见a.cn。"),
        ("前文。\n原文链接：http://a.cn/1\n后文。", "前文。\n后文。"),
        ("前文。\n* https://a.cn/1\n后文。", "前文。\n后文。"),
        ("https://a.cn/x", "https://a.cn/x"),
        ("[https://a.cn/b](https://a.cn/b)", "[https://a.cn/b](https://a.cn/b)"),
        ("安装：`curl https://a.cn/x`", "安装：`curl https://a.cn/x`"),
        (
            "```\ncurl https://a.cn/x\n```\n见 https://b.cn/y 。",
            "```\ncurl https://a.cn/x\n```\n见 b.cn 。",
        ),
        ("pip install git+https://a.cn/b.git@v1", "pip install git+https://a.cn/b.git@v1"),
        (
            "$ curl -X POST http://a.cn/v1 -d 1\n见 http://a.cn/v1 。",
            "$ curl -X POST http://a.cn/v1 -d 1\n见 a.cn 。",
        ),
        ('r = get("https://a.cn/x?y=1")', 'r = get("https://a.cn/x?y=1")'),
        ("git 的手册见 https://a.cn/book 。", "git 的手册见 a.cn 。"),
        ("go to https://a.com/b for more", "go to a.com for more"),
        ("见 https://zh.wikipedia.org/wiki/算法 的说明", "见 zh.wikipedia.org 的说明"),
        ("CAS:1075-62-3 与 ID:abc，std::move", "CAS:1075-62-3 与 ID:abc，std::move"),
        ("文件 a.com 和 Node.js/Vue", "文件 a.com 和 Node.js/Vue"),
        ("git@github.com:a/b.git", "git@github.com:a/b.git"),
    ],
)
def test_a_host_stands_for_an_address(before: str, after: str, convert: Any) -> None:
    assert convert(before) == after


LINKS = [
    "https://a.cn/x",
    "www.b.com/y?z=1",
    "[词](http://c.cn/1)",
    "mp.weixin.qq.com/s/1",
    "http://",
]
WORDS = ["请访问", "下载", "（", "）", "\n", "`", "```", "来源：", "。", " ", "[", "](", ")"]
PIECES = st.lists(st.sampled_from(LINKS + WORDS), max_size=12).map("".join)


@settings(max_examples=300)
@given(text=PIECES)
def test_words_stay_and_nothing_is_emptied(text: str, convert: Any) -> None:
    after = convert(text)
    assert bool(after.strip()) == bool(text.strip())
    for word in ("请访问", "词"):
        assert after.count(word) == text.count(word)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "run", ["[a](http://", "www.a.", "（http://a.cn", "a.com/", "[[", "`", "http://"]
)
def test_long_runs_take_linear_time(run: str, convert: Any) -> None:
    convert(run * 30_000)
