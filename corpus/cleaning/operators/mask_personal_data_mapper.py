"""Placeholders for mobile and identity numbers, bank cards, WeChat, QQ, e-mail and IP addresses.

A number is masked for what it is, not for its length: an allocated prefix, a checksum (GB 11643 for
identity numbers, Luhn for cards), a date and a region, and nothing beside it that makes it an order
or a part of something longer. Handles have no form of their own, so their label stands before them
(`微信号：`, `加V`, `QQ`). Code, git remotes, `icon@2x.png`, private networks, service numbers stay.
What is not found: docs/adr/0040.
"""

import datetime
import re
from collections.abc import Callable

from data_juicer.ops.base_op import OPERATORS, Mapper

from corpus.prose import change_prose

Test = Callable[[re.Match[str]], bool]

PLACEHOLDERS = {
    "email": "<邮箱>",
    "identity": "<身份证号>",
    "bank_card": "<银行卡号>",
    "mobile": "<手机号>",
    "wechat": "<微信号>",
    "qq": "<QQ号>",
    "ip": "<IP地址>",
}
"""Kind -> what stands for it, in the order in which they are looked for."""

BEGIN = r"(?<![0-9A-Za-z_=#$%&@\\])(?<![0-9A-Za-z][.,/-])"
END = r"(?![0-9A-Za-z_@]|[.,]\d)"
"""No part of a longer number, of a name or of a path."""
GAP = "[ \u00a0\u3000-]"
MOBILE = re.compile(
    r"(?:(?<![0-9A-Za-z_=#$%&@\\])(?<![0-9A-Za-z][.,-])(?<![A-Za-z]/)|(?<=[Tt][Ee][Ll]))"
    rf"(?:(?:\+|00)86{GAP}?|[(（]\+?86[)）]{GAP}?|86-)?"
    rf"(1(?:[38]\d|4[014-9]|5[0-35-9]|6[2567]|7[0-8]|9[0-35-9]))(?P<gap>{GAP}?)"
    rf"\d{{4}}(?P=gap)\d{{4}}{END}"
)
"""Prefixes as the ministry allocated them to mobile networks."""
BESIDE = re.compile(rf"\d{GAP}\Z"), re.compile(rf"{GAP}\d")
A_MOBILE = (
    re.compile(rf"1[3-9]\d{GAP}?\d{{4}}{GAP}?\d{{4}}{GAP}\Z"),
    re.compile(rf"{GAP}1[3-9]\d{GAP}?\d{{4}}"),
)
"""Another number before or behind; if it is no mobile number, they are a row of something else."""
SERVICE_NUMBERS = frozenset(("13800138000", "13010112500"))
IDENTITY = re.compile(
    rf"{BEGIN}([1-8]\d)\d{{4}}(?P<gap>{GAP}?)((?:18|19|20)\d{{6}})(?P=gap)\d{{3}}[\dXx]{END}"
)
OLD_IDENTITY = re.compile(rf"{BEGIN}([1-8]\d)\d{{4}}(\d{{6}})\d{{3}}{END}")
REGIONS = re.compile(r"1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3]")
"""Provinces (GB/T 2260), and residence permits of Taiwan, Hong Kong and Macau."""
WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
"""Of the first 17 digits; the sum modulo 11 chooses the last character (GB 11643)."""
CARD = re.compile(
    rf"{BEGIN}(?:[3-69]\d{{15,18}}|[3-69]\d{{3}}(?:{GAP}\d{{4}}){{3}}(?:{GAP}\d{{1,3}})?){END}"
)
CARD_PREFIXES = re.compile(
    r"62|955[89]|9559[59]|436742|45635[12]|6013|601428|603[0-9]{3}|4[05]551[24]|43491[04]|458060"
    r"|518212|52189[49]|35683[03]|3568[5-9]|37024[67]|42701[089]|45180[456]"
)
"""Of cards that Chinese banks issue; 62 is UnionPay's own."""
OF_CARD = re.compile(
    r"卡|银行|账[号户]|帐[号户]|开户|户名|汇款|转账|打款|储蓄|收款|card|bank", re.I
)
OF_PERSON = re.compile(
    r"电话|手机|联系|热线|咨询|微信|致电|拨打|短信|联络|tel|phone|mobile|contact|call|whatsapp",
    re.I,
)
OF_IDENTITY = re.compile(r"身份证|证件号|公民身份|居民证|ID card", re.I)
OF_THING = re.compile(
    r"订单|单号|编号|流水|序号|序列|学号|工号|货号|型号|批号|文号|案号|条码|代码|专利|时间戳|整数|数字|计算"
    r"|等于|质数|素数|求|\bIS[BS]N|\bIMEI|\bICCID|\bU?ID\b|\bSN\b|\bNo\b",
    re.I,
)
"""Words before a number of something else."""
AMOUNT = re.compile(
    r"\s?(?:[元万亿次人个只件吨米秒年度倍%％×÷=>^]|\+(?!86)|公里|美元|字节|毫秒|平方|-\d|e\d|\*\s?\d)"
)
OPERATION = re.compile(r"(?:[+×÷=<^√≈]|[\d ]\*)\s?\Z")
HANDLE_GAP = (
    r"[ \t*]{0,9}(?:号码?|ID|[账帐]号|好友|客服)?(?:[（(][^\s（）()]{1,8}[）)])?[ \t*]{0,6}"
    r"(?P<colon>[:：|｜丨是为])?[ \t*“\"「【（(]{0,8}"
)
WECHAT = re.compile(
    r"(?:(?P<full>微信号|微信ID|wechat ?id)|(?P<word>微信|薇信|威信|wechat|weixin)"
    rf"|(?<![A-Za-z])(?P<short>[vw]x|v信|[加+＋][vw])){HANDLE_GAP}"
    r"(?P<handle>[A-Za-z][A-Za-z0-9_-]{5,19}|[1-9][0-9]{5,10})(?![A-Za-z0-9_@]|[.:-][A-Za-z0-9])",
    re.I,
)
NO_HANDLE = re.compile(
    r"https?|www|android|iphone|ipad|windows|wechat|weixin|official|openid|unionid|appid|number",
    re.I,
)
PUBLIC_ACCOUNT = re.compile(r"(?:公众|公共|订阅|服务号|官方|小程序|视频号)\S{0,4}\Z")
INVITES = re.compile(r"(?:加|搜|我的?|客服|个人|联系|助手|私信)\S{0,4}\Z")
QQ = re.compile(
    rf"(?<![A-Za-z])(?:QQ|扣扣|企鹅号|[加+＋]Q)(?:交流|咨询|讨论)?群?{HANDLE_GAP}(?P<handle>[1-9][0-9]{{4,10}})"
    r"(?![0-9A-Za-z_@]|[.-]\d| ?[元万人个次亿年版月日位名%％])",
    re.I,
)
TOP_DOMAINS = (
    "com|cn|net|org|edu|gov|mil|info|biz|io|dev|me|tv|cc|co|ai|app|xyz|top|vip|club|site|online|tech"
    "|shop|work|asia|mobi|name|hk|tw|mo|jp|kr|sg|my|th|vn|uk|de|fr|ru|us|ca|au|eu|nl|ch|se|it|es|br"
)
"""Domains that addresses in Chinese corpora have; `js`, `png`, `to`, `mm` are not among them."""
EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+/@-])(?P<local>[A-Za-z0-9][A-Za-z0-9._%+-]{0,63})"
    rf"@(?P<domain>(?:[A-Za-z0-9-]{{1,63}}\.){{1,4}}(?:{TOP_DOMAINS}))"
    r"(?![A-Za-z0-9_@/-]|\.[A-Za-z0-9]|:[A-Za-z~/]|[(\[][\x00-\x7f])",
    re.I,
)
NO_PERSON = re.compile(
    r"(?:.*\.)?(?:example\w*|domain|your\w*|test|xxx*|company|sample|abc|email)\.\w+", re.I
)
NO_NAME = re.compile(r"you|your\w*|example\w*|user|username|someone|name|xxx*", re.I)
"""Domains and names of examples."""
IP = re.compile(
    r"(?<![A-Za-z0-9_.-])(?=[\d.]{0,12}\d{3})(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}"
    r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?![A-Za-z0-9_]|\.\d|/\d)"
)
"""One of the four has three digits: `3.1.4.1` is a section."""
NO_HOST = re.compile(
    r"(?:0|10|127|2(?:2[4-9]|[3-5]\d)|169\.254|172\.(?:1[6-9]|2\d|3[01])|192\.168|192\.0\.2|198\.51\.100"
    r"|203\.0\.113|8\.8\.[48]|1\.1\.1|1\.0\.0|114\.114)\..*|.*\.(?:0|255)"
)
"""Private, reserved and public by design: networks, masks, examples (RFC 5737), name servers."""
NETWORKING = re.compile(
    r"子网|掩码|网段|广播地址|主机地址|地址段|255\.255\.|subnet|netmask|\d/(?:8|16|24)\b", re.I
)
"""A text about networks, whose addresses are its examples."""
OF_VERSION = re.compile(r"(?:版本?|version|ver|v|固件|驱动|章|节)[号为是:： ]{0,2}\Z", re.I)
CLAUSE_END = re.compile(r"[，。；,;！!？?\n]|号>|箱>|地址>")
LONG_NUMBER = re.compile(r"[0-9][0-9 \u00a0\u3000-]{9}")


