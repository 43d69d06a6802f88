"""Traditional Chinese to simplified characters where a text is traditional; nothing else.

Data-Juicer's `chinese_convert_mapper` gives every text to OpenCC. In simplified text OpenCC finds
traditional words that are none: 打坏 becomes 打坯, the painter 文徵明 文征明, the skater 王濛 王蒙;
and Japanese and Korean lose their characters. Here a document is converted if it is mostly
traditional by the characters that only one of the scripts has; in any other one, single paragraphs
that are traditional all through. Simplified text comes back as it is, to the character.

    traditional only   OpenCC simplifies it, and GB 2312 (6,763 simplified characters) lacks it
    simplified only    OpenCC makes it traditional, and Big5 (13,053 traditional ones) lacks it

Words are not translated (軟體 stays 软体), only characters. What stays in a converted text:

- paragraphs that are simplified already, Japanese, or Korean; quotations with kana or Hangul
- paragraphs that tell what characters look like in either script: 「後」的簡體是「后」. A document
  that asks for a script, such as a translation into traditional Chinese, stays whole
- names and words whose character is standard in simplified text too (WORDS)
"""

import functools
import re
from typing import Any

import opencc
from data_juicer.ops.base_op import OPERATORS, Mapper

MAJORITY = 2
"""A document is mostly traditional if it has more than so many times as many traditional as
simplified characters. Ordinary traditional text has none of the latter, old editions some."""
SIMPLIFIED_LINE = (5, 3)
"""A line of such a document is simplified already with at least so many simplified characters, and
so many times as many as traditional ones."""
SHORT = 10
"""Chinese characters; a shorter text needs two different traditional ones: 王濛 is a name."""
PARAGRAPH = 10
"""The same for a paragraph of another document, and how many different ones it must have."""
NEIGHBOUR = 3
"""Different ones in a paragraph of such a document that has no simplified character: it is
converted if another one is, so that no answer changes the script from line to line."""
SPEAKER = re.compile(r"\s*问：")
"""Stands before questions of dialogues in simplified characters, whatever follows."""
FOREIGN = 0.15
"""Share of kana or Hangul, of all letters of East Asia, from which on a text is not Chinese."""

BOTH = frozenset("黄横别没虚内强却脚烟卧带争静净录")
"""Characters of GB 2312 alone which traditional texts printed on the mainland have too."""

HAN = re.compile(r"[\u3400-\u9fff]")
ABROAD = re.compile(r"[\u3041-\u3096\u30a1-\u30fa\u1100-\u11ff\uac00-\ud7a3]")
"""Kana and Hangul."""
NAMES_CHARACTERS = re.compile(
    r"(?:[繁简簡][体體]|[繁简簡]化?字|[正异異]體字|异体字|[新舊旧]字[体體])"
    r"(?=.{0,200}[「“『‘\"'（(].{1,2}[」”』’\"'）)])"
    r"|[「“『‘\"'（(].{1,2}[」”』’\"'）)].{0,60}?(?:[繁简簡][体體]|[繁简簡]化?字|[异異][体體]字)"
)
"""A script and characters in quotes: the line tells what a character looks like in each."""
_A_SCRIPT = r"(?:[繁简簡][体體]|[正繁简簡]體?中文|正體|[繁简簡]化?字)"
REQUEST = re.compile(
    rf"(?:[请請把将將帮幫]|如何|怎么|怎麼|怎樣|怎样)[^。\n]{{0,40}}{_A_SCRIPT}"
    rf"|(?:[译譯换換转轉改写寫翻])(?:[成为為到]|作)[^。\n]{{0,6}}{_A_SCRIPT}"
    rf"|{_A_SCRIPT}[^。\n]{{0,6}}(?:翻[译譯]|版)"
    r"|[译譯][成为為](?:粤|粵|广东|廣東|台|臺|香港)"
    r"|traditional chinese|simplified chinese",
    re.I,
)
QUOTED = re.compile(r"[「『《〈（(“\"][^「『《〈（(“\"」』》〉）)”\n]{1,60}[」』》〉）)”\"]")
ABROAD_RUN = re.compile(rf"(?:{ABROAD.pattern}+[\u3400-\u9fff々ー]{{1,4}})*{ABROAD.pattern}+")
"""Kana with the Chinese characters between them: 聞き取り."""

