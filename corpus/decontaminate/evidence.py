"""Evidence that a stretch of a text asks a benchmark's question: its stem, options, answer.

A long stem is enough by itself, unless a list of other options follows it. A shorter one needs its
options, all but one, which may stand far away, or its right answer close by. What a stem quotes (a
poem, an article of a law) says little: the words that ask must be there too.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corpus.decontaminate.alignment import GAP, Alignment, align
from corpus.decontaminate.misprints import mended, misprinted_option
from corpus.decontaminate.prepared import PreparedQuestion, Wording, prepared
from corpus.decontaminate.questions import BenchmarkQuestion, ContaminationConfig
from corpus.decontaminate.tokens import Places, Tokens, ngrams

STEM_LEAST = 0.65
"""Share of a stem that must be there however well the options agree: many questions have the same
options."""
STEM_LEAST_APART = 0.85
"""The same beside options that stand elsewhere, or beside the answer alone."""
MENDED_LEAST = 0.5
"""Share of the words of a stem or option that must be there as they are, for others to be taken for
misprints."""
OPTION_LEAST = 0.7
"""Share of each option, but one, that must be there."""
ASKING_LEAST = 0.5
"""Share of the clause that asks that must be there where no options are."""
OWN_LEAST = 0.75
"""Share of the tokens that tell a question from its siblings that must be there: of a name or a
thing all, of much that is its own most."""
ANSWER_WITHIN = 60
"""Tokens after a stem in which its answer stands."""
WORD_WITHIN = 15
"""The same for an answer of a word or two."""
SIGN_WITHIN = 16
"""Characters before an answer in which a sign says that it is one: a colon, a bracket, 答."""
BARE = 18
"""Tokens of stem and answer together that count without any sign between them of being asked."""
FAR = 6000
"""Tokens before and after a stem in which its options are looked for."""
LIST_WITHIN = 80
"""Characters after a stem in which a list of options begins, if it is the stem's own."""
OPTIONS_SEEN = 400
"""Characters after a stem in which two options of such a list are recognised."""

_LISTED = re.compile(r"(?<![A-Za-z])A\s*[.．、:：)）].+?(?<![A-Za-z])B\s*[.．、:：)）]", re.DOTALL)
_SIGN = re.compile(
    r"[？?：:（(_【\[\n\t|]|[\"”]\s*,\s*[\"“]|答|选|[A-Da-d]\s*[.．、)）]|\b(?:answer|correct|choose)\b",
    re.IGNORECASE,
)
_CALLED = re.compile(r"答案|应选|正确选项|\banswer\b", re.IGNORECASE)


