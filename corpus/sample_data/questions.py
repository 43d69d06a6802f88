"""Multiple-choice questions about the facts, and the rule for those that only tests may ask.

docs/sample-data.md describes the families of questions.

**Held-out rule.** Every question has a key: its content apart from wording and language. Keys and
stems are split by a hash: `TEST_PERCENT` of each belong to the tests (dev, val and test splits),
the others to training. A training text never asks a test key as a multiple-choice question, in
either language, and never contains the stem of a test question.

    ordered, reading, comparison   (character, attribute, true value)
    sums                           (character, first number, sign, second number)
    category                       (asked kind, the four options)
    recall                         (thing, attribute)
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from corpus.sample_data.facts import (
    CHARACTERS,
    CITIZENS,
    FREE_ATTRIBUTES,
    KINDS,
    ORDERED_ATTRIBUTES,
    PLACES,
    Fact,
    KnowledgeBase,
    Language,
    Word,
    character_facts,
)
from corpus.sample_data.phrases import phrases
from corpus.sample_data.templates import TEMPLATES, capital

_TEXTS = phrases("questions")

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
    """Identity of the question apart from wording and language: the unit of the held-out rule."""
    stem: str
    options: tuple[str, ...]
    """Four options, in the order of the letters."""
    answer: str
    """Letter of the right option."""
    explanation: str
    """Reason why it is right."""

    def prompt(self) -> str:
        """The question in the layout of lm-eval's ceval-valid, cmmlu and mmlu tasks."""
        lines = [self.stem]
        lines += [f"{letter}. {text}" for letter, text in zip(LETTERS, self.options, strict=True)]
        return "\n".join(lines) + ("\n答案：" if self.language == "zh" else "\nAnswer:")


def split_of(key: str) -> Split:
    """The split that alone may ask `key` (a question's key or stem)."""
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
    """True if the options must keep their order."""
    explanation: str


def _options(
    rng: Random, attribute: str, right: Word, language: Language, first: Sequence[Word] = ()
) -> tuple[str, ...]:
    """The right answer and three others of its kind; the words in `first` come before the rest."""
    kind = KINDS[attribute]
    if kind.ordered:
        return tuple(kind.answer(word, language) for word in kind.words)
    others = [word for word in dict.fromkeys(first) if word != right][:3]
    rest = [word for word in kind.words if word != right and word not in others]
    words = [right, *others, *rng.sample(rest, 3 - len(others))]
    return tuple(kind.answer(word, language) for word in words)


def _choose(rng: Random, texts: Mapping[str, Any], words: dict[str, str]) -> None:
    """Draw one text of each list of `choices`, in their order, and add it to `words`."""
    for slot, options in texts["choices"].items():
        words[slot] = rng.choice(options).format(**words)


def _draft(texts: Mapping[str, Any], words: Mapping[str, str], **fields: Any) -> _Draft:
    return _Draft(
        stem=texts["stem"].format(**words),
        explanation=texts["explanation"].format(**words),
        **fields,
    )


def _described(
    rng: Random, language: Language, facts: Sequence[Fact], asked: Fact, first: Sequence[Word] = ()
) -> _Draft:
    """A question for `asked` whose stem states `facts`; options: see `_options`."""
    texts, templates = _TEXTS["described"][language], TEMPLATES[language]
    words = {"statement": templates.statement(rng, facts)}
    words["question"] = templates.question(rng, asked)
    _choose(rng, texts, words)
    words |= {"clause": templates.clause(rng, asked), "answer": templates.answer(asked)}
    return _draft(
        texts,
        words,
        key=f"told/{asked.thing.zh}/{asked.attribute}/{asked.value.zh}",
        right=templates.answer(asked),
        options=_options(rng, asked.attribute, asked.value, language, first),
        ordered=KINDS[asked.attribute].ordered,
    )


def _ordered(rng: Random, base: KnowledgeBase, language: Language) -> _Draft:
    free = rng.sample(FREE_ATTRIBUTES, rng.choice((1, 2)))
    facts = character_facts(rng, 1, (rng.choice(ORDERED_ATTRIBUTES), *free))
    asked = facts[0]
    rng.shuffle(facts)
    return _described(rng, language, facts, asked)


def _reading(rng: Random, base: KnowledgeBase, language: Language) -> _Draft:
    facts = character_facts(rng, 1, tuple(rng.sample(FREE_ATTRIBUTES, rng.choice((2, 3)))))
    return _described(rng, language, facts, rng.choice(facts))


def _comparison(rng: Random, base: KnowledgeBase, language: Language) -> _Draft:
    attributes = rng.choice((FREE_ATTRIBUTES, ORDERED_ATTRIBUTES))
    facts = character_facts(rng, rng.choice((2, 2, 3)), (rng.choice(attributes),))
    rng.shuffle(facts)
    return _described(rng, language, facts, rng.choice(facts), [fact.value for fact in facts])


