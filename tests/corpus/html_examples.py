"""Pages of different make, with what of them is content and what is not."""

from typing import NamedTuple

LAKE = "西湖位于杭州市西部，是国家重点风景名胜区。湖面南北长约三点二公里，绕湖一周近十五公里。"
DIKE = "苏堤由苏轼任杭州知州时主持修建，堤上有六座石拱桥，自南向北依次为映波、锁澜、望山等。"
SPRING = "每年春天，堤岸上的桃花和柳树相间开放，游人沿着湖边散步，可以看到远处的宝石山。"
MENU = ["首页", "新闻", "国内", "国际", "体育", "财经", "登录", "设为首页", "加入收藏"]
RELATED = ["杭州三日游攻略", "灵隐寺门票预订", "龙井茶价格走势", "千岛湖自驾路线"]
FOOTER = "版权所有 © 2003-2021 某某信息技术有限公司 京ICP备00000000号"
CODE = 'def main(argv):\n    if len(argv) < 2 and argv[0] != "x":\n        return 1\n'


class Page(NamedTuple):
    """A page and what must, and must not, be in its text."""

    name: str
    html: str
    content: list[str]
    other: list[str]


def _links(words: list[str]) -> str:
    items = "".join(f'<li><a href="/{i}">{word}</a></li>' for i, word in enumerate(words))
    return f"<ul>{items}</ul>"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


OTHER = [*MENU[2:], *RELATED, "ICP备", "版权所有"]
PAGES = [
    Page(
        "landmarks",
        f"<!DOCTYPE html><html><head><title>湖</title><script>var a = '<p>';</script></head><body>"
        f"<header><nav>{_links(MENU)}</nav></header><main><article><h1>西湖与苏堤</h1><p>{LAKE}</p>"
        f"<h2>春晓</h2><p>{DIKE}</p><p>{SPRING}</p></article><aside>{_links(RELATED)}</aside></main>"
        f"<footer><p>{FOOTER}</p></footer></body></html>",
        ["西湖与苏堤", LAKE, "春晓", DIKE, SPRING],
        OTHER,
    ),
    Page(
        "divisions",
        '<html><body><div class="menu">'
        + " | ".join(f"<a href=/{i}>{word}</a>" for i, word in enumerate(MENU))
        + f'</div><div class="left">{_links(RELATED)}</div><div class="content"><h1>西湖与苏堤</h1>'
        f'<div>{LAKE}</div><div>{DIKE}</div></div><div class="bottom">{FOOTER}</div></body></html>',
        ["西湖与苏堤", LAKE, DIKE],
        OTHER,
    ),
    Page(
        "layout by tables",
        "<HTML><BODY bgcolor=#ffffff><TABLE width=760><TR><TD colspan=2>"
        + "&nbsp;".join(f"<A href={i}.htm>{word}</A>" for i, word in enumerate(MENU))
        + "</TD></TR><TR><TD width=150>"
        + "<br>".join(f"<a href=r{i}.htm>{word}</a>" for i, word in enumerate(RELATED))
        + f"</TD><TD><FONT size=5><B>西湖与苏堤</B></FONT><BR><BR>　　{LAKE}<BR><BR>　　{DIKE}</TD>"
        f"</TR><TR><TD colspan=2><FONT size=2>{FOOTER}</FONT></TD></TR></TABLE></BODY></HTML>",
        ["西湖与苏堤", LAKE, DIKE],
        OTHER,
    ),
    Page(
        "code",
        f'<!doctype html><html><body><div id="nav">{_links(MENU)}</div><div id="main"><h1>参数</h1>'
        "<p>下面的程序检查命令行参数的个数，不足时返回非零值。</p>"
        f"<pre><code>{_escaped(CODE)}</code></pre>"
        "<p>其中用到 <code>List&lt;String&gt;</code>，以及 a &lt; b &amp;&amp; c &gt; d。</p>"
        f'</div><div id="footer">{FOOTER}</div></body></html>',
        [f"```\n{CODE}```", "`List<String>`", "a < b && c > d", "下面的程序检查命令行参数的个数"],
        OTHER,
    ),
    Page(
        "specification",
        f"<!doctype html><html><body><nav>{_links(MENU)}</nav><h1>相机规格</h1>"
        "<p>这款相机采用全画幅传感器，适合风光与人像摄影，可以在户外长期使用。</p>"
        "<table><tr><th>项目</th><th>参数</th></tr><tr><td>有效像素</td><td>2420万</td></tr>"
        "<tr><td>防尘</td><td>是</td></tr><tr><td>防水</td><td>否</td></tr></table>"
        f"<footer>{FOOTER}</footer></body></html>",
        ["相机规格", "项目\t参数\n有效像素\t2420万\n防尘\t是\n防水\t否"],
        OTHER,
    ),
    Page(
        "lists",
        f"<!doctype html><html><body><div class=nav>{_links(MENU)}</div><article><h1>红烧肉</h1>"
        "<p>红烧肉是一道家常菜，色泽红亮，肥而不腻，做法并不复杂，关键在于火候。</p><h2>用料</h2>"
        "<ul><li>五花肉500克</li><li>冰糖30克</li><li>葱<ul><li>一</li><li>二</li></ul></li></ul>"
        "<h2>步骤</h2><ol><li>切块焯水。</li><li><p>小火慢炖。</p></li></ol>"
        f"</article><footer>{FOOTER}</footer></body></html>",
        ["- 五花肉500克\n- 冰糖30克\n- 葱\n  - 一\n  - 二", "1. 切块焯水。", "2. 小火慢炖。"],
        OTHER,
    ),
    Page(
        "single characters",
        f"<!doctype html><html><body><nav>{_links(MENU)}</nav><p>我们看到石头上写着这个"
        "<b>天</b>字，还有<a href=x>地</a>字。</p><p>有 18 cm<sup>2</sup>，水是 H<sub>2</sub>O，\n"
        "都记在这里。</p><figure><img src=x alt=图><figcaption>图一</figcaption></figure>"
        f"<footer>{FOOTER}</footer></body></html>",
        ["这个天字，还有地字", "18 cm²", "H₂O，都记", "图一"],
        OTHER,
    ),
    Page(
        "little text",
        "<html><head><script>\nconst a = `link`;\n</script><style>/* `x` */ .a{}</style>"
        "<!-- 用 `npm i` 安装 --></head><body><p>正文第一段。</p><p>第二段。</p></body></html>",
        ["正文第一段。\n\n第二段。"],
        ["link", "npm", "`"],
    ),
]
