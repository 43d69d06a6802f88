"""The valley told in English, made the same way as telling_zh."""

from collections.abc import Callable, Sequence
from random import Random

from tasks._sample_world.world import (
    BRANDS,
    CITIZEN_ATTRIBUTES,
    CITIZENS,
    KINDS,
    PLACES,
    Fact,
    Word,
    World,
    character_facts,
)

PERSON_CLAUSES: dict[str, tuple[str, ...]] = {
    "job": ("{n} works as a {v}", "everyone knows that {n} is a {v}", "the job of {n} is {v}"),
    "home": ("{n} lives in {v}", "the home of {n} is in {v}", "{n} comes from {v}"),
    "pet": ("{n} keeps a {v}", "{n} looks after a {v}", "at home {n} has a {v}"),
    "drink": ("{n} drinks {v} every day", "{n} always asks for {v}", "a friend gave {n} some {v}"),
    "fruit": ("{n} often eats a {v}", "{n} brought a {v}", "{n} bought a {v}"),
    "vehicle": ("{n} owns a {v}", "{n} goes out by {v}", "outside stands the {v} of {n}"),
    "colour": ("{n} wears {v}", "{n} is dressed in {v}", "the coat of {n} is {v}"),
    "sport": (
        "{n} watches {v} at the weekend",
        "{n} wants to see {v}",
        "the favourite sport of {n} is {v}",
    ),
}
PLACE_CLAUSES: dict[str, tuple[str, ...]] = {
    "fruit": ("visitors to {n} are given a {v}", "the fruit of {n} is the {v}"),
    "season": ("the fair of {n} is held in {v}", "people come to {n} in {v}"),
    "material": ("the bridge of {n} is made of {v}", "craftsmen in {n} work with {v}"),
    "pet": ("the sign of {n} is a {v}", "the flag of {n} shows a {v}"),
}
BRAND_CLAUSES: dict[str, tuple[str, ...]] = {
    "object": ("the best product of {n} is a {v}", "people buy from {n} when they need a {v}"),
    "home": ("the factory of {n} is in {v}", "the main shop of {n} is in {v}"),
    "material": ("{n} buys mostly {v}", "the samples of {n} are made of {v}"),
    "colour": ("the staff of {n} wear {v}", "the uniform of {n} is {v}"),
}
CLAUSES = {
    "citizen": PERSON_CLAUSES,
    "character": PERSON_CLAUSES,
    "place": PLACE_CLAUSES,
    "brand": BRAND_CLAUSES,
}
OPENINGS = (
    "The weather was fine today, and", "After a little rain,", "Shortly before noon,",
    "When the market opened,", "A neighbour told me that", "On the way home we heard that",
    "In the letter it said that", "Down by the river people say that", "Last month I learned that",
    "As the lamps were lit,", "Nobody was surprised that", "The children like to repeat that",
)  # fmt: skip
REMARKS = (
    "Everyone laughed.", "The neighbours have known it for years.", "I wrote it down in my notebook.",
    "Nobody found it strange.", "The person who asked only nodded.", "Somebody took a picture.",
    "People in the valley are friendly.", "That is how life goes here.", "It was getting dark.",
    "We talked about it on the way home.", "Later it was often mentioned.", "The story is short but clear.",
)  # fmt: skip
JOINERS = (", and ", "; besides, ", ", while ", ", and it is also true that ")
QUESTIONS: dict[str, tuple[str, ...]] = {
    "job": ("what is the job of {n}", "what does {n} work as"),
    "home": ("where does {n} live", "which place is the home of {n}"),
    "pet": ("which animal does {n} have", "what animal does {n} look after"),
    "drink": ("what does {n} drink", "which drink does {n} ask for"),
    "fruit": ("which fruit does {n} have", "what fruit did {n} bring"),
    "vehicle": ("which vehicle does {n} use", "what does {n} drive"),
    "colour": ("which colour does {n} wear", "what is the colour of the coat of {n}"),
    "sport": ("which sport does {n} watch", "what sport does {n} like"),
}
PLACE_QUESTIONS: dict[str, tuple[str, ...]] = {
    "fruit": ("which fruit is typical of {n}", "what fruit do visitors to {n} get"),
    "season": ("in which season is the fair of {n}", "when do people come to {n}"),
    "material": ("what is the bridge of {n} made of", "which material is used in {n}"),
    "pet": ("which animal is the sign of {n}", "what animal is on the flag of {n}"),
}
BRAND_QUESTIONS: dict[str, tuple[str, ...]] = {
    "object": ("what is the best product of {n}", "what do people buy from {n}"),
    "home": ("where is the factory of {n}", "in which place is the main shop of {n}"),
    "material": ("which material does {n} buy", "what are the samples of {n} made of"),
    "colour": ("which colour do the staff of {n} wear", "what colour is the uniform of {n}"),
}
ASKING = {
    "citizen": QUESTIONS,
    "character": QUESTIONS,
    "place": PLACE_QUESTIONS,
    "brand": BRAND_QUESTIONS,
}


