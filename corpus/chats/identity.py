"""The model's name and author in conversations about who it is, and claims of another role.

    "我是EmoLLM，由EmoLLM团队开发的AI助手"  ──▶  "我是Steel-LLM，由Steel 项目开发的AI助手"
    "我是EmoLLM，一名心理咨询师"           ──▶  left out: a role that the model does not have

Published self-awareness sets are about another model. A recipe says what that one is called; the
configuration says what ours is called, in Chinese and in English.
"""

import re
from dataclasses import dataclass

from common.config import Config

CLAIMS_ROLE = "claims another role"
"""Reason of a row that is left out."""


@dataclass(frozen=True, kw_only=True)
class Identity(Config):
    """Name and makers that the model says it has."""

    name: str = "Steel-LLM"
    """Its name in English."""
    author: str = "the Steel project"
    """Its makers in English, as they stand after "developed by"."""
    name_zh: str = "Steel-LLM"
    """Its name in Chinese."""
    author_zh: str = "Steel 项目"
    """Its makers in Chinese."""


@dataclass(frozen=True, kw_only=True)
class OtherIdentity:
    """Names in a set's files that stand for the model and its makers."""

    names: tuple[str, ...] = ()
    """Names and placeholders of the model."""
    authors: tuple[str, ...] = ()
    """Names and placeholders of its makers."""
    about_itself: bool = False
    """True for a set in which every answer is about the model: one that claims a role is left
    out."""


_HAN = r"[\u4e00-\u9fff]"
_PERSON_ZH = (
    "咨询师|心理师|治疗师|医生|医师|大夫|护士|药师|律师|法官|老师|教师|教授|导师|教练|专家|顾问|客服|工程师|程序员"
    "|设计师|会计|记者|作家|诗人|厨师|导游|翻译官|分析师|理财师|营养师|学者|博士|真人|人类"
)
_FIELD_ZH = (
    "心理|情感|医疗|医学|健康|中医|法律|金融|财务|理财|投资|教育|教学|编程|代码|电商|购物|旅游|营养|健身|农业|招聘|政务"
    "|写作|绘画|游戏|汽车|房产"
)
_CLAIM_ZH = re.compile(
    r"(?<!不)(?:是|作为|作|做|成为|身为|担任|扮演)(?!不)"
    rf"[^。！？!?\n]{{0,40}}?(?:{_PERSON_ZH})(?!们|的(?:帮助|建议|意见))"
    rf"|(?:{_FIELD_ZH})[^。，,！？!?\n]{{0,6}}(?:助手|助理|机器人|模型|伙伴|大模型)"
)
_PERSON_EN = (
    "counsell?or|therapist|psychologist|psychiatrist|doctor|physician|nurse|lawyer|attorney|judge"
    "|teacher|tutor|professor|coach|expert|consultant|adviser|advisor|engineer|programmer|designer"
    "|accountant|journalist|writer|poet|chef|scientist|human being|human|person"
)
_FIELD_EN = (
    "psycholog\\w+|mental[- ]health|emotional|medical|health|legal|financial|investment|educational"
    "|coding|programming|shopping|travel|nutrition|fitness|agricultural|customer[- ]service"
)
_CLAIM_EN = re.compile(
    r"\b(?:I am|I'm|I’m|I was|as|me as)(?: \w+,)? an? (?!AI\b[^.,!?\n]*\bnot )"
    rf"(?:[\w-]+ ){{0,4}}?(?:{_PERSON_EN})\b"
    rf"|\b(?:{_FIELD_EN})\b(?: [\w-]+){{0,2}} (?:assistant|chatbot|bot|model|companion)\b"
    rf"|\b(?:I am|I'm|I’m) [^.!?\n]{{1,60}}?, an? (?:[\w-]+ ){{0,4}}?(?:{_PERSON_EN})\b",
    re.IGNORECASE,
)


def claims_role(answer: str) -> bool:
    """True if an answer about the model itself gives it a role that an assistant does not have."""
    return bool(_CLAIM_ZH.search(answer) or _CLAIM_EN.search(answer))


def with_identity(text: str, others: OtherIdentity, name: str, author: str) -> str:
    """A text with our name and makers for the other ones, the longest of these first.

    Blanks that stand around a placeholder go where Chinese meets Chinese.
    """
    ours = dict.fromkeys(others.names, name) | dict.fromkeys(others.authors, author)
    if not ours:
        return text
    # One pass: what is put in is not looked at again.
    longest_first = sorted(ours, key=len, reverse=True)
    pattern = re.compile(rf"( ?)({'|'.join(map(re.escape, longest_first))})( ?)")

    def replaced(match: re.Match[str]) -> str:
        value = ours[match[2]]
        before, after = text[: match.start()][-1:], text[match.end() :][:1]
        left = "" if _chinese(before) and _chinese(value[:1]) else match[1]
        right = "" if _chinese(after) and _chinese(value[-1:]) else match[3]
        return f"{left}{value}{right}"

    return pattern.sub(replaced, text)


def _chinese(char: str) -> bool:
    return bool(re.fullmatch(f"{_HAN}|[，。：；！？、]", char))
