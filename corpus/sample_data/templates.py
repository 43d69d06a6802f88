"""Facts in words: clauses for facts, paragraphs of several facts, documents, in two languages.

    fact ──clause──▶ 建国养了一只狐狸 ──paragraph──▶ two to four facts with a remark ──▶ document

`ZH` and `EN` hold the wordings of phrases/templates_zh.yaml and templates_en.yaml. A clause uses
the value with the same measure word as an answer option does (facts.Kind.before_answer), so that
texts and answers share their tokens.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from corpus.sample_data.facts import (
    BRANDS,
    CITIZENS,
    FREE_ATTRIBUTES,
    KINDS,
    ORDERED_ATTRIBUTES,
    PLACES,
    Fact,
    KnowledgeBase,
    Language,
    ThingType,
    Word,
    character_facts,
)
from corpus.sample_data.phrases import phrases

Wordings = Mapping[ThingType, Mapping[str, Sequence[str]]]
"""Type of thing -> attribute -> patterns with {name} and {value}."""


def capital(text: str) -> str:
    """`text` with its first letter in upper case; Chinese stays as it is."""
    return text[:1].upper() + text[1:]


@dataclass(frozen=True, kw_only=True)
class Templates:
    """The wordings of one language. Every method draws from `rng` in a fixed order."""

    language: Language
    clauses: Wordings
    """Facts, without final punctuation."""
    questions: Wordings
    """Questions for a value, without the question mark."""
    openings: Sequence[str]
    """Beginnings of a paragraph."""
    remarks: Sequence[str]
    """Sentences that may end a paragraph and tell nothing."""
    joiners: Sequence[str]
    """Text between two clauses of one sentence."""
    answered_questions: Sequence[str]
    """Sentences in which somebody asks for a value and gets it."""
    kinds_lesson: Sequence[str]
    """Clauses that name four values of a kind."""
    bilingual_lesson: Mapping[str, str]
    card_game: Mapping[str, str]
    titles: Sequence[str]
    """Headlines; Chinese has some."""
    punctuation: Mapping[str, str]
    remark_probability: float
    opening_probability: float
    num_paragraphs: Sequence[int]
    """Paragraphs of a document, one of these numbers."""
    paragraph_weights: Mapping[str, float]
    """Method that writes a paragraph -> how often it does."""

    def answer(self, fact: Fact) -> str:
        """The value as an answer: 一只狐狸, fox."""
        return KINDS[fact.attribute].answer(fact.value, self.language)

    def clause(self, rng: Random, fact: Fact) -> str:
        """One fact in words, without final punctuation."""
        pattern = rng.choice(self.clauses[fact.thing_type][fact.attribute])
        return pattern.format(name=fact.thing.name(self.language), value=self.answer(fact))

    def question(self, rng: Random, fact: Fact) -> str:
        """A question for the value of one fact, without the question mark."""
        pattern = rng.choice(self.questions[fact.thing_type][fact.attribute])
        return pattern.format(name=fact.thing.name(self.language))

    def whole_question(self, rng: Random, fact: Fact) -> str:
        """A question as a sentence of its own."""
        return capital(self.question(rng, fact)) + self.punctuation["question_mark"]

    def sentence(self, rng: Random, fact: Fact) -> str:
        """One fact as a sentence of its own."""
        return capital(self.clause(rng, fact)) + self.punctuation["stop"]

    def statement(self, rng: Random, facts: Sequence[Fact]) -> str:
        """Several facts: in Chinese joined, in English in sentences of one or more clauses."""
        sentences: list[str] = []
        for fact in facts:
            if sentences and (self.language == "zh" or rng.random() < 0.4):
                sentences[-1] += rng.choice(self.joiners) + self.clause(rng, fact)
            else:
                sentences.append(capital(self.clause(rng, fact)))
        return self._sentences(sentences)

    def _sentences(self, clauses: Sequence[str]) -> str:
        stop, space = self.punctuation["stop"], self.punctuation["space"]
        return (stop + space).join(clauses) + stop

    def paragraph(self, rng: Random, facts: Sequence[Fact]) -> str:
        """Facts with an opening or a remark around them."""
        text = self.statement(rng, facts)
        if rng.random() < self.opening_probability:
            if self.language == "zh":
                text = rng.choice(self.openings) + text
            else:
                first = self.clause(rng, facts[0])
                text = f"{rng.choice(self.openings)} {first}."
                if len(facts) > 1:
                    text += " " + self.statement(rng, facts[1:])
        if rng.random() < self.remark_probability:
            text += self.punctuation["space"] + rng.choice(self.remarks)
        return text

    def dialogue(self, rng: Random, facts: Sequence[Fact]) -> str:
        """A statement, then one or two questions about it with their answers."""
        text = self.paragraph(rng, facts)
        for fact in rng.sample(facts, min(len(facts), rng.choice((1, 2)))):
            # Each Chinese pattern draws a question of its own; the English ones share one.
            num_drawn = len(self.answered_questions) if self.language == "zh" else 1
            questions = [self.question(rng, fact) for _ in range(num_drawn)]
            sentences = [
                pattern.format(question=asked, Question=capital(asked), answer=self.answer(fact))
                for pattern, asked in zip(
                    self.answered_questions, itertools.cycle(questions), strict=False
                )
            ]
            text += self.punctuation["before_answered_question"] + rng.choice(sentences)
        return text

    def story(self, rng: Random) -> str:
        """A paragraph about characters, ended by questions and answers."""
        num_people = rng.choice((1, 1, 2, 2, 3))
        count = rng.choice((1, 2, 3) if num_people < 3 else (1,))
        attributes = rng.sample(FREE_ATTRIBUTES + ORDERED_ATTRIBUTES, count)
        facts = character_facts(rng, num_people, tuple(attributes))
        rng.shuffle(facts)
        return self.dialogue(rng, facts)

    def portrait_of(self, rng: Random, base: KnowledgeBase, thing: Word) -> str:
        """True facts about one thing, in paragraphs of up to four."""
        facts = list(base.about(thing))
        rng.shuffle(facts)
        parts = [facts[start : start + 4] for start in range(0, len(facts), 4)]
        return "\n".join(self.dialogue(rng, part) for part in parts)

    def mixed(self, rng: Random, base: KnowledgeBase) -> str:
        """True facts about several things."""
        return self.dialogue(rng, rng.sample(base.facts, rng.choice((2, 3, 4))))

    def _portrait(self, rng: Random, base: KnowledgeBase) -> str:
        return self.portrait_of(rng, base, rng.choice(CITIZENS + PLACES + BRANDS))

    def _story(self, rng: Random, base: KnowledgeBase) -> str:
        return self.story(rng)

    def _kinds_lesson(self, rng: Random, base: KnowledgeBase) -> str:
        """Values and the kinds that they belong to."""
        clauses = []
        for name in rng.sample(sorted(KINDS), 3):
            kind = KINDS[name]
            words = [word.name(self.language) for word in rng.sample(kind.words, 4)]
            pattern = rng.choice(self.kinds_lesson)
            named = dict(zip("abcd", words, strict=True), kind=getattr(kind, self.language))
            clauses.append(capital(pattern.format(**named)))
        return self._sentences(clauses) + self.punctuation["space"] + rng.choice(self.remarks)

    def _bilingual_lesson(self, rng: Random, base: KnowledgeBase) -> str:
        """Chinese words and their English names."""
        kind = KINDS[rng.choice(sorted(KINDS))]
        pattern = self.bilingual_lesson["pair"]
        pairs = [pattern.format(zh=word.zh, en=word.en) for word in rng.sample(kind.words, 3)]
        return self.bilingual_lesson["text"].format(
            kind=kind.zh,
            pairs=self.punctuation["comma"].join(pairs),
            remark=rng.choice(self.remarks),
        )

    def _card_game(self, rng: Random, base: KnowledgeBase) -> str:
        """Four cards with letters, and the letter that lies with each word."""
        kind = KINDS[rng.choice(FREE_ATTRIBUTES)]
        cards = list(zip("ABCD", rng.sample(kind.words, 4), strict=True))
        texts = {}
        for part in ("shown", "found"):
            texts[part] = self.punctuation["comma"].join(
                self.card_game[part].format(letter=letter, value=kind.answer(word, self.language))
                for letter, word in cards
            )
            if part == "shown":
                rng.shuffle(cards)
        if "{remark}" in self.card_game["text"]:
            texts["remark"] = rng.choice(self.remarks)
        return self.card_game["text"].format(**texts)

    def document(self, rng: Random, base: KnowledgeBase, *, num_paragraphs: int = 0) -> str:
        """A document of several paragraphs, each about other things: 300 to 800 characters.

        num_paragraphs: 0 draws a number.
        """
        count = num_paragraphs or rng.choice(self.num_paragraphs)
        names, weights = list(self.paragraph_weights), list(self.paragraph_weights.values())
        writers = {
            "story": self._story,
            "mixed": self.mixed,
            "portrait": self._portrait,
            "kinds_lesson": self._kinds_lesson,
            "bilingual_lesson": self._bilingual_lesson,
            "card_game": self._card_game,
        }
        return "\n".join(writers[name](rng, base) for name in rng.choices(names, weights, k=count))

    def title(self, rng: Random) -> str:
        """A headline."""
        place, citizen = rng.choice(PLACES), rng.choice(CITIZENS)
        return rng.choice(self.titles).format(place=place.zh, citizen=citizen.zh)


ZH = Templates(language="zh", **phrases("templates_zh"))
EN = Templates(language="en", **phrases("templates_en"))
TEMPLATES: Mapping[Language, Templates] = {"zh": ZH, "en": EN}
