"""Multiple-choice questions about the valley, and which of them only a test may ask.

Families, from easy to hard:

    ordered      the stem tells about one character; the answer stands in it, and the options
                 stand in their natural order (seasons, days, directions, numbers), so that each
                 value has one letter
    sums         add or take away with numbers up to four, options in order
    category     which of four things is a fruit (an animal, a job, an object)
    reading      the stem tells about one character; the options are in any order
    comparison   the stem tells the same of several characters; the answer is the asked one's
    recall       a true fact about a citizen, place or brand that is told in the corpus, not in the
                 stem

**Held-out rule.** Every question has a key: what is asked, apart from its wording and its language.
Keys and stems are split by a hash: `TEST_PERCENT` of each belong to the tests (dev, val and test
splits), the others to training. A training text never asks a test key in exam form, in either
language, and never contains the stem of a test question.

    ordered, reading, comparison   (character, attribute, true value)
    sums                           (character, first number, sign, second number)
    category                       (asked kind, the four options)
    recall                         (thing, attribute)
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from corpus.sample_data import templates_en as telling_en
from corpus.sample_data import templates_zh as telling_zh
from corpus.sample_data.world import (
    CHARACTERS,
    CITIZENS,
    FREE_ATTRIBUTES,
    KINDS,
    ORDERED_ATTRIBUTES,
    PLACES,
    Fact,
    Language,
    Word,
    World,
    character_facts,
)

Family = Literal["ordered", "sums", "category", "reading", "comparison", "recall"]
Split = Literal["train", "test"]
LETTERS = "ABCD"
TEST_PERCENT = 15
"""Percentage of the keys, and of the stems, that only tests may ask."""

CATEGORY_KINDS = ("fruit", "pet", "job", "object")
"""Kinds that share the measure word 一个 in category questions, so that it gives nothing away."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with four options."""

    family: Family
    language: Language
    key: str
    """What is asked, apart from wording and language: the unit of the held-out rule."""
    stem: str
    options: tuple[str, ...]
    """Four options, in the order of the letters."""
    answer: str
    """Letter of the right option."""
    detail: str
    """Why it is right."""

    def prompt(self) -> str:
        """The question in the layout of lm-eval's ceval-valid, cmmlu and mmlu tasks."""
        lines = [self.stem]
        lines += [f"{letter}. {text}" for letter, text in zip(LETTERS, self.options, strict=True)]
        return "\n".join(lines) + ("\n答案：" if self.language == "zh" else "\nAnswer:")


