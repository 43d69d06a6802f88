"""Boilerplate of web pages: lines that say what they are, and what two pages are without them.

Pages of a site share a footer; where it is longer than what they have to say, most of their words
are the same, and they are no copies for that.
"""

import re
from collections.abc import Collection

NAMED = re.compile(
    r"版权(?:所有|声明|归)|侵权|著作权|转载(?:请|自|须|时)|未经(?:授权|许可|允许|书面)|免责声明|©|"
    r"ICP备|ICP证|公网安备|扫一扫|扫码|扫描.{0,6}码|二维码|公众号|官方微[信博]|"
    r"点击(?:上方|下方|此处|这里|查看|关注|阅读|图片|链接)|阅读原文|推荐阅读|猜你喜欢|责任编辑|"
    r"(?i:copyright|all rights reserved|privacy policy|terms of (?:use|service)|newsletter|"
    r"powered by)"
)
"""Words by which boilerplate is recognised; they count in repeated lines only."""
NAMED_SHORT = re.compile(
    r"分享|点赞|(?<![现正实])在看(?!来|到)|(?:上|下)一(?:篇|页)|相关(?:阅读|推荐|文章|新闻|链接)|许可证|"
    r"(?:热门|往期|精彩|编辑)(?:推荐|文章|回顾|精彩)|(?:编辑|来源|作者|审核|校对)\s*[:：]|"
    r"返回(?:首页|顶部|列表|搜狐)|首页|当前位置|(?:所在|的)位置|(?:联系|关于)我们|友情链接|"
    r"网站地图|隐私(?:政策|声明)|用户协议|登[录陆]|注册|收藏本|打印本|加入收藏|设为|评论|举报|客服|"
    r"热线|下载APP|客户端|搜题|"
    r"(?i:cookies?\b|subscribe|share (?:this|on|to)|follow us|sign (?:up|in)|log ?in\b|contact us|"
    r"about us|site ?map|skip to content|read more|related (?:posts|articles))"
)
"""More of them, which sentences contain, too: in lines of SHORT characters at most."""
SHORT = 40

MOST_UNNAMED = 2
"""Characters of shared lines for each one of the lines beside them that say what they are."""


def says_so(line: str) -> bool:
    """True for a line that says itself that it is boilerplate."""
    return bool(NAMED.search(line) or (len(line) <= SHORT and NAMED_SHORT.search(line)))


def without_boilerplate(one: str, other: str) -> tuple[str, str] | None:
    """Two texts without boilerplate; None if neither has a line that says what it is.

    Lines go that say so. The lines that both texts have go, too, where they stand beside those, if
    they are not much longer: else the article that two sites printed would go with their footers.
    """
    pages = [[line.strip() for line in text.split("\n")] for text in (one, other)]
    named = [[says_so(line) for line in page] for page in pages]
    if not any(map(any, named)):
        return None
    shared = set(pages[0]) & set(pages[1])
    left = [_left(page, marks, shared) for page, marks in zip(pages, named, strict=True)]
    return left[0], left[1]


def _left(page: list[str], named: list[bool], shared: Collection[str]) -> str:
    left: list[str] = []
    run: list[int] = []
    for at in range(len(page) + 1):
        if at < len(page) and (named[at] or page[at] in shared):
            run.append(at)
            continue
        known = sum(len(page[k]) for k in run if named[k])
        others = [page[k] for k in run if not named[k]]
        if sum(map(len, others)) > MOST_UNNAMED * known:
            left += others
        run = []
        left += page[at : at + 1]
    return "\n".join(left)
