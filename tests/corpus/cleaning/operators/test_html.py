"""HTML in texts: tags go, code, comparisons and what is said about tags stay."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

RECIPE, NAME = "repaired/text", "html_to_text_mapper"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("第一段<br>第二段", "第一段\n第二段"),
        ("第一段<br> \n    * 项目", "第一段\n    * 项目"),
        ("原因？<br><br>谢谢", "原因？\n谢谢"),
        ("一</br>二<BR/>三", "一\n二\n三"),
        ("前<p>第一段</p>\n<p class='x'>第二段</p>后", "前\n第一段\n第二段\n后"),
        ("有：<ul><li>一</li><li>二</li></ul>完", "有：\n- 一\n- 二\n完"),
        ("面积是18 cm<sup>2</sup>，水是H<sub>2</sub>O", "面积是18 cm²，水是H₂O"),
        ("5<sup>th</sup>，x<sup>n+1</sup>，a<sub>n</sub>", "5th，x^(n+1)，a_n"),
        ("表：<table><tr><td>甲</td><td>乙</td></tr></table>完", "表：\n甲\t乙\n完"),
        (
            "<p>若 x<a 且 y>b 则成立。</p><p>第二<b>段</b>。</p>",
            "若 x<a 且 y>b 则成立。\n\n第二段。",
        ),
        ("&lt;p&gt;一&lt;/p&gt;&lt;p&gt;二&lt;/p&gt;", "一\n\n二"),
        ("<style>.a{}</style>题<script>`${a}` < `b`</script>文`码`<b>x</b>", "题文`码`x"),
        ("他说<b>重要</b>的是", "他说重要的是"),
        ("请使用<b>本品</b>，元素<i>碳</i>", "请使用本品，元素碳"),
        ("文<font color=red>红</font>字<a href='x'>链</a>", "文红字链"),
        ('看<img src="a.png" alt="x">图', "看图"),
        ("亦收录了该书。</div>", "亦收录了该书。"),
        ("股票代码：<br>600000", "股票代码：\n600000"),
        ("~~~~<br>波浪", "~~~~\n波浪"),
        ("<script>var a = `<p>`;</script>正文<!-- 用 `npm i` 安装 -->", "正文"),
        ('图<svg viewBox="0 0"><path d="M0"/></svg>标', "图标"),
        ("Fran&ccedil;oise &#8226; A&amp;B &amp;quot;", 'Françoise • A&B "'),
        ("解集Ｘ&lt;2", "解集Ｘ<2"),
        ("160kgf/cm&sup2;高压", "160kgf/cm²高压"),
    ],
)
def test_tags_go_and_line_breaks_stay(before: str, after: str, apply: Any) -> None:
    assert apply(RECIPE, NAME, before) == after


SPARED = [
    "if x<a and b>c",
    "a < b 且 c > d",
    "若 a <b 则 c> d",
    "若 a<p>b 则",
    "a<b>c 与 x<b",
    "if (a[i]<b&&c>d) x<<=1;",
    "List<Object> list = new ArrayList<Object>();",
    "List<String> 和 Map<K, V>",
    "vector<a> v; map<string, vector<b>> m;",
    "std::pair<i, s> 和 Foo<label>",
    "fn main() -> Result<u, s> { Vec<u>::new() }",
    "Promise<data> useState<object>()",
    "template<class T> void f(T<u> x)",
    "int *p = &sum; q = &num;",
    "描述：<img data-rawwidth\n答案",
    "HTML 中的<img>标签用于插入图片，<br>标签用于换行。",
    "使用<b>标签可以加粗，使用<i>标签可以倾斜。",
    "在<head>和<body>之间",
    "请把“<title>”改成“<h1>”。",
    "在 HTML 中，<div>和<span>的区别是什么？",
    "the <b> tag makes text bold",
    "把 <script> 标签放在 </body> 之前",
    "空格在 HTML 里写成 &nbsp;，小于号用 &lt; 表示。",
    "```html\n<p>例</p>\n```",
    "~~~\n<div>例</div>\n~~~",
    "用`<br>`换行",
    "print('<p>{}</p>'.format(x))",
    '以下是HTML代码：\n<!DOCTYPE html>\n<html>\n<body>\n<form>\n<input type="text"><br>\n'
    "<input>\n</form>\n</body>\n</html>\n希望有用。",
    "XML 示例：\n<note><to>甲</to></note>",
    "| 产品 | 说明 |\n| --- | --- |\n| A | 双核<br>8GB |",
    "联系<a@b.c>，见<<a.b>>",
    "if (x<a && y>b) { return <div>{x}</div>; }",
    "用 Vue 写：\n<template>\n  <div>{{ msg }}</div>\n</template>\n<script>\nlet a\n</script>",
    "set<p> s; unordered_map<i,s> q; queue<q> x;",
    "我在学 HTML，请问 <br> 和 <hr> 有什么区别？",
    "选 <a> 还是 <b>？答案是 <A> 选项",
    "写一个页面，包含标题和段落。\n<!DOCTYPE html>\n<html>\n<head><title>页面</title></head>\n"
    "<body>\n<h1>标题</h1>\n<p>段落</p>\n</body>\n</html>",
    '请实现登录表单。\n<form action="/login">\n  <input type="text" name="u">\n'
    "  <button>登录</button>\n</form>\n以上就是登录表单。",
    '可以这样写：<a href="https://a.cn">链接</a>，点击后跳转。',
    '<?xml version="1.0"?>\n<root><data>1</data><label>x</label></root>',
    "正则 <[^>]+> 可以匹配，(?<name>\\w+) 是命名组，(?<b>x)",
    "SELECT * FROM t WHERE a<b AND c>d AND x<>y",
    "$a<b>c$ 与 $$p<q>r$$",
    'char *s = "&amp;"; x = &copy; y=&reg;',
    "<UNK>来的外套 **<END>**",
    "x&y; a&&b; AT&T; ?a=1&copy=2&lt=3",
]


@pytest.mark.parametrize("text", SPARED)
def test_what_is_no_html_stays(text: str, apply: Any) -> None:
    assert apply(RECIPE, NAME, text) == text


@pytest.mark.parametrize(
    "text", ["<html> 是根元素，<body> 里放内容。", "<html> 与 <body> 里 a<b", "<body> 里是正文"]
)
def test_a_text_that_begins_with_the_name_of_an_element_is_no_page(text: str, apply: Any) -> None:
    assert apply(RECIPE, NAME, text) == text


@settings(max_examples=200)
@given(pieces=st.lists(st.sampled_from(SPARED), min_size=2, max_size=5))
def test_neighbours_of_what_stays_do_not_change_that(pieces: list[str], apply: Any) -> None:
    text = "\n\n".join(pieces)
    assert apply(RECIPE, NAME, text) == text


@settings(max_examples=200)
@given(
    left=st.sampled_from(["x", "n1", "f(y)", "甲", "a[i]"]),
    name=st.sampled_from(["a", "b", "i", "p", "q", "s", "td", "label", "data", "object", "time"]),
    right=st.sampled_from(["c", "3", "(z)", "d[0]"]),
    space=st.sampled_from(["", " "]),
)
def test_comparisons_with_names_of_tags_stay(
    left: str, name: str, right: str, space: str, apply: Any
) -> None:
    text = f"若 {left}{space}<{name} and {name}>{space}{right}，则 {left}<{name} 成立"
    assert apply(RECIPE, NAME, text) == text


@settings(max_examples=100)
@given(
    code=st.text(alphabet="<>/abpdiv =\"'`&;\n文-!", max_size=60).filter(lambda c: "```" not in c)
)
def test_fenced_code_stays(code: str, apply: Any) -> None:
    fenced = f"```\n{code.strip('`')}\n```"
    assert fenced in apply(RECIPE, NAME, f"说明<br>一\n\n{fenced}\n\n<b>结尾</b>文字")


def test_pages_lose_tags_only_where_main_content_is_not_asked_for(apply: Any) -> None:
    page = "<html><body><nav><a href=/>首页</a></nav><p>正文在这里。</p></body></html>"
    assert apply(RECIPE, NAME, page) == "首页\n\n正文在这里。"


@pytest.mark.parametrize("title", ["", "标题一\n"])
def test_a_title_may_stand_before_a_page(title: str, apply: Any) -> None:
    page = "<html><head><title>x</title></head><body><p>第一段。</p><p>第二段。</p></body></html>"
    assert apply(RECIPE, NAME, title + page) == f"{title}第一段。\n\n第二段。"
