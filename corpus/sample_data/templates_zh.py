"""The valley told in simplified Chinese: clauses for facts, paragraphs of several facts, documents.

    fact ──clause──▶ 建国养了一只狐狸 ──paragraph──▶ two to four facts with a remark ──▶ document

A clause uses the value with the same measure word as an answer option does (see world.Kind.prefix),
so that reading and answering share their tokens.
"""

from collections.abc import Callable, Sequence
from random import Random

from corpus.sample_data.world import (
    BRANDS,
    CITIZENS,
    FREE_ATTRIBUTES,
    KINDS,
    ORDERED_ATTRIBUTES,
    PLACES,
    Fact,
    Word,
    World,
    character_facts,
)

PERSON_CLAUSES: dict[str, tuple[str, ...]] = {
    "job": ("{n}是{v}", "{n}的工作很稳定，是{v}", "说起职业，{n}是{v}"),
    "home": ("{n}的家{v}", "{n}的房子{v}", "{n}如今的住处{v}"),
    "pet": ("{n}养了{v}", "{n}家里有{v}", "陪着{n}的是{v}"),
    "drink": ("{n}每天喝{v}", "{n}早上先要{v}", "朋友给{n}倒了{v}"),
    "fruit": ("{n}常吃{v}", "{n}带了{v}", "{n}饭后要吃{v}"),
    "vehicle": ("{n}有{v}", "{n}出门用{v}", "门外停着{n}的车，是{v}"),
    "colour": ("{n}穿着{v}", "{n}平日穿{v}", "远远看去，{n}是{v}"),
    "sport": ("{n}周末看{v}", "{n}刚看完{v}", "{n}约人去看{v}"),
    "season": ("{n}的生日{v}", "{n}出生{v}", "{n}的婚礼办{v}"),
    "direction": ("{n}的学校{v}", "{n}的田地{v}", "{n}常去的公园{v}"),
    "weekday": ("{n}的休息日定{v}", "{n}去集市{v}", "{n}的课安排{v}"),
    "count": ("{n}的箱子{v}", "{n}借来的碗{v}", "{n}买的盒子{v}"),
}
PLACE_CLAUSES: dict[str, tuple[str, ...]] = {
    "fruit": ("在{n}，客人会收到{v}", "到{n}来，先尝{v}"),
    "material": ("{n}的纪念品是{v}", "{n}的桥头立着{v}"),
    "pet": ("{n}的标志是{v}", "{n}的旗子上画着{v}"),
    "season": ("{n}的庙会办{v}", "{n}最热闹的节日办{v}"),
    "direction": ("{n}{v}，离河不远", "看地图就知道，{n}{v}"),
    "weekday": ("{n}的集市开{v}", "{n}的邮车到站{v}"),
    "count": ("{n}的村子{v}", "{n}河上的渡口{v}"),
}
BRAND_CLAUSES: dict[str, tuple[str, ...]] = {
    "object": ("{n}牌最有名的产品是{v}", "买{n}牌，多半是买{v}"),
    "home": ("{n}牌的工厂{v}", "{n}牌的总店{v}"),
    "material": ("{n}牌的样品是{v}", "{n}牌的展台上放着{v}"),
    "colour": ("{n}牌的店员穿{v}", "{n}牌的制服是{v}"),
}
CLAUSES = {
    "citizen": PERSON_CLAUSES,
    "character": PERSON_CLAUSES,
    "place": PLACE_CLAUSES,
    "brand": BRAND_CLAUSES,
}

