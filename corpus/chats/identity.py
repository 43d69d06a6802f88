"""The model's name and author in conversations about who it is, and claims of another role.

    "我是EmoLLM，由EmoLLM团队开发的AI助手"  ──▶  "我是Steel-LLM，由Steel 项目开发的AI助手"
    "我是EmoLLM，一名心理咨询师"           ──▶  left out: a role that the model does not have
    "作为OpenAI训练的语言模型，我…"        ──▶  left out, of any set: another assistant speaks

Published self-awareness sets are about another model. A recipe says what that one is called; the
configuration says what ours is called, in Chinese and in English. Conversations that were recorded
with a known assistant are full of its name: a model that learns them says that it is ChatGPT.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from common.config import Config
from common.errors import ConfigError, SteelError

CLAIMS_ROLE = "claims another role"
"""Reason of a row that is left out."""

CLAIMS_ASSISTANT = "claims to be another assistant"
"""Reason of a row that is left out, unless its recipe keeps them."""


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

    def check(self) -> Iterator[SteelError]:
        yield from super().check()
        for name, value in vars(self).items():
            # It is put into answers: nothing would make "I am , made by ".
            if not value.strip() or not value.isprintable() or "<|" in value:
                yield ConfigError(
                    f"{name} = {value!r}; it must be a name on one line, without control tokens"
                )


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


_NAMED = r"""
    Chat[ ]?GPT | GPT-?[345]\b | Qwen(?:\b|(?=\d)) | Tongyi | ERNIE[ ]Bot | Chat[ ]?GLM
    | Intern[ ]?LM | Vicuna | LLaMA | MOSS\b | Bing[ ]Chat | Open[ ]?Assistant
    | Baichuan | DeepSeek | Hunyuan | Mixtral | Google[ ]Bard | (?:GitHub|Microsoft)[ ]Copilot
    | (?:Claude|Gemini)(?=(?:[ ]?\d)?[,，]?[ ]?(?:an?[ ](?:AI|large|language|helpful)|一|由|是))
    | 通义千问 | 千问 | 文心一言 | 讯飞星火 | 星火认知 | 智谱清言 | 书生浦语 | 百川大模型 | 豆包
    | 盘古大模型 | 混元 | 必应聊天
"""
"""Assistants; those that are called like people or stars only where it is clear."""
_MAKER = r"""
    Open[ ]?AI | Anthropic | Google(?:[ ]DeepMind|[ ]AI)? | DeepMind | Meta(?:[ ]AI)? | Microsoft
    | Alibaba(?:[ ]Cloud)? | Baidu | Tencent | ByteDance | Huawei | iFLYTEK | Zhipu(?:[ ]AI)?
    | Mistral(?:[ ]AI)? | LAION | LMSYS | Fudan[ ]University | xAI
    | 谷歌 | 微软 | 阿里云 | 阿里巴巴 | 达摩院 | 百度 | 腾讯 | 字节跳动 | 华为 | 科大讯飞 | 讯飞
    | 智谱 | 清华(?:大学)? | 复旦(?:大学)? | 上海人工智能实验室 | 百川智能 | 月之暗面
    | 深度求索 | 商汤