def _sums(rng: Random, base: KnowledgeBase, language: Language) -> _Draft:
    person, thing = rng.choice(CHARACTERS), rng.choice(KINDS["object"].words)
    numbers = KINDS["count"].words
    first, second, sign = rng.randint(1, 4), rng.randint(1, 3), rng.choice("+-")
    result = first + second if sign == "+" else first - second
    if not 1 <= result <= 4:
        return _sums(rng, base, language)
    texts = _TEXTS["sums"][language]
    words = {
        "person": person.name(language),
        "thing": thing.name(language),
        "first": numbers[first - 1].name(language),
        "second": numbers[second - 1].name(language),
        "result": numbers[result - 1].name(language),
        "change": rng.choice(texts["change"][sign]),
    }
    _choose(rng, texts, words)
    return _draft(
        texts,
        words,
        key=f"sums/{person.zh}/{first}{sign}{second}",
        right=KINDS["count"].answer(numbers[result - 1], language),
        options=_options(rng, "count", numbers[result - 1], language),
        ordered=True,
    )


def _category(rng: Random, base: KnowledgeBase, language: Language) -> _Draft:
    chosen = {name: rng.choice(KINDS[name].words) for name in CATEGORY_KINDS}
    asked = rng.choice(CATEGORY_KINDS)
    person, place = rng.choice(CITIZENS), rng.choice(PLACES)
    texts = _TEXTS["category"][language]
    words = {
        "person": person.name(language),
        "place": place.name(language),
        "kind": getattr(KINDS[asked], language),
        "right": chosen[asked].name(language),
    }
    _choose(rng, texts, words)
    options = {
        name: texts["option"].format(word=word.name(language)) for name, word in chosen.items()
    }
    return _draft(
        texts,
        words,
        key=f"category/{asked}/" + "/".join(word.zh for word in chosen.values()),
        right=options[asked],
        options=tuple(options.values()),
        ordered=False,
    )


def _recall(rng: Random, base: KnowledgeBase, language: Language) -> _Draft:
    ordered = rng.random() < 0.6
    fact = rng.choice([f for f in base.facts if KINDS[f.attribute].ordered == ordered])
    texts, templates = _TEXTS["recall"][language], TEMPLATES[language]
    words = {"reader": rng.choice(CHARACTERS).name(language)}
    _choose(rng, texts, words)
    question = templates.question(rng, fact)
    words |= {"question": question, "Question": capital(question)}
    words |= {"clause": templates.clause(rng, fact), "answer": templates.answer(fact)}
    return _draft(
        texts,
        words,
        key=f"recall/{fact.thing.zh}/{fact.attribute}",
        right=templates.answer(fact),
        options=_options(rng, fact.attribute, fact.value, language),
        ordered=ordered,
    )


_DRAFTS: dict[Family, Callable[[Random, KnowledgeBase, Language], _Draft]] = {
    "ordered": _ordered,
    "sums": _sums,
    "category": _category,
    "reading": _reading,
    "comparison": _comparison,
    "recall": _recall,
}


def questions(
    rng: Random, base: KnowledgeBase, family: Family, language: Language, split: Split, count: int
) -> list[Question]:
    """`count` different questions of one family.

    Any four questions in a row have four different right letters.
    """
    wanted = Counter(LETTERS[i % 4] for i in range(count))
    found: dict[str | frozenset[str], Question] = {}
    for _ in range(400 * count + 40_000):
        if len(found) == count:
            return _balanced(rng, list(found.values()))
        draft = _DRAFTS[family](rng, base, language)
        if split_of(draft.key) != split or split_of(draft.stem) != split:
            continue
        # A stem is asked once in a test; in training its options may differ.
        same = draft.stem if split == "test" else frozenset((draft.stem, *draft.options))
        letter, options = _with_letters(rng, draft, wanted)
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
            explanation=draft.explanation,
        )
    raise AssertionError(f"only {len(found)} of {count} {split} questions of {family}/{language}")


def _balanced(rng: Random, asked: list[Question]) -> list[Question]:
    """The questions in another order, each four of them with four different letters."""
    rng.shuffle(asked)
    rounds: list[Question] = []
    waiting = {letter: [q for q in asked if q.answer == letter] for letter in LETTERS}
    while any(waiting.values()):
        rounds += [waiting[letter].pop() for letter in rng.sample(LETTERS, 4) if waiting[letter]]
    return rounds


def _with_letters(
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
"""Shares of the families in training texts, relative to each other."""


def training_questions(
    rng: Random, base: KnowledgeBase, language: Language, count: int
) -> list[Question]:
    """A shuffled mixture of all families, for training texts: about `count`."""
    total = sum(WEIGHTS.values())
    mixed: list[Question] = []
    for family, weight in WEIGHTS.items():
        part = max(1, round(count * weight / total))
        mixed += questions(rng, base, family, language, "train", part)
    rng.shuffle(mixed)
    return mixed