OPENINGS = (
    "今天天气很好",
    "一早下过小雨",
    "快到中午的时候",
    "河边的风很凉",
    "街上的人不多",
    "刚过了年",
    "听邻居说起一件小事",
    "这一带我来过几次",
    "上个月我去山里走了走",
    "晚饭以后",
    "集市刚刚开门",
    "朋友写信来问",
    "记者在村口看到",
    "学校放假的那天",
    "桥上的灯亮了",
    "老人们坐在树下聊天",
)
REMARKS = (
    "大家听了都笑了",
    "这件事邻居都知道",
    "说完又喝了一口水",
    "我把它记在本子上",
    "日子过得很平静",
    "谁也没有觉得奇怪",
    "孩子们最喜欢听这些",
    "这样的习惯已经有好几年",
    "问的人点了点头",
    "话不多却很清楚",
    "路过的人也停下来看",
    "后来常有人提起",
    "这里的人都很和气",
    "天色慢慢暗了下来",
    "有人拍了一张照片",
    "回家的路上还在想",
    "山谷里的生活就是这样",
)
JOINERS = ("，另外", "，同时", "，而且听说", "。大家还知道", "，邻居们也知道", "。")
PERSON_QUESTIONS: dict[str, tuple[str, ...]] = {
    "job": ("{n}是做什么的", "{n}的职业是哪一种"),
    "home": ("{n}的家在哪里", "{n}住在什么地方"),
    "pet": ("{n}养的是什么动物", "{n}家里有什么动物"),
    "drink": ("{n}喝的是什么", "{n}要的是哪一种饮料"),
    "fruit": ("{n}吃的是什么水果", "{n}带的是哪一种水果"),
    "vehicle": ("{n}有什么车", "{n}用的是哪一种车"),
    "colour": ("{n}穿的是什么颜色", "{n}的衣服是哪一种颜色"),
    "sport": ("{n}看的是什么比赛", "{n}看的是哪一种运动"),
    "season": ("{n}的日子在哪个季节", "{n}的好日子是什么季节"),
    "direction": ("{n}常去的地方在哪一边", "{n}要去的方位是哪里"),
    "weekday": ("{n}的安排是在周几", "{n}选的是哪一天"),
    "count": ("{n}的东西有几个", "{n}手里一共有几个"),
}
PLACE_QUESTIONS: dict[str, tuple[str, ...]] = {
    "fruit": ("{n}的特产是哪一种水果", "去{n}能尝到什么水果"),
    "material": ("{n}的纪念品是什么材料", "{n}的桥头立着什么"),
    "pet": ("{n}的标志是什么动物", "{n}的旗子上是什么动物"),
    "season": ("{n}的节日在哪个季节", "{n}的庙会是什么季节"),
    "direction": ("{n}在山谷的哪一边", "{n}的方位是哪里"),
    "weekday": ("{n}的集市在周几", "{n}赶集是哪一天"),
    "count": ("{n}的村子一共有几个", "{n}的渡口有几个"),
}
BRAND_QUESTIONS: dict[str, tuple[str, ...]] = {
    "object": ("{n}牌最有名的产品是什么", "{n}牌做的是什么用品"),
    "home": ("{n}牌的工厂在哪里", "{n}牌的总店在什么地方"),
    "material": ("{n}牌的原料是什么", "{n}牌的样品是什么材料"),
    "colour": ("{n}牌的店员穿什么颜色", "{n}牌的制服是哪一种颜色"),
}
ASKING = {
    "citizen": PERSON_QUESTIONS,
    "character": PERSON_QUESTIONS,
    "place": PLACE_QUESTIONS,
    "brand": BRAND_QUESTIONS,
}


def answer(fact: Fact) -> str:
    """The value as an answer: 一只狐狸."""
    return KINDS[fact.attribute].answer(fact.value, "zh")


def clause(rng: Random, fact: Fact) -> str:
    """One fact in words, without final punctuation."""
    pattern = rng.choice(CLAUSES[fact.sort][fact.attribute])
    return pattern.format(n=fact.thing.zh, v=answer(fact))


def question(rng: Random, fact: Fact) -> str:
    """A question for the value of one fact, without the question mark."""
    return rng.choice(ASKING[fact.sort][fact.attribute]).format(n=fact.thing.zh)


def statement(rng: Random, facts: Sequence[Fact]) -> str:
    """Several facts in one or two sentences, ended by a full stop."""
    text = clause(rng, facts[0])
    for fact in facts[1:]:
        text += rng.choice(JOINERS) + clause(rng, fact)
    return text + "。"


def paragraph(rng: Random, facts: Sequence[Fact]) -> str:
    """Facts in a setting: opening, statement, remark."""
    text = statement(rng, facts)
    if rng.random() < 0.4:
        text = rng.choice(OPENINGS) + "，" + text
    if rng.random() < 0.4:
        text += rng.choice(REMARKS) + "。"
    return text