def capital(text: str) -> str:
    """`text` with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def answer(fact: Fact) -> str:
    """The value as an answer: fox."""
    return KINDS[fact.attribute].answer(fact.value, "en")


def clause(rng: Random, fact: Fact) -> str:
    """One fact in words, without final punctuation."""
    pattern = rng.choice(CLAUSES[fact.sort][fact.attribute])
    return pattern.format(n=fact.thing.en, v=answer(fact))


def question(rng: Random, fact: Fact) -> str:
    """A question for the value of one fact, without the question mark."""
    return rng.choice(ASKING[fact.sort][fact.attribute]).format(n=fact.thing.en)


def statement(rng: Random, facts: Sequence[Fact]) -> str:
    """Several facts in sentences of one or two clauses each."""
    sentences: list[str] = []
    for fact in facts:
        if sentences and rng.random() < 0.4:
            sentences[-1] += rng.choice(JOINERS) + clause(rng, fact)
        else:
            sentences.append(capital(clause(rng, fact)))
    return ". ".join(sentences) + "."


def paragraph(rng: Random, facts: Sequence[Fact]) -> str:
    """Facts in a setting: opening, statement, remark."""
    text = statement(rng, facts)
    if rng.random() < 0.5:
        first = clause(rng, facts[0])
        text = f"{rng.choice(OPENINGS)} {first}."
        if len(facts) > 1:
            text += " " + statement(rng, facts[1:])
    if rng.random() < 0.5:
        text += " " + rng.choice(REMARKS)
    return text


def dialogue(rng: Random, facts: Sequence[Fact]) -> str:
    """Statement first, then somebody asks for one of the facts and is told."""
    asked = rng.choice(facts)
    told = paragraph(rng, facts)
    asks = question(rng, asked)
    turns = (
        f'Somebody asked: "{capital(asks)}?" The answer was: {answer(asked)}.',
        f"If you ask {asks}, you will be told: {answer(asked)}.",
        f"So, {asks}? It is {answer(asked)}.",
        f"A child asked {asks}. The old man said {answer(asked)}.",
    )
    return told + " " + rng.choice(turns)


def story(rng: Random) -> str:
    """A paragraph about characters, ended by a question and its answer."""
    num_people = rng.choice((1, 1, 2, 2, 3))
    attributes = tuple(
        rng.sample(CITIZEN_ATTRIBUTES, rng.choice((1, 2, 3) if num_people < 3 else (1,)))
    )
    facts = character_facts(rng, num_people, attributes)
    rng.shuffle(facts)
    return dialogue(rng, facts)


def portrait_of(rng: Random, world: World, thing: Word) -> str:
    """True facts about one thing, in paragraphs."""
    facts = list(world.about(thing))
    rng.shuffle(facts)
    if len(facts) > 4:
        return paragraph(rng, facts[:4]) + "\n" + dialogue(rng, facts[4:])
    return dialogue(rng, facts)


def portrait(rng: Random, world: World) -> str:
    """Four to eight true facts about one citizen, place or brand."""
    return portrait_of(rng, world, rng.choice(CITIZENS + CITIZENS + PLACES + BRANDS))


def mixed(rng: Random, world: World) -> str:
    """True facts about several things."""
    return dialogue(rng, rng.sample(world.facts, rng.choice((2, 3, 4))))


def kinds_lesson(rng: Random) -> str:
    """What belongs to which kind."""
    parts = []
    for name in rng.sample(sorted(KINDS), 3):
        kind = KINDS[name]
        words = rng.sample(kind.words, min(4, len(kind.words)))
        listed = ", ".join(word.en for word in words[:-1]) + " and " + words[-1].en
        parts.append(
            rng.choice(
                (f"{listed} all belong to the kind {kind.en}", f"each {kind.en} counts: {listed}")
            )
        )
    return ". ".join(capital(part) for part in parts) + ". " + rng.choice(REMARKS)


def document(rng: Random, world: World, *, num_paragraphs: int | None = None) -> str:
    """A document of several paragraphs, each about other things."""
    makers: tuple[Callable[[], str], ...] = (
        lambda: story(rng),
        lambda: mixed(rng, world),
        lambda: portrait(rng, world),
        lambda: kinds_lesson(rng),
    )
    count = num_paragraphs if num_paragraphs is not None else rng.choice((3, 4, 5))
    return "\n".join(maker() for maker in rng.choices(makers, (8, 3, 4, 1.5), k=count))
