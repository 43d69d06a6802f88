"""The language of a conversation by its content: Chinese, English, or another one.

    text ─▶ without code, formulas, addresses, markup ─▶ letters by script
        Han + kana, Hangul, Cyrillic, …   the script says it: `other` where it prevails
        Han in forms of Japan alone       the same (気, 駅, 説): there are sentences without kana
        Han against words in Latin        a word of Chinese has about 1.6 characters
        words in Latin                    function words of English against those of ten others

A rule and no model: it is right on a question of four words, where detectors that were measured
guess (docs/adr/0052), says the same on every machine, and takes microseconds.
"""

import html
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Language: TypeAlias = Literal["zh", "en", "other"]

LONGEST = 4000
"""Characters of a text that are looked at, half of them at its end."""

CHARACTERS_IN_A_WORD = 1.6
"""Of Chinese, on average."""

CHINESE_SHARE = 0.3
"""Share of Chinese words at which a text is Chinese: texts quote more English than Chinese."""

KANA_SHARE = 0.08
"""Kana for each Han character at which a sentence is Japanese; Chinese ones hold a の at most."""

_NOT_PROSE = re.compile(
    r"```[\s\S]*?(?:```|\Z)|`[^`\n]*`"  # code
    r"|\$\$[^$]*\$\$|\$[^$\n]{1,200}\$|\\\[[\s\S]*?\\\]|\\\([\s\S]*?\\\)|\\[A-Za-z]+"  # formulas
    r"|https?://\S+|www\.\S+"  # addresses
    r"|<[/!]?[A-Za-z][^<>\n]{0,200}>"  # markup
    r"|^[ \t]*(?:import|from|def|class|return|public|private|for|if|while|print|\w+ ?=)\b[^\n]*"
    r"[;:()={}]$",
    re.MULTILINE,
)
_LATIN_WORD = re.compile(r"[A-Za-zÀ-ÖØ-öø-žẠ-ỹ]+")
_KANA = re.compile(r"[\u3041-\u30ff]")
_JAPANESE_HAN = frozenset(
    "気駅図読説売続経済価円実広応戦変桜県対単帰発総働込畑峠辻択沢訳釈駆歯齢隣渋渓滝処仏払拡鉄"
    "銭権勧歓観覚挙厳悪亜囲圧営栄労弾獣聴徳庁恵穂暁焼巣縄繊縦粛拝勲薫検剣険験顕様壊懐楽薬歳渇"
    "掲犠戯撃鶏軽継蛍仮辺雑桟賛斎剤嬢譲醸畳転塩穏暦歴乗剰団関"
)
"""Characters of Japanese that neither GB 2312 nor Big5 has: Chinese is not written so."""
_SENTENCE_END = re.compile(r"[\n。！？!?]")
_SCRIPTS = re.compile(
    r"(?P<han>[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+)"
    r"|(?P<kana>[\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\uff66-\uff9f]+)"
    r"|(?P<hangul>[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]+)"
    r"|(?P<cyrillic>[\u0400-\u052f]+)"
    r"|(?P<greek>[\u0370-\u03ff\u1f00-\u1fff]{3,})"  # of single letters, formulas are made
    r"|(?P<rest>[\u0530-\u10ff\u1200-\u1cff]+)"  # Armenian to Vedic: Hebrew, Arabic, Indic, Thai, …
)


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ENGLISH = _words_of(
    """
    the a an of to in is are was were be been and or not for with on at by from as that this these
    those it its he she they we you i your my our their his her what who how why when where which
    can could would should will do does did have has had if then than there here about into some
    any all more most no yes please write give tell make explain describe name list find
    """
)
# French, German, Spanish, Italian, Portuguese, Dutch, Polish, Turkish, Indonesian, Vietnamese.
_OTHER_LATIN = _words_of(
    """
    le la les des du une est et que qui dans pour pas sur avec ce cette sont vous nous je il elle
    quel quelle comment pourquoi bonjour merci au aux ne plus mais
    der die das den dem ein eine einen einer ist und nicht ich du sie wir mit auf für von zu wie
    warum wer bitte kannst sind wird auch aus bei nach über guten
    el los las una unos que en por para con es son del se lo como qué cómo cuál quién está
    hola gracias pero sus muy más
    il gli di che per con non sono della dei nel una questo questi tra due come perché ciao grazie
    os um uma não em para com dos das são você isso obrigado olá qual
    het een van niet ik je wij zijn met voor op dat hoe waarom wat is naar ook
    jest nie się na do jak czy co dlaczego proszę oraz
    bir ve bu için ile ne nasıl değil mi olan neden
    yang dan di untuk dengan adalah ini itu apa bagaimana dari tidak saya anda
    là và của các một những không được cho trong với tôi bạn gì
    """
)
_BOTH = _ENGLISH & _OTHER_LATIN