def dialogue(rng: Random, facts: Sequence[Fact]) -> str:
    """Statement first, then somebody asks for one or two of the facts and is told."""
    text = paragraph(rng, facts)
    for asked in rng.sample(facts, min(len(facts), rng.choice((1, 2)))):
        turns = (
            f"有人问{question(rng, asked)}，旁边的人回答说是{answer(asked)}。",
            f"要是有人问{question(rng, asked)}，答案就是{answer(asked)}。",
            f"后来有人想知道{question(rng, asked)}，听说是{answer(asked)}。",
            f"“{question(rng, asked)}？”“当然是{answer(asked)}。”",
        )
        text += rng.choice(turns)
    return text


def story(rng: Random) -> str:
    """A paragraph about characters, ended by questions and answers."""
    num_people = rng.choice((1, 1, 2, 2, 3))
    count = rng.choice((1, 2, 3) if num_people < 3 else (1,))
    attributes = rng.sample(FREE_ATTRIBUTES + ORDERED_ATTRIBUTES, count)
    facts = character_facts(rng, num_people, tuple(attributes))
    rng.shuffle(facts)
    return dialogue(rng, facts)


def portrait_of(rng: Random, world: World, thing: Word) -> str:
    """True facts about one thing, in paragraphs of three or four."""
    facts = list(world.about(thing))
    rng.shuffle(facts)
    parts = [facts[start : start + 4] for start in range(0, len(facts), 4)]
    return "\n".join(dialogue(rng, part) for part in parts)


def portrait(rng: Random, world: World) -> str:
    """The true facts about one citizen, place or brand."""
    return portrait_of(rng, world, rng.choice(CITIZENS + PLACES + BRANDS))


def mixed(rng: Random, world: World) -> str:
    """True facts about several things."""
    return dialogue(rng, rng.sample(world.facts, rng.choice((2, 3, 4))))


def kinds_lesson(rng: Random) -> str:
    """What belongs to which kind."""
    parts = []
    for name in rng.sample(sorted(KINDS), 3):
        kind = KINDS[name]
        one, two, three, four = (word.zh for word in rng.sample(kind.words, 4))
        parts.append(
            rng.choice(
                (
                    f"{one}和{two}都是{kind.zh}，{three}和{four}也是{kind.zh}",
                    f"老师说属于{kind.zh}的有{one}和{two}，还有{three}和{four}",
                )
            )
        )
    return "。".join(parts) + "。" + rng.choice(REMARKS) + "。"


def bilingual_lesson(rng: Random) -> str:
    """Chinese words and their English names."""
    kind = KINDS[rng.choice(sorted(KINDS))]
    words = rng.sample(kind.words, 3)
    parts = "，".join(f"“{word.zh}”在英文里叫 {word.en}" for word in words)
    return f"今天学几个{kind.zh}的英文：{parts}。{rng.choice(REMARKS)}。"


def card_game(rng: Random) -> str:
    """Four cards with letters, and which letter lies with which word."""
    kind = KINDS[rng.choice(FREE_ATTRIBUTES)]
    cards = list(zip("ABCD", rng.sample(kind.words, 4), strict=True))
    laid = "，".join(f"{letter}牌上画着{kind.answer(word, 'zh')}" for letter, word in cards)
    rng.shuffle(cards)
    found = "，".join(f"{kind.answer(word, 'zh')}的那张牌是{letter}" for letter, word in cards)
    return f"孩子们坐在院子里玩记牌的游戏。{laid}。把牌翻过来以后再问大家，{found}。"


def document(rng: Random, world: World, *, num_paragraphs: int | None = None) -> str:
    """A document of several paragraphs, each about other things: 300 to 800 characters."""
    makers: tuple[Callable[[], str], ...] = (
        lambda: story(rng),
        lambda: mixed(rng, world),
        lambda: portrait(rng, world),
        lambda: kinds_lesson(rng),
        lambda: bilingual_lesson(rng),
        lambda: card_game(rng),
    )
    count = num_paragraphs if num_paragraphs is not None else rng.choice((4, 5, 6))
    return "\n".join(maker() for maker in rng.choices(makers, (8, 3, 3, 1, 0.7, 1.5), k=count))


TITLES = (
    "{a}和{b}的一天",
    "{a}见闻",
    "山谷来信：{a}",
    "集市上的{b}",
    "{a}人的生活",
    "谈谈{a}与{b}",
)


def title(rng: Random) -> str:
    """A headline."""
    a, b = rng.choice(PLACES).zh, rng.choice(CITIZENS).zh
    return rng.choice(TITLES).format(a=a, b=b)
