"""The facts of the sample data: a small valley with its people, places, products and festivals.

    value kinds (job, pet, fruit, …)       closed sets of words, Chinese and English side by side
        │
    citizens ── places ── products         named things; each attribute holds one word of its kind
        │
    World.facts                            (thing, attribute, value), drawn once from the seed

Two sorts of people live in the texts. *Citizens* have one true value for every attribute: whatever
tells of them agrees, so their facts can be learnt by heart. *Characters* are figures of exercises
and stories: each text gives them other values, so they can only be understood by reading.

Every name and every value is one token of the Qwen1.5 vocabulary (some characters' names are two).
Chinese values carry a measure word (`prefix`) wherever they stand as an answer: `A. 一只狐狸` is
cut into the same 一只 + 狐狸 as in running text, while `A. 狐狸` would be cut inside a character
after the blank.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

Language = Literal["zh", "en"]


@dataclass(frozen=True, kw_only=True)
class Word:
    """One thing with its name in both languages."""

    zh: str
    en: str

    def name(self, language: Language) -> str:
        """The name in `language`."""
        return self.zh if language == "zh" else self.en


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A closed set of values, such as the jobs."""

    zh: str
    """What the kind is called in Chinese."""
    en: str
    """What the kind is called in English."""
    prefix: str
    """Measure word or preposition before a Chinese value that stands alone as an answer."""
    words: tuple[Word, ...]
    ordered: bool = False
    """Whether the words have a natural order. There are four of them then, and exams list them in
    that order."""

    def answer(self, word: Word, language: Language) -> str:
        """How `word` reads as an answer option."""
        return self.prefix + word.zh if language == "zh" else word.en


def _words(zh: str, en: str) -> tuple[Word, ...]:
    return tuple(Word(zh=a, en=b) for a, b in zip(zh.split(), en.split(), strict=True))


def _kind(zh: str, en: str, prefix: str, zh_words: str, en_words: str) -> Kind:
    return Kind(zh=zh, en=en, prefix=prefix, words=_words(zh_words, en_words))


def _ordered(zh: str, en: str, prefix: str, zh_words: str, en_words: str) -> Kind:
    return Kind(zh=zh, en=en, prefix=prefix, words=_words(zh_words, en_words), ordered=True)


KINDS: Mapping[str, Kind] = {
    "job": _kind(
        "职业",
        "job",
        "一名",
        "医生 教师 农民 厨师 司机 律师 护士 画家 作家 歌手 记者 演员",
        "doctor teacher farmer cook driver lawyer nurse painter writer singer reporter actor",
    ),
    "pet": _kind(
        "动物",
        "animal",
        "一只",
        "猫 狗 兔子 狐狸 老虎 猴子 熊 鹿 羊 鸟 鸭 青蛙",
        "cat dog rabbit fox tiger monkey bear deer sheep bird duck frog",
    ),
    "fruit": _kind(
        "水果",
        "fruit",
        "一份",
        "苹果 香蕉 葡萄 草莓 樱桃 梨 柠檬 芒果 桃",
        "apple banana grape strawberry cherry pear lemon mango peach",
    ),
    "drink": _kind(
        "饮料", "drink", "一杯", "咖啡 牛奶 茶 果汁 啤酒 红酒", "coffee milk tea juice beer wine"
    ),
    "vehicle": _kind(
        "车辆",
        "vehicle",
        "一辆",
        "汽车 卡车 自行车 摩托车 公交车 出租车",
        "car truck bicycle motorcycle bus taxi",
    ),
    "sport": _kind(
        "运动",
        "sport",
        "一场",
        "篮球 足球 网球 滑雪 游泳 射击",
        "basketball football tennis skiing swimming shooting",
    ),
    "material": _kind(
        "材料",
        "material",
        "一块",
        "玻璃 铁 铜 布 石头 木材 塑料 陶瓷",
        "glass iron copper cloth stone wood plastic clay",
    ),
    "object": _kind(
        "用品",
        "object",
        "一个",
        "杯子 帽子 手表 手机 桌子 椅子 镜子 钥匙",
        "cup hat watch phone table chair mirror key",
    ),
    "colour": _kind(
        "颜色",
        "colour",
        "一身",
        "红色 绿色 蓝色 黄色 白色 黑色 紫色 灰色",
        "red green blue yellow white black purple gray",
    ),
    "home": _kind(
        "地方",
        "place",
        "位于",
        "白沙 龙泉 金沙 青山 南山 龙湖 银河 海湾 古镇 新城 金山 雪山",
        "Salem Dover Eden Vale Ridge Marsh Aurora Haven Milton Chester Summit York",
    ),
    "season": _ordered(
        "季节", "season", "于", "春季 夏季 秋季 冬季", "spring summer autumn winter"
    ),
    "direction": _ordered(
        "方位", "direction", "位于", "东部 南部 西部 北部", "east south west north"
    ),
    "weekday": _ordered(
        "日子", "day", "于", "周一 周二 周三 周四", "Monday Tuesday Wednesday Thursday"
    ),
    "count": _ordered("数目", "number", "一共", "一个 两个 三个 四个", "one two three four"),
}

