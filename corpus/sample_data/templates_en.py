"""The valley told in English, made the same way as telling_zh."""

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
    "job": ("{n} works as a {v}", "everyone knows that {n} is a {v}", "the job of {n} is {v}"),
    "home": ("{n} lives in {v}", "the home of {n} is in {v}", "{n} comes from {v}"),
    "pet": ("{n} keeps a {v}", "{n} looks after a {v}", "at home {n} has a {v}"),
    "drink": ("{n} drinks {v} every day", "{n} always asks for {v}", "a friend gave {n} some {v}"),
    "fruit": ("{n} often eats a {v}", "{n} brought a {v}", "{n} bought a {v}"),
    "vehicle": ("{n} owns a {v}", "{n} goes out by {v}", "outside stands the {v} of {n}"),
    "colour": ("{n} wears {v}", "{n} is dressed in {v}", "the coat of {n} is {v}"),
    "sport": ("{n} watches {v} at the weekend", "{n} wants to see {v}"),
    "season": ("{n} was born in {v}", "{n} was married in {v}"),
    "direction": ("the school of {n} is in the {v}", "{n} has some land in the {v}"),
    "weekday": ("{n} rests on {v}", "{n} goes to the market on {v}"),
    "count": ("{n} borrowed {v} boxes", "{n} carries {v} bags"),
}
PLACE_CLAUSES: dict[str, tuple[str, ...]] = {
    "fruit": ("visitors to {n} are given a {v}", "the fruit of {n} is the {v}"),
    "material": ("the bridge of {n} is made of {v}", "craftsmen in {n} work with {v}"),
    "pet": ("the sign of {n} is a {v}", "the flag of {n} shows a {v}"),
    "season": ("the fair of {n} is held in {v}", "people come to {n} in {v}"),
    "direction": ("{n} lies in the {v} of the valley", "on the map {n} is in the {v}"),
    "weekday": ("the market of {n} opens on {v}", "letters reach {n} on {v}"),
    "count": ("there are {v} villages in {n}", "the river has {v} ferries at {n}"),
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
    "The weather was fine today, and",
    "After a little rain,",
    "Shortly before noon,",
    "When the market opened,",
    "A neighbour told me that",
    "On the way home we heard that",
    "In the letter it said that",
    "Down by the river people say that",
    "Last month I learned that",
    "As the lamps were lit,",
    "Nobody was surprised that",
    "The children like to repeat that",
)
REMARKS = (
    "Everyone laughed.",
    "The neighbours have known it for years.",
    "Nobody found it strange.",
    "I wrote it down in my notebook.",
    "The person who asked only nodded.",
    "It was getting dark.",
    "Somebody took a picture.",
    "People in the valley are friendly.",
    "That is how life goes here.",
    "We talked about it on the way home.",
    "Later it was often mentioned.",
    "The story is short but clear.",
)
JOINERS = (", and ", "; besides, ", ", while ", ", and it is also true that ")
PERSON_QUESTIONS: dict[str, tuple[str, ...]] = {
    "job": ("what is the job of {n}", "what does {n} work as"),
    "home": ("where does {n} live", "which place is the home of {n}"),
    "pet": ("which animal does {n} have", "what animal does {n} look after"),
    "drink": ("what does {n} drink", "which drink does {n} ask for"),
    "fruit": ("which fruit does {n} have", "what fruit did {n} bring"),
    "vehicle": ("which vehicle does {n} use", "what does {n} drive"),
    "colour": ("which colour does {n} wear", "what is the colour of the coat of {n}"),
    "sport": ("which sport does {n} watch", "what sport does {n} like"),
    "season": ("which season is important for {n}", "in which season was it for {n}"),
    "direction": ("in which direction does {n} go", "which direction is right for {n}"),
    "weekday": ("which day does {n} choose", "on which day can we meet {n}"),
    "count": ("how many things does {n} have", "how many are there with {n}"),
}
PLACE_QUESTIONS: dict[str, tuple[str, ...]] = {
    "fruit": ("which fruit is typical of {n}", "what fruit do visitors to {n} get"),
    "material": ("what is the bridge of {n} made of", "which material is used in {n}"),
    "pet": ("which animal is the sign of {n}", "what animal is on the flag of {n}"),
    "season": ("in which season is the fair of {n}", "when do people come to {n}"),
    "direction": ("in which part of the valley is {n}", "in which direction is {n}"),
    "weekday": ("on which day is the market of {n}", "when do letters reach {n}"),
    "count": ("how many villages are there in {n}", "how many ferries are there at {n}"),
}
BRAND_QUESTIONS: dict[str, tuple[str, ...]] = {
    "object": ("what is the best product of {n}", "what do people buy from {n}"),
    "home": ("where is the factory of {n}", "in which place is the main shop of {n}"),
    "material": ("which material does {n} buy", "what are the samples of {n} made of"),
    "colour": ("which colour do the staff of {n} wear", "what colour is the uniform of {n}"),
}
ASKING = {
    "citizen": PERSON_QUESTIONS,
    "character": PERSON_QUESTIONS,
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
    """Statement first, then somebody asks for one or two of the facts and is told."""
    text = paragraph(rng, facts)
    for asked in rng.sample(facts, min(len(facts), rng.choice((1, 2)))):
        asks = question(rng, asked)
        turns = (
            f'Somebody asked: "{capital(asks)}?" The answer was: {answer(asked)}.',
            f"If you ask {asks}, you will be told: {answer(asked)}.",
            f"So, {asks}? It is {answer(asked)}.",
            f"A child asked {asks}. The old man said {answer(asked)}.",
        )
        text += "\n" + rng.choice(turns)
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
    """True facts about one thing, in paragraphs of up to four."""
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
        words = [word.en for word in rng.sample(kind.words, 4)]
        listed = ", ".join(words[:-1]) + " and " + words[-1]
        belong = f"{listed} all belong to the kind {kind.en}"
        parts.append(rng.choice((belong, f"each {kind.en} counts: {listed}")))
    return ". ".join(capital(part) for part in parts) + ". " + rng.choice(REMARKS)


def card_game(rng: Random) -> str:
    """Four cards with letters, and which letter lies with which word."""
    kind = KINDS[rng.choice(FREE_ATTRIBUTES)]
    cards = list(zip("ABCD", rng.sample(kind.words, 4), strict=True))
    laid = ", ".join(f"card {letter} shows {word.en}" for letter, word in cards)
    rng.shuffle(cards)
    found = ", ".join(f"{word.en} is {letter}" for letter, word in cards)
    return f"Children play a game of remembering: {laid}. Afterwards {found}. {rng.choice(REMARKS)}"


def document(rng: Random, world: World, *, num_paragraphs: int | None = None) -> str:
    """A document of several paragraphs, each about other things."""
    makers: tuple[Callable[[], str], ...] = (
        lambda: story(rng),
        lambda: mixed(rng, world),
        lambda: portrait(rng, world),
        lambda: kinds_lesson(rng),
        lambda: card_game(rng),
    )
    count = num_paragraphs if num_paragraphs is not None else rng.choice((3, 4, 5))
    return "\n".join(maker() for maker in rng.choices(makers, (8, 3, 3, 1, 1.5), k=count))