MODERN = re.compile(r"[的裡這們麼嗎呢吧妳你她您]")
"""Words of modern Chinese, one of 200 characters at least; 裡 is Taiwan's form of 裏."""
CLASSICAL = re.compile(r"[之也矣曰乎焉兮哉]")
CLAUSE_END = re.compile(r"[，。！？；：、\s]+")
AFTER_VERB = re.compile(
    r"(?<=[看聽沿隨跟接帶拿站坐走穿戴說講談笑哭喊想等躺睡抱望活朝對照按憑順向試開寫唱跑背拉牽掛指圍繞伴臨懷閉睜捧握盯瞧瞪藏守騎"
    r"拖讀念唸翻聞提舉推扶摸踩含忍保味標示充洋閃燃冒飄浮漂流住留陪忙])著(?!作|名|者|述|錄|書|稱)"
)
"""著 that is 着 in any text."""
NEVER = re.compile(r"(?!)")
NO_PARTICLE = re.compile(
    r"(?:[土卓撰合名]|[編譯](?!著[重眼手])|(?<![討談爭辯議評推無不])論|(?<!同樣)[原專遺拙巨鉅昭顯]"
    r"|(?<!比)較|所(?!著[重眼手力想急迷]))著(?![重眼手火])"
    r"|著(?:作|名|者|述|錄|書|稱)|(?<![味隨在帶看跟沿接懷含藏示誌徵面向對著])著有"
    r"|(?<![看讀念唸拿捧抱翻帶照按跟聽寫抄背憑靠有])著(?=《)"
)
"""著 as in 著作, which stays; any other 著 of a modern Taiwanese text is 着 (OpenCC's `tw2s`)."""
WORDS = {
    "畢昇": "毕昇",
    "乾寧": "乾宁",
    "乾興": "乾兴",
    "乾統": "乾统",
    "乾縣": "乾县",
    "李乾順": "李乾顺",
    "李純乾": "李纯乾",
    "昇龍": "昇龙",
    "醞藉": "酝藉",
    "鍾馗": "钟馗",
    "附著": "附着",
    "徵調": "征调",
    "簷": "檐",
    "祕書": "秘书",
    "於穆公": "于穆公",
    "於穆陵": "于穆陵",
    "鬭": "斗",
    "鬦": "斗",
    "鬪": "斗",
    "衞": "卫",
    "文徵明": "文徵明",
    "王濛": "王濛",
    "洪昇": "洪昇",
    "李昇": "李昇",
    "乾符": "乾符",
    "乾德": "乾德",
    "乾祐": "乾祐",
    "乾封": "乾封",
    "乾化": "乾化",
    "乾象": "乾象",
    "徵羽": "徵羽",
    "藉甚": "藉甚",
    "嗰": "嗰",
    "打坏": "打坏",
    "毛坏": "毛坏",
}
"""Words that OpenCC gets wrong, and what they are in simplified text. 坏 alone is 壞 in a text that
mixes the scripts: 坏 for 坯 is a form of old books."""


@OPERATORS.register_module("traditional_to_simplified_mapper")
class TraditionalToSimplifiedMapper(Mapper):
    """Converts documents and paragraphs that are traditional Chinese into simplified characters."""

    _batched_op = True

    def convert(self, text: str) -> str:
        """One text in simplified characters. Simplified and foreign text comes back as it is."""
        only = _characters()
        if not only.traditional.search(text):
            return text
        if ABROAD.search(text) and _is_foreign(QUOTED.sub("", text)):
            return text
        lines = text.split("\n")
        kinds = [_Count(line) for line in lines]
        mostly = _is_mostly_traditional(text, kinds)
        wanted = [
            count.converts(mostly) and not NAMES_CHARACTERS.search(line)
            for count, line in zip(kinds, lines, strict=True)
        ]
        if not any(wanted) or REQUEST.search(text):
            return text
        wanted = [
            want or (count.is_neighbour() and not NAMES_CHARACTERS.search(line))
            for want, count, line in zip(wanted, kinds, lines, strict=True)
        ]
        particle = _particle(text)
        return "\n".join(
            _simplified(line, particle) if want else line
            for want, line in zip(wanted, lines, strict=True)
        )

    def process_batched(self, samples: dict[str, list[str]]) -> dict[str, list[str]]:
        """Convert every text of a batch."""
        samples[self.text_key] = [self.convert(text) for text in samples[self.text_key]]
        return samples


class _Characters:
    """Patterns of the characters that tell the scripts apart."""

    def __init__(self) -> None:
        han = [chr(code) for code in range(0x3400, 0xA000)]
        simple, complex_ = _each("t2s", han), _each("s2t", han)
        traditional = [
            c for c, s in zip(han, simple, strict=True) if c != s and not _in(c, "gb2312")
        ]
        simplified = [
            c
            for c, t in zip(han, complex_, strict=True)
            if c != t and _in(c, "gb2312") and not _in(c, "big5") and c not in BOTH
        ]
        japanese = [
            c
            for c, s in zip(han, simple, strict=True)
            if c == s and _in(c, "shift_jis") and not _in(c, "gb2312") and not _in(c, "big5")
        ]
        self.traditional = re.compile(f"[{''.join(traditional)}]")
        self.other = re.compile(f"[{''.join(simplified + japanese)}]")
        """Simplified only, or of Japanese only (図, 売)."""


