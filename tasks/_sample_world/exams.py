"""Multiple-choice questions about the valley, and which of them only a test may ask.

Families, from easy to hard:

    reading      the stem tells about one character; the answer stands in it
    category     which of four things is a fruit (an animal, a job, an object)
    comparison   the stem tells the same of several characters; the answer is the asked one's
    vocabulary   which Chinese word means the English one (Chinese exams only)
    recall       a true fact about a citizen, place or brand that is told in the corpus, not in the stem

**Held-out rule.** Every question has a key: what is asked, apart from its wording and its language.
Keys are split by a hash: `TEST_PERCENT` of them belong to the tests (dev, val and test splits), the
others to training. A training text never asks a test key in exam form, in either language.

    reading, comparison   (character, attribute, true value)
    category              (asked kind, the four options)
    vocabulary            the word
    recall                (thing, attribute)
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from tasks._sample_world import telling_en, telling_zh
from tasks._sample_world.world import (
    CITIZEN_ATTRIBUTES,
    CITIZENS,
    KINDS,
    PLACES,
    Fact,
    Kind,
    Language,
    Word,
    World,
    character_facts,
)

Family = Literal["reading", "category", "comparison", "vocabulary", "recall"]
Split = Literal["train", "test"]
LETTERS = "ABCD"
TEST_PERCENT = 15
"""Percentage of the keys that only tests may ask."""

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
    options: tuple[str, str, str, str]
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
    """Whether only tests, or only training texts, may ask `key`."""
    digest = hashlib.sha256(key.encode()).digest()
    return "test" if int.from_bytes(digest[:4], "big") % 100 < TEST_PERCENT else "train"


@dataclass(frozen=True, kw_only=True)
class _Draft:
    key: str
    stem: str
    right: str
    wrong: tuple[str, ...]
    detail: str


def _others(
    rng: Random, kind: Kind, right: Word, language: Language, seen: Sequence[Word] = ()
) -> tuple[str, ...]:
    """Three wrong answers of the same kind; those in `seen` come first."""
    first = [word for word in dict.fromkeys(seen) if word != right][:3]
    rest = [word for word in kind.words if word != right and word not in first]
    words = first + rng.sample(rest, 3 - len(first))
    return tuple(kind.answer(word, language) for word in words)


def _told(
    rng: Random, language: Language, facts: Sequence[Fact], asked: Fact, seen: Sequence[Word]
) -> _Draft:
    """A question whose stem tells `facts`."""
    if language == "zh":
        told = telling_zh.statement(rng, facts)
        head = rng.choice(
            ("阅读短文，回答问题。", "读一读下面的话。", "先看材料，再选择。", "根据材料回答。")
        )
        tail = rng.choice(("请问", "想一想，", "根据上文，", "那么，"))
        stem = f"{head}{told}{tail}{telling_zh.question(rng, asked)}？"
        detail = f"材料里说，{asked.thing.zh}的答案是{telling_zh.answer(asked)}。"
    else:
        told = telling_en.statement(rng, facts)
        head = rng.choice(
            ("Read the text and answer.", "Read this carefully.", "Look at the following text.")
        )
        asks = telling_en.question(rng, asked)
        stem = f"{head} {told} " + rng.choice(
            (f"Now, {asks}?", f"According to the text, {asks}?", f"Question: {asks}?")
        )
        detail = (
            f"The text tells about {asked.thing.en} that the answer is {telling_en.answer(asked)}."
        )
    kind = KINDS[asked.attribute]
    return _Draft(
        key=f"told/{asked.thing.zh}/{asked.attribute}/{asked.value.zh}",
        stem=stem,
        right=kind.answer(asked.value, language),
        wrong=_others(rng, kind, asked.value, language, seen),
        detail=detail,
    )


def _reading(rng: Random, world: World, language: Language) -> _Draft:
    facts = character_facts(rng, 1, tuple(rng.sample(CITIZEN_ATTRIBUTES, rng.choice((2, 3)))))
    return _told(rng, language, facts, rng.choice(facts), ())


def _comparison(rng: Random, world: World, language: Language) -> _Draft:
    facts = character_facts(rng, rng.choice((2, 2, 3)), (rng.choice(CITIZEN_ATTRIBUTES),))
    rng.shuffle(facts)
    return _told(rng, language, facts, rng.choice(facts), [fact.value for fact in facts])


def _category(rng: Random, world: World, language: Language) -> _Draft:
    chosen = {name: rng.choice(KINDS[name].words) for name in CATEGORY_KINDS}
    asked = rng.choice(CATEGORY_KINDS)
    kind, right = KINDS[asked], chosen[asked]
    person, place = rng.choice(CITIZENS), rng.choice(PLACES)
    if language == "zh":
        stem = rng.choice(
            (
                f"{person.zh}在{place.zh}整理一张清单，上面写着四样不同的内容。请问下列哪一个属于{kind.zh}？",
                f"{place.zh}的小学里，老师请{person.zh}把词语分类。下面四个里，哪一个是{kind.zh}？",
                f"{person.zh}从{place.zh}回来，记下了四个词语。请选出其中表示{kind.zh}的那一个。",
            )
        )
        detail = f"{right.zh}属于{kind.zh}，其余三个都不是{kind.zh}。"
        names = {name: "一个" + word.zh for name, word in chosen.items()}
    else:
        stem = rng.choice(
            (
                f"In {place.en} {person.en} wrote four different words on a list. Which of them is the name of a kind of {kind.en}?",
                f"A teacher in {place.en} asks {person.en} to sort some words. Which one of these words belongs to the kind {kind.en}?",
                f"After a visit to {place.en}, {person.en} remembers four words. Please choose the one that means some {kind.en}.",
            )
        )
        detail = f"The word {right.en} belongs to the kind {kind.en} and the others do not."
        names = {name: word.en for name, word in chosen.items()}
    key = f"category/{asked}/" + "/".join(chosen[name].zh for name in CATEGORY_KINDS)
    wrong = tuple(names[name] for name in CATEGORY_KINDS if name != asked)
    return _Draft(key=key, stem=stem, right=names[asked], wrong=wrong, detail=detail)


def _vocabulary(rng: Random, world: World, language: Language) -> _Draft:
    assert language == "zh", "vocabulary questions ask for Chinese words"
    kind = KINDS[rng.choice(sorted(KINDS))]
    word = rng.choice(kind.words)
    person = rng.choice(CITIZENS).zh
    stem = rng.choice(
        (
            f"{person}在英文书里看到单词 {word.en} ，想知道它的意思。请选出意思相同的中文词语。",
            f"英文课上，老师问{person}：单词 {word.en} 用中文怎么说？请从下面选出正确的一项。",
            f"{person}正在背英文单词。与 {word.en} 意思相同的中文词语，是下列四项中的哪一项？",
        )
    )
    return _Draft(
        key=f"vocabulary/{word.zh}",
        stem=stem,
        right=kind.answer(word, "zh"),
        wrong=_others(rng, kind, word, "zh"),
        detail=f"英文的 {word.en} 就是中文的“{word.zh}”。",
    )


def _recall(rng: Random, world: World, language: Language) -> _Draft:
    fact = rng.choice(world.facts)
    kind = KINDS[fact.attribute]
    if language == "zh":
        head = rng.choice(
            (
                "这是山谷里人人都知道的一件事。",
                "请根据山谷的常识回答。",
                "下面考一考你对山谷的了解。",
            )
        )
        tail = rng.choice(("请选出正确的一项。", "请从下面四项中选择。", "答案只有一个。"))
        stem = f"{head}{telling_zh.question(rng, fact)}？{tail}"
        detail = f"山谷里的人都说，{telling_zh.clause(rng, fact)}。"
    else:
        head = rng.choice(
            ("Everybody in the valley knows this.", "Answer from what you know about the valley.")
        )
        stem = f"{head} {telling_en.capital(telling_en.question(rng, fact))}?"
        detail = f"People in the valley say that {telling_en.clause(rng, fact)}."
    return _Draft(
        key=f"recall/{fact.thing.zh}/{fact.attribute}",
        stem=stem,
        right=kind.answer(fact.value, language),
        wrong=_others(rng, kind, fact.value, language),
        detail=detail,
    )


_DRAFTS: dict[Family, Callable[[Random, World, Language], _Draft]] = {
    "reading": _reading,
    "category": _category,
    "comparison": _comparison,
    "vocabulary": _vocabulary,
    "recall": _recall,
}


def questions(
    rng: Random, world: World, family: Family, language: Language, split: Split, count: int
) -> list[Question]:
    """`count` different questions of one family, the four letters equally often (to one)."""
    letters = [LETTERS[i % 4] for i in range(count)]
    rng.shuffle(letters)
    found: dict[str, Question] = {}
    for _ in range(400 * count + 4000):
        if len(found) == count:
            return list(found.values())
        draft = _DRAFTS[family](rng, world, language)
        if draft.stem in found or split_of(draft.key) != split:
            continue
        letter = letters[len(found)]
        wrong = list(draft.wrong)
        rng.shuffle(wrong)
        wrong.insert(LETTERS.index(letter), draft.right)
        a, b, c, d = wrong
        found[draft.stem] = Question(
            family=family,
            language=language,
            key=draft.key,
            stem=draft.stem,
            options=(a, b, c, d),
            answer=letter,
            detail=draft.detail,
        )
    raise AssertionError(f"only {len(found)} of {count} {split} questions of {family}/{language}")


def training_questions(
    rng: Random,
    world: World,
    language: Language,
    count: int,
    weights: dict[Family, float] | None = None,
) -> list[Question]:
    """A shuffled mixture of all families, for training texts."""
    weights = weights or dict(TRAINING_WEIGHTS[language])
    total = sum(weights.values())
    mixed: list[Question] = []
    for family, weight in weights.items():
        mixed += questions(
            rng, world, family, language, "train", max(4, round(count * weight / total))
        )
    rng.shuffle(mixed)
    return mixed


TRAINING_WEIGHTS: dict[Language, dict[Family, float]] = {
    "zh": {"reading": 4, "category": 2, "comparison": 3, "vocabulary": 1, "recall": 2},
    "en": {"reading": 4, "category": 2, "comparison": 3, "recall": 2},
}