"""
_PARTS = {
    "@NAMED": _NAMED,
    "@MAKER": _MAKER,
    "@MADE": "(?:训练|开发|创建|研发|打造|推出|构建|设计|创造|制造|研制)",
    "@MACHINE": "(?:模型|助手|助理|机器人|程序|系统|AI|人工智能)",
    "@IAM": "(?<!如果)(?<!假如)(?<!假设)(?<!要是)(?:我|本人|本助手)(?:的名字|的全名|其实|实际上)?"
    "(?:就|只|仅仅|仅)?(?:是|叫|名叫|名为)",
    "@ONE": "(?:一[个款名位种])?",
    "@made": "(?:trained|developed|created|made|built|designed|programmed)",
    "@iam": r"(?<!['\"“‘])\b(?:I[ ]am|I'm|I’m|I[ ]was|I[ ]have[ ]been)\b",
}
_CLAIMS = (
    # 我是ChatGPT; 我叫通义千问; 我是由复旦大学开发的MOSS
    '@IAM @ONE [ ]? (?:由[ ]?)? (?:(?:@MAKER)[ ]?(?:公司)? @MADE? 的?[ ]?)? @ONE [ ]? [“"「]?'
    "(?:@NAMED)(?!的?(?:用户|粉丝|团队|开发者|爱好者|专家))",
    # 我是由OpenAI训练的大型语言模型
    r"@IAM [^，。！？!?\n]{0,30}? (?:@MAKER) [^，。\n]{0,6}? @MADE (?:和@MADE)?"
    r"[^，。\n]{0,16}? @MACHINE",
    # 我是一个人工智能助手，由OpenAI开发
    r"@IAM [^，。！？!?\n]{0,20} @MACHINE [，,] [ ]?(?:我?是)?由[ ]?(?:@MAKER)"
    r"[^，。\n]{0,6}? @MADE",
    # 我由OpenAI开发
    "(?<!如果)(?<!假如) 我(?:是|被)?[ ]?由?(?:来自[ ]?)? (?:@MAKER)(?:公司|的?团队)?[ ]?@MADE",
    # 作为OpenAI开发的语言模型，我
    r"作为@ONE [ ]?(?:由[ ]?)?(?:来自[ ]?)? (?:@MAKER) [^，。\n]{0,6}? @MADE"
    r"[^，。\n]{0,20}? @MACHINE [^。！？\n]{0,20} 我",
    # 作为ChatGPT，我; 作为一种AI语言模型，ChatGPT没有
    r"作为@ONE [ ]?(?:@NAMED) [，,] (?=[^。！？\n]{0,12}我)",
    r"作为@ONE [^，。\n]{0,8} @MACHINE [，,] [ ]?(?:@NAMED)[ ]?(?:没有|无法|不能|不会)",
    # OpenAI创造了我; 我的开发者是OpenAI
    "(?:@MAKER)[ ]?(?:公司)? @MADE 了?我(?![们的国])",
    "我的(?:开发者|创造者|开发商|创建者|开发公司)是[ ]?(?:@MAKER)",
    # 我无法访问其他ChatGPT实例; 我不断受到OpenAI的培训
    r"我 [^，。！？\n]{0,12} 其他[ ]?(?:@NAMED)[ ]?实例",
    r"我 [^，。！？\n]{0,6} 受到[ ]?(?:@MAKER)[ ]?的(?:培训|训练)",
    # I am ChatGPT; I'm an AI assistant called Qwen
    r"(?:@iam|\b[Mm]y[ ]name[ ]is\b|\b[Cc]all[ ]me\b)[ ] (?:(?:an?|the|just|only|actually|called"
    "|named|known|as|based|on|AI|large|language|model|assistant|chatbot|(?:@MAKER)(?:['’]s)?)[ ,]+)"
    "{0,7}(?:@NAMED)(?![ ]?(?:users?|fans?))",
    # I am a language model trained by OpenAI
    r"@iam (?![ ](?:not|\w+ing)\b) [^.!?\n]{0,60}? \b@made(?:[ ]and[ ]\w+)?[ ]by[ ]"
    r"(?:(?!a[ ])\w+[ ]){0,4}? (?:@MAKER)\b",
    # As an AI model developed by OpenAI, I
    r"\b[Aa]s[ ]an?\b [^.!?\n]{0,40}? \b(?:model|AI|assistant|program|bot|chatbot|system)\b"
    r"[^.!?\n]{0,20}? \b@made[ ]by[ ](?:\w+[ ])?(?:@MAKER)\b [^.!?\n]{0,30} \b(?:I|my)\b",
    r"\b[Aa]s[ ](?:@NAMED),[ ] (?:an?[ ][^.!?\n]{0,60},[ ])? (?:I|my)\b",
    # OpenAI created me; my creators are OpenAI
    r"\b(?:@MAKER)[ ](?:has[ ]|have[ ])?@made[ ]me\b",
    r"\b[Mm]y[ ](?:developer|creator|maker)s?[ ](?:is|are)[ ](?:\w+[ ]){0,3}? (?:@MAKER)\b",
)


def _claims() -> re.Pattern[str]:
    pattern = "|".join(f"(?:{form})" for form in _CLAIMS)
    for part in ("@IAM", "@MADE", "@MACHINE", "@ONE", "@NAMED", "@MAKER", "@made", "@iam"):
        pattern = pattern.replace(part, _PARTS[part])
    return re.compile(pattern, re.VERBOSE)


_CLAIM_ASSISTANT = _claims()
_KNOWN = re.compile(f"{_NAMED}|{_MAKER}", re.VERBOSE)


def claims_assistant(answer: str) -> bool:
    """True if an answer says that another, known assistant gives it: "I am ChatGPT", "作为OpenAI
    训练的模型，我…". One that tells about these is none."""
    return bool(_KNOWN.search(answer) and _CLAIM_ASSISTANT.search(answer))


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
