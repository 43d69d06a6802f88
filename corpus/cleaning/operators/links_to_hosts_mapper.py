"""Web addresses out of prose, so that every sentence stays one.

    [words](https://…)                  the words
    请访问 https://a.cn/x?y=1 下载       请访问 a.cn 下载            its host stands for it
    来源：https://a.cn/x                 a line of nothing else goes
    （https://a.cn/x）                   goes with its brackets

Code keeps its addresses, and so do lines for a shell; a text that is nothing but addresses stays
whole: they are what it says. Data-Juicer's `clean_links_mapper` leaves `请访问 下载`
(docs/adr/0040).
"""

import re

from data_juicer.ops.base_op import OPERATORS, Mapper

from corpus.prose import change_prose

ADDRESS = (
    r"(?i:(?<![a-z0-9])(?:https?|ftp)://|(?<![a-z0-9@./-])(?:www\.|(?=(?:[a-z0-9-]{1,63}\.){1,8}"
    r"(?:com|cn|net|org)/))[a-z0-9])(?:[A-Za-z0-9\-._~:/?#@!$&'*+,;=%]"
    r"|\([A-Za-z0-9\-._~:/?#@!$&*+,;=%]*\)|\[[a-z ]{1,20}\])*[A-Za-z0-9/\-_~#@$&+=%]"
    r"(?:(?<=/(?:wiki|item)/)[\u3400-\u9fff·_]{1,40})?"
)
"""It ends where Chinese begins, but for the title of an article, and before the punctuation that
follows it."""
FOUND = re.compile(
    r"!?\[(?P<words>[^\[\]\n]*)\]\(\s{0,9}<?(?:https?|ftp)://(?:[^\s()]|\([^\s()]*\))*"
    r"(?:[ \t]{1,9}[^()\n]*)?\)"
    r"|(?P<opening>[（(【][ \t]{0,9}(?:[^\W\d_]{1,6}[:：][ \t]{0,9})?)?"
    rf"<?(?P<address>{ADDRESS})>?"
    r"(?P<closing>[ \t]{0,9}[）)】])?"
)
HOST = re.compile(r"(?:[a-z]{3,5}://)?(?:[^/@\s]*@)?([^/:?#\s]+)", re.I)
NUMERIC = re.compile(r"[0-9.]+")
LABELS = re.compile(
    r"(?:[\W\d_]|原文|链接|网址|地址|来源|官网|官方|网站|主页|参考|资料|详见|查看|点击|下载|视频|传送门)+"
)
"""Words that only announce an address, and what is no letter."""
COMMAND = re.compile(
    r"\s*(?:[$#>%] ?)?(?:sudo )?(?:curl|wget|rsync|scp|ssh|svn|npx|helm|kubectl|(?:apt|apt-get|brew"
    r"|cargo|conda|npm|pip3?|pnpm|yarn|yum) (?:add|config|i|install)|(?:docker|podman) (?:build"
    r"|login|pull|run)|git (?:clone|config|fetch|pull|push|remote|submodule)"
    r"|go (?:env|get|install)) "
)
"""A line for a shell; without its address it does nothing."""
ARGUMENT = re.compile(r"[(=,\[{:]\s{0,4}[rbf]?([\"'])(?:https?|ftp)://[^\s\"'<>]*\1")
"""An address in quotes, as source has it: `get("https://a.cn/x")`."""
PERHAPS = re.compile(r"://|www\.|\.(?:com|cn|net|org)/", re.I)


@OPERATORS.register_module("links_to_hosts_mapper")
class LinksToHostsMapper(Mapper):
    """Takes addresses out of prose; in a sentence the host stays, of Markdown links the words."""

    _batched_op = True

    def convert(self, text: str) -> str:
        """One text without web addresses."""
        if not PERHAPS.search(text):
            return text
        converted = change_prose(text, _without_addresses)
        return text if not converted.strip() or LABELS.fullmatch(converted) else converted

    def process_batched(self, samples: dict[str, list[str]]) -> dict[str, list[str]]:
        """Convert every text of a batch."""
        samples[self.text_key] = [self.convert(text) for text in samples[self.text_key]]
        return samples


def _without_addresses(prose: str) -> str:
    if not PERHAPS.search(prose):
        return prose
    lines = []
    for line in prose.split("\n"):
        if PERHAPS.search(line) and not COMMAND.match(line) and not ARGUMENT.search(line):
            rest = FOUND.sub(lambda found: found["words"] or "", line)
            if rest != line and (not rest.strip() or LABELS.fullmatch(rest)):
                continue
            lines.append(FOUND.sub(_replacement, line))
        else:
            lines.append(line)
    return "\n".join(lines)


def _replacement(found: re.Match[str]) -> str:
    if found["words"] and not PERHAPS.search(found["words"]):
        return found["words"]
    if not found["address"]:
        return ""
    opening, closing = found["opening"] or "", found["closing"] or ""
    if opening and closing:
        return ""
    host = HOST.match(found["address"])
    name = "" if host is None or NUMERIC.fullmatch(host[1]) else host[1]
    return f"{opening}{name}{closing}"