PLACES = KINDS["home"].words


CITIZENS = _words(
    "建国 志强 明珠 如意 安康 博文 玛丽 大卫 安娜 约翰 威廉 麦克 白雪 光辉",
    "Adam Victor Ruby Grace Felix Oscar Mary David Anna John William Mike Diana Luke",
)
CHARACTERS = _words(
    "建华 建军 珍珠 阿森 安然 安东 彼得 保罗 乔治 马克 尼克 卡尔 马丁 星星 "
    "小明 小红 小林 小雪 晓东 美玲 海燕 丽丽",
    "Alan Frank Clara Owen Ivy Hugo Peter Paul George Mark Nick Karl Martin Iris "
    "Tom Lucy Jack Kate Sam Emma Ben Alice",
)
BRANDS = _words(
    "阳光 蓝天 凤凰 梅花 白云 森林 星光 长城 闪电 巨人",
    "Sunny Sky Phoenix Rose Cloud Forest Star Castle Flash Giant",
)

FREE_ATTRIBUTES = ("job", "home", "pet", "drink", "fruit", "vehicle", "colour", "sport")
"""Attributes of people whose values have no order."""
ORDERED_ATTRIBUTES = ("season", "direction", "weekday", "count")
"""Attributes of people and of places whose values have an order."""
CITIZEN_ATTRIBUTES = (*FREE_ATTRIBUTES, "season", "weekday")
PLACE_ATTRIBUTES = ("fruit", "material", "pet", *ORDERED_ATTRIBUTES)
BRAND_ATTRIBUTES = ("object", "home", "material", "colour")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing's one attribute. `attribute` names both the relation and the kind of the value."""

    sort: Literal["citizen", "place", "brand", "character"]
    thing: Word
    attribute: str
    value: Word


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything that is true in the valley."""

    facts: tuple[Fact, ...]

    def about(self, thing: Word) -> tuple[Fact, ...]:
        """All facts about one citizen, place or brand."""
        return tuple(fact for fact in self.facts if fact.thing == thing)


def make_world(seed: int) -> World:
    """Draw the facts of the world. Values are dealt like cards: none is much rarer than others."""
    rng = Random(f"sample-world/{seed}")
    facts: list[Fact] = []
    groups: tuple[
        tuple[Literal["citizen", "place", "brand"], tuple[Word, ...], tuple[str, ...]], ...
    ]
    groups = (
        ("citizen", CITIZENS, CITIZEN_ATTRIBUTES),
        ("place", PLACES, PLACE_ATTRIBUTES),
        ("brand", BRANDS, BRAND_ATTRIBUTES),
    )
    for sort, things, attributes in groups:
        for attribute in attributes:
            words = KINDS[attribute].words
            rounds = -(-len(things) // len(words))
            deck = [word for _ in range(rounds) for word in rng.sample(words, len(words))]
            facts += [
                Fact(sort=sort, thing=thing, attribute=attribute, value=value)
                for thing, value in zip(things, deck, strict=False)
            ]
    return World(facts=tuple(facts))


def character_facts(
    rng: Random, num_people: int, attributes: tuple[str, ...], *, distinct: bool = True
) -> list[Fact]:
    """Invent facts for `num_people` characters: one fact for each person and attribute.

    With `distinct`, no two people share a value of the same attribute.
    """
    people = rng.sample(CHARACTERS, num_people)
    facts: list[Fact] = []
    for attribute in attributes:
        words = KINDS[attribute].words
        values = rng.sample(words, num_people) if distinct else rng.choices(words, k=num_people)
        facts += [
            Fact(sort="character", thing=person, attribute=attribute, value=value)
            for person, value in zip(people, values, strict=True)
        ]
    return facts