@dataclass(frozen=True)
class Passage:
    """A part of a text that asks a question."""

    overlap: float
    """Share of the question's tokens that it has, 0 to 1."""
    places: Places
    """The tokens of the text that belong to the question, in order."""

    @property
    def first(self) -> int:
        """Its first token."""
        return int(self.places[0])

    @property
    def last(self) -> int:
        """The token after its last one."""
        return int(self.places[-1]) + 1

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Its stretches without a longer gap: first token, and the one after the last."""
        breaks = np.flatnonzero(np.diff(self.places) > GAP) + 1
        return [(int(part[0]), int(part[-1]) + 1) for part in np.split(self.places, breaks)]


def passages(
    question: BenchmarkQuestion,
    text: str,
    tokens: Tokens,
    places: Sequence[tuple[int, int]],
    least: float,
    own: npt.NDArray[np.bool_],
    config: ContaminationConfig,
) -> Iterator[Passage]:
    """Yield the passages of a text that ask a question.

    Args:
        question: the question.
        text: the text.
        tokens: its tokens.
        places: first and last token of the stretches in which n-grams of the question were seen.
        least: share of the question from which it counts as asked.
        own: True for each token of its stem that tells it from its siblings.
        config: lengths from which a stem is enough.
    """
    asked = prepared(question)
    for low, high in places:
        begin, end = max(0, low), min(len(tokens.hashes), high)
        found = _aligned(asked.stem, tokens, begin, end)
        if found is not None:
            if own.any() and found.covered[own].mean() < OWN_LEAST:
                continue  # another question of the same template
            passage = _judged(asked, text, tokens, _moved(found, begin), least, own, config)
            if passage is not None:
                yield passage


def _aligned(part: Wording, tokens: Tokens, begin: int, end: int) -> Alignment | None:
    """The alignment of a part with a stretch of a text, misprinted words included."""
    found = align(part.hashes, tokens.hashes[begin:end])
    if found is None or found.covered.all() or found.share < MENDED_LEAST:
        return found
    return mended(found, part.words, tokens.strings(begin, end))


def _moved(found: Alignment, by: int) -> Alignment:
    """An alignment with a stretch, as one with the text whose token `by` it begins with."""
    return Alignment(found.covered, np.where(found.covered, found.places + by, -1))


def _judged(
    asked: PreparedQuestion,
    text: str,
    tokens: Tokens,
    stem: Alignment,
    least: float,
    own: npt.NDArray[np.bool_],
    config: ContaminationConfig,
) -> Passage | None:
    share = float((asked.weights * stem.covered).sum() / asked.weights.sum())
    if share < STEM_LEAST or not _same_numbers(asked, stem, least > config.overlap):
        return None
    has_list = _with_options(asked, tokens, stem, share, least, config)
    if has_list is not None:
        return has_list
    if share < max(least, STEM_LEAST_APART if len(asked.stem) < config.min_stem else 0.0):
        return None
    if asked.asking.any() and stem.covered[asked.asking].mean() < ASKING_LEAST:
        return None
    other_list = _other_list(text, tokens, stem)
    if own.any() and other_list and not stem.covered.all():
        return None  # a sibling, whose options include the answer to this one
    answered = _with_answer(asked, text, tokens, stem, share, config)
    if answered is not None:
        return answered
    if asked.weights.sum() < config.min_stem * 0.6 or len(asked.stem) < config.min_stem:
        return None
    if other_list:
        return None  # another question with the same beginning
    return Passage(share, stem.places[stem.covered])


def _other_list(text: str, tokens: Tokens, stem: Alignment) -> bool:
    """True if a list of options follows a stem whose own options are not there."""
    _, at = tokens.span(stem.last - 1, stem.last)
    follows = _LISTED.search(text, at, at + OPTIONS_SEEN)
    return follows is not None and follows.start() - at <= LIST_WITHIN


def _same_numbers(asked: PreparedQuestion, stem: Alignment, siblings: bool) -> bool:
    """True if the numbers of the stem are there: all of them where stems are much alike."""
    numbers = int(asked.numbers.sum())
    missing = numbers - int((asked.numbers & stem.covered).sum())
    return missing <= (0 if siblings else max(1, numbers // 5))


def _with_options(
    asked: PreparedQuestion,
    tokens: Tokens,
    stem: Alignment,
    share: float,
    least: float,
    config: ContaminationConfig,
) -> Passage | None:
    """The passage with stem and options, all but one; None if they are not there."""
    sizes = [len(option) for option in asked.options]
    if not sizes or asked.size < config.min_tokens:
        return None
    width = 2 * sum(sizes) + GAP
    near = (stem.first - 20 - sum(sizes), stem.last + width)
    passage = _options_in(asked, tokens, stem, share, near)
    if passage is not None and passage.overlap >= least:
        return passage
    if share < max(least, STEM_LEAST_APART):
        return None
    for low, high in _clusters(asked, tokens, stem, width):
        passage = _options_in(asked, tokens, stem, share, (low, high))
        if passage is not None and passage.overlap >= least:
            return passage
    return None


def _options_in(
    asked: PreparedQuestion, tokens: Tokens, stem: Alignment, share: float, where: tuple[int, int]
) -> Passage | None:
    begin, end = max(0, where[0]), min(len(tokens.hashes), where[1])
    counted: list[tuple[int, float]] = []
    places, missing = [stem.places[stem.covered]], 0
    # Each stands in a place of its own: 十八周岁 alone is not 十八周岁, 十六周岁 and 八周岁.
    free = np.ones(max(0, end - begin), bool)
    own = places[0][(places[0] >= begin) & (places[0] < end)]
    free[own - begin] = False
    for option in sorted(asked.options, key=len, reverse=True):
        found = _present(option, tokens, np.flatnonzero(free) + begin)
        have = 0.0 if found is None else found.share
        if have < OPTION_LEAST:
            missing += 1
            if missing > (1 if len(asked.options) > 2 else 0):
                return None
        elif found is not None:
            places.append(found.places[found.covered])
            free[places[-1] - begin] = False
        counted.append((len(option), have))
    if len(counted) > 2:
        counted.remove(min(counted, key=lambda option: (option[1], -option[0])))
    weight = float(asked.weights.sum())
    total = weight * share + sum(size * have for size, have in counted)
    overlap = total / (weight + sum(size for size, _ in counted))
    return Passage(overlap, np.unique(np.concatenate(places)))


def _present(option: Wording, tokens: Tokens, at: Places) -> Alignment | None:
    """An option among some tokens of a text; one of up to three must be there as it is, or nearly.

    Args:
        option: the option.
        tokens: of the text.
        at: those that may belong to it, in order.
    """
    stretch = tokens.hashes[at]
    count = len(stretch) - len(option) + 1
    if len(option) > 3:
        found = align(option.hashes, stretch)
        if found is not None and not found.covered.all() and found.share >= MENDED_LEAST:
            found = mended(found, option.words, _strings(tokens, at))
        if found is None:
            return None
        return Alignment(found.covered, np.where(found.covered, at[found.places], -1))
    same = np.ones(max(0, count), bool)
    for k, token in enumerate(option.hashes):
        same &= stretch[k : k + count] == token
    if same.any():
        first = int(same.argmax())
        return Alignment(np.ones(len(option), bool), at[first : first + len(option)])
    near = misprinted_option(option.words, _strings(tokens, at)) if len(stretch) else None
    if near is None:
        return None
    spread = near[0] + np.arange(len(option)) * (near[1] - near[0]) // len(option)
    return Alignment(np.ones(len(option), bool), at[spread])


def _strings(tokens: Tokens, at: Places) -> list[str]:
    """The text of some tokens."""
    first = int(at[0])
    every = tokens.strings(first, int(at[-1]) + 1)
    return [every[k] for k in (at - first).tolist()]


def _clusters(
    asked: PreparedQuestion, tokens: Tokens, stem: Alignment, width: int
) -> list[tuple[int, int]]:
    """The stretches around a stem, near or far, that have most of its options."""
    begin, end = max(0, stem.first - FAR), min(len(tokens.hashes), stem.last + FAR)
    stretch = tokens.hashes[begin:end]
    at: list[Places] = []
    for option in asked.options:
        length = min(3, len(option))
        grams = ngrams(stretch, length)
        at.append(np.flatnonzero(np.isin(grams, ngrams(option.hashes, length))) + begin)
    starts = np.unique(np.concatenate(at))
    if not len(starts):
        return []
    options, seen = np.zeros((2, len(starts)), np.int64)
    for places in at:
        here = np.searchsorted(places, starts + width) - np.searchsorted(places, starts)
        options += here > 0
        seen += here
    # Options share words, so the stretch with most n-grams of them has their beginnings, too.
    seen[options < len(asked.options) - 1] = 0
    best = np.lexsort((np.abs(starts - stem.last), -seen))[:2]
    # What begins a stretch may be the middle of an option.
    lead = max(map(len, asked.options)) + 5
    return [(int(starts[k]) - lead, int(starts[k]) + width) for k in best if seen[k] > 0]


def _with_answer(
    asked: PreparedQuestion,
    text: str,
    tokens: Tokens,
    stem: Alignment,
    share: float,
    config: ContaminationConfig,
) -> Passage | None:
    """The passage with stem and right answer; None if it is not there, or if nothing asks."""
    for answer in asked.answers:
        total = len(asked.stem) + len(answer)
        if len(asked.stem) < 4 or total < config.min_tokens:
            continue
        # Inside the stem, where its blank is, or after it; a word or two only right behind it, or
        # called the answer.
        within = ANSWER_WITHIN if len(answer) > 2 else WORD_WITHIN
        own = set(stem.places.tolist())
        begin = stem.first
        end = min(len(tokens.hashes), stem.last + within + 2 * len(answer))
        free = np.array([k for k in range(begin, end) if k not in own], np.int64)
        found = _present(answer, tokens, free) if len(free) else None
        if found is None or found.share < STEM_LEAST_APART:
            found = _called_answer(answer, text, tokens, stem)
            if found is None:
                continue
            overlap = (len(asked.stem) * share + len(answer) * found.share) / total
            both = (stem.places[stem.covered], found.places[found.covered])
            return Passage(overlap, np.union1d(*both))
        first = found.first
        at = tokens.span(first, first + 1)[0]
        behind = stem.places[(stem.places >= 0) & (stem.places < first)]
        before = tokens.span(int(behind.max()), int(behind.max()) + 1)[1] if len(behind) else at
        bare = total >= BARE and share > 0.95 and found.share > 0.95 and first == stem.last
        if not bare and not _SIGN.search(text, max(before, at - SIGN_WITHIN), at):
            continue
        overlap = (len(asked.stem) * share + len(answer) * found.share) / total
        own_places = stem.places[stem.covered]
        return Passage(overlap, np.union1d(own_places, found.places[found.covered]))
    return None


def _called_answer(answer: Wording, text: str, tokens: Tokens, stem: Alignment) -> Alignment | None:
    """The answer before its stem or at some distance, if a word says that it is one.

    Titles and explanations say so of many things.
    """
    reach = ANSWER_WITHIN + 2 * len(answer)
    for low, high in ((stem.last, stem.last + reach), (stem.first - reach, stem.first)):
        at = np.arange(max(0, low), min(high, len(tokens.hashes)))
        found = _present(answer, tokens, at) if len(at) else None
        if found is None or found.share < STEM_LEAST_APART:
            continue
        begin = tokens.span(found.first, found.first + 1)[0]
        if _CALLED.search(text, max(0, begin - SIGN_WITHIN), begin):
            return found
    return None
