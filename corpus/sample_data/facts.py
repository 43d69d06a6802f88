"""The facts that the sample data tell: an invented valley with people, places and brands.

    kinds (job, pet, fruit, …)             closed sets of values, Chinese and English side by side
        │
    citizens ── places ── brands           named things; each attribute holds one value of its kind
        │
    KnowledgeBase.facts                    (thing, attribute, value), drawn once from the seed

*Characters*, the figures of exercises and stories, have no facts that hold in every text: each text
gives them other values. docs/sample-data.md says why Chinese answers carry a measure word
(`before_answer`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

from corpus.sample_data.phrases import phrases

Language = Literal["zh", "en"]
ThingType = Literal["person", "place", "brand"]


@dataclass(frozen=True, kw_only=True)
class Word:
    """A name or value in both languages."""

    zh: str
    en: str

    def name(self, language: Language) -> str:
        """The word in `language`."""
        return self.zh if language == "zh" else self.en


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A closed set of values, such as the jobs."""

    zh: str
    """Name of the kind in Chinese."""
    en: str
    """Name of the kind in English."""
    before_answer: str
    """Measure word or preposition before a Chinese value that stands alone as an answer."""
    words: tuple[Word, ...]
    ordered: bool = False
    """True if the words have a natural order. There are four of them then, and questions list them
    in that order."""

    def answer(self, word: Word, language: Language) -> str:
        """`word` as an answer option."""
        return self.before_answer + word.zh if language == "zh" else word.en


def _words(english: Mapping[str, str]) -> tuple[Word, ...]:
    return tuple(Word(zh=zh, en=en) for zh, en in english.items())


_VOCABULARY = phrases("words")
KINDS: Mapping[str, Kind] = {
    name: Kind(**{**kind, "words": _words(kind["words"])})
    for name, kind in _VOCABULARY["kinds"].items()
}
CITIZENS = _words(_VOCABULARY["citizens"])
CHARACTERS = _words(_VOCABULARY["characters"])
PLACES = KINDS["home"].words
BRANDS = _words(_VOCABULARY["brands"])

FREE_ATTRIBUTES = ("job", "home", "pet", "drink", "fruit", "vehicle", "colour", "sport")
"""Attributes of people whose values have no order."""
ORDERED_ATTRIBUTES = ("season", "direction", "weekday", "count")
"""Attributes of people and of places whose values have an order."""
CITIZEN_ATTRIBUTES = (*FREE_ATTRIBUTES, "season", "weekday")
PLACE_ATTRIBUTES = ("fruit", "material", "pet", *ORDERED_ATTRIBUTES)
BRAND_ATTRIBUTES = ("object", "home", "material", "colour")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """The value of one attribute of one thing."""

    thing_type: ThingType
    thing: Word
    attribute: str
    """Name of the relation and of the kind of the value."""
    value: Word


@dataclass(frozen=True, kw_only=True)
class KnowledgeBase:
    """All facts that hold in every text."""

    facts: tuple[Fact, ...]

    def about(self, thing: Word) -> tuple[Fact, ...]:
        """All facts about one citizen, place or brand."""
        return tuple(fact for fact in self.facts if fact.thing == thing)


def draw_facts(seed: int) -> KnowledgeBase:
    """Draw the facts. Values are dealt like cards, so that none is much rarer than others."""
    rng = Random(f"sample-world/{seed}")  # the name is part of the seed: another one, other data
    groups: tuple[tuple[ThingType, tuple[Word, ...], tuple[str, ...]], ...] = (
        ("person", CITIZENS, CITIZEN_ATTRIBUTES),
        ("place", PLACES, PLACE_ATTRIBUTES),
        ("brand", BRANDS, BRAND_ATTRIBUTES),
    )
    facts: list[Fact] = []
    for thing_type, things, attributes in groups:
        for attribute in attributes:
            words = KINDS[attribute].words
            rounds = -(-len(things) // len(words))
            deck = [word for _ in range(rounds) for word in rng.sample(words, len(words))]
            facts += [
                Fact(thing_type=thing_type, thing=thing, attribute=attribute, value=value)
                for thing, value in zip(things, deck, strict=False)
            ]
    return KnowledgeBase(facts=tuple(facts))


def character_facts(rng: Random, num_people: int, attributes: tuple[str, ...]) -> list[Fact]:
    """Invent facts for `num_people` characters: one fact for each person and attribute.

    No two people share a value of the same attribute.
    """
    people = rng.sample(CHARACTERS, num_people)
    facts: list[Fact] = []
    for attribute in attributes:
        facts += [
            Fact(thing_type="person", thing=person, attribute=attribute, value=value)
            for person, value in zip(
                people, rng.sample(KINDS[attribute].words, num_people), strict=True
            )
        ]
    return facts