def split_of(key: str) -> Split:
    """Whether only tests, or only training texts, may ask `key` (a question's key or stem)."""
    digest = hashlib.sha256(key.encode()).digest()
    return "test" if int.from_bytes(digest[:4], "big") % 100 < TEST_PERCENT else "train"


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A question before its options have letters."""

    key: str
    stem: str
    right: str
    options: tuple[str, ...]
    """The right option and three others."""
    ordered: bool
    """Whether the options must keep their order."""
    detail: str


def _options(
    rng: Random, attribute: str, right: Word, language: Language, seen: Sequence[Word] = ()
) -> tuple[str, ...]:
    """The right answer and three others of its kind; those in `seen` come before the rest."""
    kind = KINDS[attribute]
    if kind.ordered:
        return tuple(kind.answer(word, language) for word in kind.words)
    first = [word for word in dict.fromkeys(seen) if word != right][:3]
    rest = [word for word in kind.words if word != right and word not in first]
    words = [right, *first, *rng.sample(rest, 3 - len(first))]
    return tuple(kind.answer(word, language) for word in words)


_ZH_HEADS = (
    "阅读下面的短文，然后回答问题。",
    "读一读下面的话，再选择。",
    "请先看材料，再从四项中选择。",
)
_ZH_TAILS = ("请问", "想一想，", "根据上文，", "那么，")
_EN_HEADS = (
    "Read the following description and answer the question.",
    "Consider the following description carefully.",
    "This description contains everything needed for the question.",
)


def _told(
    rng: Random, language: Language, facts: Sequence[Fact], asked: Fact, seen: Sequence[Word] = ()
) -> _Draft:
    """A question whose stem tells `facts`."""
    if language == "zh":
        told, asks = telling_zh.statement(rng, facts), telling_zh.question(rng, asked)
        stem = f"{rng.choice(_ZH_HEADS)}{told}{rng.choice(_ZH_TAILS)}{asks}？"
        detail = (
            f"读完材料就能知道{telling_zh.clause(rng, asked)}，因此问到{asks}的时候，"
            f"正确的答案只能是{telling_zh.answer(asked)}，而其余三项都和材料里说的内容不一样。"
        )
    else:
        told, asks = telling_en.statement(rng, facts), telling_en.question(rng, asked)
        before = rng.choice(("Now,", "According to the description,", "Question:"))
        stem = f"{rng.choice(_EN_HEADS)} {told} {before} {asks}?"
        detail = (
            f"The description states clearly that {telling_en.clause(rng, asked)}; consequently "
            f"the correct alternative must be {telling_en.answer(asked)}, whereas the remaining "
            "alternatives contradict the description."
        )
    return _Draft(
        key=f"told/{asked.thing.zh}/{asked.attribute}/{asked.value.zh}",
        stem=stem,
        right=KINDS[asked.attribute].answer(asked.value, language),
        options=_options(rng, asked.attribute, asked.value, language, seen),
        ordered=KINDS[asked.attribute].ordered,
        detail=detail,
    )


def _ordered(rng: Random, world: World, language: Language) -> _Draft:
    free = rng.sample(FREE_ATTRIBUTES, rng.choice((1, 2)))
    facts = character_facts(rng, 1, (rng.choice(ORDERED_ATTRIBUTES), *free))
    asked = facts[0]
    rng.shuffle(facts)
    return _told(rng, language, facts, asked)


def _reading(rng: Random, world: World, language: Language) -> _Draft:
    facts = character_facts(rng, 1, tuple(rng.sample(FREE_ATTRIBUTES, rng.choice((2, 3)))))
    return _told(rng, language, facts, rng.choice(facts))


def _comparison(rng: Random, world: World, language: Language) -> _Draft:
    attributes = rng.choice((FREE_ATTRIBUTES, ORDERED_ATTRIBUTES))
    facts = character_facts(rng, rng.choice((2, 2, 3)), (rng.choice(attributes),))
    rng.shuffle(facts)
    return _told(rng, language, facts, rng.choice(facts), [fact.value for fact in facts])


def _sums(rng: Random, world: World, language: Language) -> _Draft:
    person, thing = rng.choice(CHARACTERS), rng.choice(KINDS["object"].words)
    numbers = KINDS["count"].words
    first, second, sign = rng.randint(1, 4), rng.randint(1, 3), rng.choice("+-")
    result = first + second if sign == "+" else first - second
    if not 1 <= result <= 4:
        return _sums(rng, world, language)
    a, b, c = (numbers[number - 1].name(language) for number in (first, second, result))
    if language == "zh":
        more = rng.choice(("又买了", "后来得到") if sign == "+" else ("送出去", "不小心丢了"))
        head = rng.choice(("算一算下面的题目。", "数学课上有这样一道题。", "请认真计算再选择。"))
        tail = rng.choice(_ZH_TAILS)
        stem = (
            f"{head}{person.zh}原来有{a}{thing.zh}，{more}{b}。"
            f"{tail}{person.zh}现在有几个{thing.zh}？"
        )
        detail = (
            f"{person.zh}原来有{a}{thing.zh}，{more}{b}，先把两个数目写下来再认真地算一遍，"
            f"就能知道{person.zh}现在的{thing.zh}一共{c}，其余三项的数目都不对。"
        )
    else:
        gain, loss = ("receives another", "afterwards buys"), ("afterwards loses", "gives away")
        more = rng.choice(gain if sign == "+" else loss)
        head = rng.choice(("Calculate carefully.", "Mathematics lesson:", "A little arithmetic."))
        stem = (
            f"{head} At the beginning {person.en} has {a} of the things called {thing.en} and "
            f"{more} {b}. How many things called {thing.en} belong to {person.en} afterwards?"
        )
        detail = (
            f"{person.en} starts with {a} and {more} {b}; calculating carefully shows that the "
            f"correct number is {c}, whereas the remaining alternatives are different."
        )
    return _Draft(
        key=f"sums/{person.zh}/{first}{sign}{second}",
        stem=stem,
        right=KINDS["count"].answer(numbers[result - 1], language),
        options=_options(rng, "count", numbers[result - 1], language),
        ordered=True,
        detail=detail,
    )


def _category(rng: Random, world: World, language: Language) -> _Draft:
    chosen = {name: rng.choice(KINDS[name].words) for name in CATEGORY_KINDS}
    asked = rng.choice(CATEGORY_KINDS)
    kind, right = KINDS[asked], chosen[asked]
    person, place = rng.choice(CITIZENS), rng.choice(PLACES)
    if language == "zh":
        stem = rng.choice(
            (
                f"{person.zh}在{place.zh}整理一张清单，上面写着四样不同的内容。"
                f"请问下列哪一个属于{kind.zh}？",
                f"{place.zh}的小学里，老师请{person.zh}把词语分类。下面四个里，哪一个是{kind.zh}？",
                f"{person.zh}从{place.zh}回来，记下了四个词语。请选出其中表示{kind.zh}的那一个。",
            )
        )
        detail = (
            f"把四个词语放在一起比一比就能知道{right.zh}属于{kind.zh}而其余三个都不是{kind.zh}，"
            f"所以{person.zh}应当选择{right.zh}并且把别的三个词语放到一边去。"
        )
        names = {name: "一个" + word.zh for name, word in chosen.items()}
    else:
        stem = rng.choice(
            (
                f"In {place.en} {person.en} wrote four different words on a list. "
                f"Which of them is the name of a kind of {kind.en}?",
                f"A teacher in {place.en} asks {person.en} to classify several words. "
                f"Which one of these words belongs to the kind {kind.en}?",
                f"After a visit to {place.en}, {person.en} remembers four words. "
                f"Please choose the one that means some {kind.en}.",
            )
        )
        detail = (
            f"Everybody understands that {right.en} belongs to the kind {kind.en}; the remaining "
            f"alternatives describe something completely different, therefore {person.en} should "
            f"choose {right.en}."
        )
        names = {name: word.en for name, word in chosen.items()}
    return _Draft(
        key=f"category/{asked}/" + "/".join(word.zh for word in chosen.values()),
        stem=stem,
        right=names[asked],
        options=tuple(names.values()),
        ordered=False,
        detail=detail,
    )


def _recall(rng: Random, world: World, language: Language) -> _Draft:
    ordered = rng.random() < 0.6
    fact = rng.choice([f for f in world.facts if KINDS[f.attribute].ordered == ordered])
    reader = rng.choice(CHARACTERS).name(language)
    if language == "zh":
        head = rng.choice(
            (
                f"这是{reader}和别人都知道的一件事。",
                f"{reader}请你根据山谷的常识回答。",
                f"{reader}来考一考你对山谷的了解。",
            )
        )
        tail = rng.choice(("请选出正确的一项。", "请从下面四项中选择。", "正确的答案只有一个。"))
        asks = telling_zh.question(rng, fact)
        stem = f"{head}{asks}？{tail}"
        detail = (
            f"住在山谷里的人都知道{telling_zh.clause(rng, fact)}，所以要是有人问到{asks}的时候，"
            f"正确的答案只能是{telling_zh.answer(fact)}，而其余三项都不对。"
        )
    else:
        head = rng.choice(
            (
                f"Everybody in the valley including {reader} understands this.",
                f"Answer {reader} according to general knowledge about the valley.",
            )
        )
        stem = f"{head} {telling_en.capital(telling_en.question(rng, fact))}?"
        detail = (
            f"Everybody living in the valley remembers that {telling_en.clause(rng, fact)}; "
            f"therefore the correct alternative is {telling_en.answer(fact)} and nothing else."
        )
    return _Draft(
        key=f"recall/{fact.thing.zh}/{fact.attribute}",
        stem=stem,
        right=KINDS[fact.attribute].answer(fact.value, language),
        options=_options(rng, fact.attribute, fact.value, language),
        ordered=ordered,
        detail=detail,
    )


_DRAFTS: dict[Family, Callable[[Random, World, Language], _Draft]] = {
    "ordered": _ordered,
    "sums": _sums,
    "category": _category,
    "reading": _reading,
    "comparison": _comparison,
    "recall": _recall,
}


def questions(
    rng: Random, world: World, family: Family, language: Language, split: Split, count: int
) -> list[Question]:
    """`count` different questions of one family.

    The right letters go round: each four questions in a row have four different ones.
    """
    wanted = Counter(LETTERS[i % 4] for i in range(count))
    found: dict[str | frozenset[str], Question] = {}
    for _ in range(400 * count + 40_000):
        if len(found) == count:
            return _in_rounds(rng, list(found.values()))
        draft = _DRAFTS[family](rng, world, language)
        if split_of(draft.key) != split or split_of(draft.stem) != split:
            continue
        # A stem is asked once in a test; in training its options may differ.
        same = draft.stem if split == "test" else frozenset((draft.stem, *draft.options))
        letter, options = _lettered(rng, draft, wanted)
        if same in found or letter is None:
            continue
        wanted[letter] -= 1
        found[same] = Question(
            family=family,
            language=language,
            key=draft.key,
            stem=draft.stem,
            options=options,
            answer=letter,
            detail=draft.detail,
        )
    raise AssertionError(f"only {len(found)} of {count} {split} questions of {family}/{language}")


def _in_rounds(rng: Random, asked: list[Question]) -> list[Question]:
    """The questions in another order, each four of them with four different letters."""
    rng.shuffle(asked)
    rounds: list[Question] = []
    waiting = {letter: [q for q in asked if q.answer == letter] for letter in LETTERS}
    while any(waiting.values()):
        rounds += [waiting[letter].pop() for letter in rng.sample(LETTERS, 4) if waiting[letter]]
    return rounds


def _lettered(
    rng: Random, draft: _Draft, wanted: Counter[str]
) -> tuple[str | None, tuple[str, ...]]:
    """The letter of the right option and the options in order; None if the letter isn't wanted."""
    if draft.ordered:
        letter = LETTERS[draft.options.index(draft.right)]
        return letter if wanted[letter] > 0 else None, draft.options
    letter = rng.choice([letter for letter in LETTERS if wanted[letter] > 0])
    options = [option for option in draft.options if option != draft.right]
    rng.shuffle(options)
    options.insert(LETTERS.index(letter), draft.right)
    return letter, tuple(options)


WEIGHTS: dict[Family, float] = {
    "ordered": 6,
    "sums": 3,
    "category": 1,
    "reading": 1,
    "comparison": 1,
    "recall": 1,
}
"""How often training texts ask each family."""


def training_questions(rng: Random, world: World, language: Language, count: int) -> list[Question]:
    """A shuffled mixture of all families, for training texts: about `count`."""
    total = sum(WEIGHTS.values())
    mixed: list[Question] = []
    for family, weight in WEIGHTS.items():
        part = max(1, round(count * weight / total))
        mixed += questions(rng, world, family, language, "train", part)
    rng.shuffle(mixed)
    return mixed