def language_of_text(text: str) -> Language:
    """The language in which a text is written; `en` for one without words."""
    return _language(_words(text))


def language_of(messages: Iterable[Mapping[str, Any]], *, without: Language = "en") -> Language:
    """The language in which a conversation is held, a system prompt aside.

    That of all its turns together; what is asked in Chinese is Chinese, whatever the answer: a
    translation, a program.

    without: of one that has no words, such as "1 + 1 =".
    """
    turns = [message for message in messages if message["role"] != "system"]
    asked = _words("\n".join(turn["content"] for turn in turns if turn["role"] == "user"))
    if _language(asked) == "zh":
        return "zh"
    words = _words("\n".join(turn["content"] for turn in turns))
    return _language(words) if words.chinese or words.latin or words.others else without


@dataclass(frozen=True)
class _Words:
    """Numbers of words in a text."""

    chinese: float
    latin: int
    others: float
    english: bool
    """False if those in Latin letters are more likely of another language than English."""


def _language(words: _Words) -> Language:
    if words.others > max(words.chinese, words.latin):
        return "other"
    if words.chinese and words.chinese >= CHINESE_SHARE * (words.chinese + words.latin):
        return "zh"
    return "en" if words.english else "other"


def _words(text: str) -> _Words:
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}\n{text[-LONGEST // 2 :]}"
    if "&" in text:
        text = html.unescape(text)
    found = _count(_NOT_PROSE.sub(" ", text))
    if not (found.chinese or found.latin or found.others):
        found = _count(text)  # nothing but code or formulas: the words in them must do
    return found


def _count(text: str) -> _Words:
    counts = Counter[str]()
    mixed = _KANA.search(text) or not _JAPANESE_HAN.isdisjoint(text)
    for sentence in _SENTENCE_END.split(text) if mixed else [text]:
        letters = Counter[str]()
        for match in _SCRIPTS.finditer(sentence):
            letters[str(match.lastgroup)] += len(match[0])
        japanese = sum(char in _JAPANESE_HAN for char in sentence)
        kana = letters["kana"] + 2 * japanese
        if kana > 1 and kana >= KANA_SHARE * letters["han"]:
            letters["kana"] += letters.pop("han", 0)
        counts += letters
    latin = [word.lower() for word in _LATIN_WORD.findall(text)]
    words = [word for word in latin if len(word) > 1 and word not in _BOTH]
    english = sum(word in _ENGLISH for word in words)
    other = sum(word in _OTHER_LATIN for word in words)
    accented = sum(not word.isascii() for word in words)
    return _Words(
        chinese=counts["han"] / CHARACTERS_IN_A_WORD,
        latin=len(latin),
        others=counts["kana"] / CHARACTERS_IN_A_WORD
        + counts["hangul"] / 2.5
        + (counts["cyrillic"] + counts["greek"] + counts["rest"]) / 5,
        english=2 * english >= other + accented - (len(latin) > 4),  # one word may be a name
    )