@OPERATORS.register_module("mask_personal_data_mapper")
class MaskPersonalDataMapper(Mapper):
    """Puts placeholders for personal numbers, handles and addresses in prose."""

    _batched_op = True

    def __init__(
        self,
        kinds: list[str] | None = None,
        placeholders: dict[str, str] | None = None,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Choose kinds and placeholders.

        :param kinds: of email, identity, bank_card, mobile, wechat, qq, ip; all by default
        :param placeholders: kind -> text that stands for it, where another one is wanted
        """
        super().__init__(*args, **kwargs)
        kinds = list(PLACEHOLDERS) if kinds is None else kinds
        if unknown := sorted({*kinds, *(placeholders or {})} - set(PLACEHOLDERS)):
            raise ValueError(
                f"mask_personal_data_mapper knows no {', '.join(unknown)}; "
                f"it knows {', '.join(PLACEHOLDERS)}"
            )
        self.placeholders = {
            kind: text
            for kind, text in (PLACEHOLDERS | (placeholders or {})).items()
            if kind in kinds
        }

    def mask(self, text: str) -> str:
        """One text with placeholders."""
        return change_prose(text, self._masked) if _may_have(text) else text

    def process_batched(self, samples: dict[str, list[str]]) -> dict[str, list[str]]:
        """Mask every text of a batch."""
        samples[self.text_key] = [self.mask(text) for text in samples[self.text_key]]
        return samples

    def _masked(self, prose: str) -> str:
        for kind, placeholder in self.placeholders.items():
            for pattern, is_one in KINDS[kind]:
                prose = _masked_by(pattern, is_one, placeholder, prose)
        return prose


def _masked_by(pattern: re.Pattern[str], is_one: Test, placeholder: str, prose: str) -> str:
    def replacement(found: re.Match[str]) -> str:
        return _replaced(found, placeholder) if is_one(found) else found[0]

    return pattern.sub(replacement, prose)


def _may_have(text: str) -> bool:
    return (
        "@" in text
        or LONG_NUMBER.search(text) is not None
        or LABELS.search(text) is not None
        or IP.search(text) is not None
    )


def _replaced(found: re.Match[str], placeholder: str) -> str:
    """The placeholder for a match, or for the handle in it."""
    if "handle" not in found.re.groupindex:
        # `<a@b.cn>` has its brackets already.
        beside = found.string[max(0, found.start() - 1) : found.start()] + _behind(found, 1)
        return placeholder[1:-1] if beside == placeholder[:1] + placeholder[-1:] else placeholder
    begin, end = found.span("handle")
    return found[0][: begin - found.start()] + placeholder + found[0][end - found.start() :]


def _before(found: re.Match[str], size: int) -> str:
    """Up to `size` characters before a match, of its clause."""
    return CLAUSE_END.split(found.string[max(0, found.start() - size) : found.start()])[-1]


def _behind(found: re.Match[str], size: int) -> str:
    return found.string[found.end() : found.end() + size]


def _last(words: re.Pattern[str], text: str) -> int:
    """End of the last of these words; -1 without any."""
    return max((word.end() for word in words.finditer(text)), default=-1)


def _digits(found: re.Match[str]) -> str:
    return re.sub(r"[^0-9Xx]", "", found[0])


def _is_mobile(found: re.Match[str]) -> bool:
    before = _before(found, 12)
    if _digits(found)[-11:] in SERVICE_NUMBERS:
        return False
    if found["gap"] and (
        (BESIDE[0].search(before) and not A_MOBILE[0].search(_before(found, 16)))
        or (BESIDE[1].match(_behind(found, 2)) and not A_MOBILE[1].match(_behind(found, 9)))
    ):
        return False  # a row of numbers
    if _last(OF_PERSON, before) > _last(OF_THING, before):
        return True
    of_thing = OF_THING.search(before) or OPERATION.search(before)
    return not of_thing and not AMOUNT.match(_behind(found, 4))


def _is_date(digits: str) -> bool:
    try:
        date = datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return False
    return 1880 <= date.year <= datetime.date.today().year


def _is_identity(found: re.Match[str]) -> bool:
    digits = _digits(found).upper()
    total = sum(weight * int(digit) for weight, digit in zip(WEIGHTS, digits, strict=False))
    return (
        bool(REGIONS.match(found[1]))
        and _is_date(found[3])
        and "10X98765432"[total % 11] == digits[17]
    )


def _is_old_identity(found: re.Match[str]) -> bool:
    # Without a checksum: a word must say it.
    named = OF_IDENTITY.search(_before(found, 20))
    return bool(named) and bool(REGIONS.match(found[1])) and _is_date("19" + found[2])


def _is_bank_card(found: re.Match[str]) -> bool:
    digits, before = _digits(found), _before(found, 30)
    odd, even = digits[-1::-2], digits[-2::-2]
    total = sum(map(int, odd)) + sum(sum(divmod(2 * int(digit), 10)) for digit in even)
    if total % 10 or len(set(digits)) < 4:
        return False
    if _last(OF_CARD, before) > _last(OF_THING, before):
        return True
    chinese = CARD_PREFIXES.match(digits) is not None and len(digits) in (16, 19)
    of_thing = OF_THING.search(before) or OPERATION.search(before)
    return chinese and not of_thing and not AMOUNT.match(_behind(found, 4))


def _is_wechat(found: re.Match[str]) -> bool:
    handle, before = found["handle"], _before(found, 8)
    if NO_HANDLE.match(handle) or PUBLIC_ACCOUNT.search(before):
        return False
    if found["full"]:
        return True
    has_digit = any(c.isdigit() for c in handle)
    if found["short"]:
        return has_digit and bool(found["colon"] or not found["short"].lower().startswith("w"))
    return bool(found["colon"]) or (has_digit and bool(INVITES.search(before)))


def _is_email(found: re.Match[str]) -> bool:
    address = re.search(r"\S*\Z", _before(found, 60))
    in_link = address is not None and "://" in address[0]
    remote = found["local"].lower() in ("git", "hg", "svn") and _behind(found, 1) in (":", "/")
    example = NO_PERSON.fullmatch(found["domain"]) or NO_NAME.fullmatch(found["local"])
    return not in_link and not remote and not example


def _is_ip(found: re.Match[str]) -> bool:
    quoted = found.string[found.start() - 1 : found.start()] in ("'", '"')
    version = quoted or OF_VERSION.search(_before(found, 12))
    return not version and not NO_HOST.fullmatch(found[0]) and not NETWORKING.search(found.string)


LABELS = re.compile(
    r"微信|薇信|威信|扣扣|企鹅号|[vVwW][xX信]|[qQ]{2}|[加+＋][vVwWqQ]|[wW]e[cCiI][hHxX]"
)
KINDS: dict[str, list[tuple[re.Pattern[str], Test]]] = {
    "email": [(EMAIL, _is_email)],
    "identity": [(IDENTITY, _is_identity), (OLD_IDENTITY, _is_old_identity)],
    "bank_card": [(CARD, _is_bank_card)],
    "mobile": [(MOBILE, _is_mobile)],
    "wechat": [(WECHAT, _is_wechat)],
    "qq": [(QQ, lambda found: True)],
    "ip": [(IP, _is_ip)],
}