class _Count:
    """Characters of one line by what they tell."""

    def __init__(self, line: str) -> None:
        only = _characters()
        line = SPEAKER.sub("", line, count=1)
        self.found = only.traditional.findall(line)
        self.other = len(only.other.findall(line)) if self.found else 0
        # An English line may name places in Chinese. Two letters of five, or so, are vowels.
        self.is_chinese = len(HAN.findall(line)) > sum(map(line.count, "aeiou")) and not (
            ABROAD.search(line) and _is_foreign(QUOTED.sub("", line))
        )

    def converts(self, mostly_traditional: bool) -> bool:
        """True if the line is to be converted, in a mostly traditional document or another."""
        if not self.is_chinese:
            return False
        if mostly_traditional:
            least, times = SIMPLIFIED_LINE
            return self.other < least or self.other < times * len(self.found)
        different = len(set(self.found))
        return different >= PARAGRAPH and len(self.found) > PARAGRAPH * self.other

    def is_neighbour(self) -> bool:
        """True if the line is to be converted where another one of its document is."""
        return self.is_chinese and not self.other and len(set(self.found)) >= NEIGHBOUR


def _is_mostly_traditional(text: str, lines: list[_Count]) -> bool:
    only = _characters()
    traditional = [character for line in lines if line.is_chinese for character in line.found]
    other = only.other.findall(text)
    # A simplified text may quote a traditional one: what is not quoted decides, if it tells.
    unquoted = QUOTED.sub("", text)
    if other and unquoted != text:
        known = frozenset(only.traditional.findall(unquoted))
        if known or only.other.search(unquoted):
            traditional = [c for c in traditional if c in known]
            other = only.other.findall(unquoted)
    # By different characters too: 濛濛 of a verse, 王濛 all over an interview.
    different = len(set(traditional))
    if len(traditional) <= MAJORITY * len(other) or different <= MAJORITY * len(set(other)):
        return False
    return different > 1 or (different == 1 and len(HAN.findall(text)) >= SHORT)


def _is_foreign(text: str) -> bool:
    """True for Japanese and Korean."""
    abroad = len(ABROAD.findall(text))
    return abroad > 0 and abroad >= FOREIGN * (abroad + len(HAN.findall(text)))


def _particle(text: str) -> re.Pattern[str] | None:
    """Pattern of the 著 that is a particle and becomes 着; None where OpenCC finds it itself.

    Hong Kong and old editions write 着 themselves, so that 著 is the one of 著作. It mostly is in
    classical texts, too.
    """
    if "着" in text:
        return NEVER
    if len(MODERN.findall(text)) * 200 > len(text):
        return None
    clauses = [clause for clause in CLAUSE_END.split(text) if clause]
    verses = sum(len(clause) in (5, 7) for clause in clauses)
    classical = CLASSICAL.search(text) or (verses > 3 and verses * 2 > len(clauses))
    return AFTER_VERB if classical else None


def _simplified(line: str, particle: re.Pattern[str] | None) -> str:
    """A traditional line in simplified characters, protected words apart."""
    converter = _converter("t2s" if particle else "tw2s")
    pieces, at = [], 0
    for start, end, word in _protected(line, particle):
        if start >= at:
            pieces += [converter.convert(line[at:start]), word]
            at = end
    return "".join(pieces) + str(converter.convert(line[at:]))


def _protected(line: str, particle: re.Pattern[str] | None) -> list[tuple[int, int, str]]:
    """Start, end and result of what is not given to OpenCC, in order."""
    found = [(m.start(), m.end(), WORDS[m[0]]) for m in _words().finditer(line)]
    if particle:
        found += [(m.start(), m.end(), "着") for m in particle.finditer(line)]
    elif "著" in line:
        keep = _converter("t2s")
        found += [(m.start(), m.end(), keep.convert(m[0])) for m in NO_PARTICLE.finditer(line)]
    if ABROAD.search(line):
        found += [(m.start(), m.end(), m[0]) for m in QUOTED.finditer(line) if ABROAD.search(m[0])]
        found += [(m.start(), m.end(), m[0]) for m in ABROAD_RUN.finditer(line)]
    return sorted(found)


@functools.cache
def _words() -> re.Pattern[str]:
    return re.compile("|".join(WORDS))


@functools.cache
def _converter(config: str) -> Any:
    """Read once in every process; an operator that holds it could not be sent to another one.

    Without OpenCC's rarest simplifications, which lie beyond the first plane and in few fonts.
    """
    return opencc.OpenCC(config, include_tofu_risk_dictionaries=False)


@functools.cache
def _characters() -> _Characters:
    return _Characters()


def _each(config: str, characters: list[str]) -> list[str]:
    """Each character converted by itself."""
    return str(_converter(config).convert("\n".join(characters))).split("\n")


def _in(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
