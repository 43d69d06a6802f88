"""Evidence that a stretch of a text asks a benchmark's question: its stem, options, answer.

A long stem is enough by itself, unless a list of other options follows it. A shorter one needs its
options, all but one, which may stand far away, or its right answer close by. What a stem quotes (a
poem, an article of a law) says little: the words that ask must be there too.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from corpus.decontaminate.alignment import GAP, Alignment, align
from corpus.decontaminate.questions import BenchmarkQuestion, ContaminationConfig
from corpus.decontaminate.tokens import Hashes, Places, Tokens, ngrams, tokenize

Weights = npt.NDArray[np.float64]

STEM_LEAST = 0.65
"""Share of a stem that must be there however well the options agree: many questions have the same
options."""
STEM_LEAST_APART = 0.85
"""The same beside options that stand elsewhere, or beside the answer alone."""
OPTION_LEAST = 0.7
"""Share of each option, but one, that must be there."""
ASKING_LEAST = 0.5
"""Share of the clause that asks that must be there where no options are."""
QUOTED = 5
"""Tokens from which words in quotation marks are a quotation, and not a term."""
QUOTED_WEIGHT = 0.1
"""Weight of a quoted token; that of any other is 1."""
ANSWER_WITHIN = 60
"""Tokens after a stem in which its answer stands."""
SIGN_WITHIN = 16
"""Characters before an answer in which a sign says that it is one: a colon, a bracket, 答."""
BARE = 18
"""Tokens of stem and answer together that count without any sign between them of being asked."""
FAR = 6000
"""Tokens before and after a stem in which its options are looked for."""
CLAUSE = 5
"""Tokens of a clause that asks; a shorter one counts together with those before it."""
LIST_WITHIN = 80
"""Characters after a stem in which a list of options begins, if it is the stem's own."""
OPTIONS_SEEN = 400
"""Characters after a stem in which two options of such a list are recognised."""

_LISTED = re.compile(r"(?<![A-Za-z])A\s*[.．、:：)）].+?(?<![A-Za-z])B\s*[.．、:：)）]", re.DOTALL)
_QUOTATION = re.compile('“([^”]*)”|「([^」]*)」|『([^』]*)』|"([^"]*)"|‘([^’]*)’')
_CLAUSE = re.compile("[，。；：？！,;:?!\n]+")
_ASKS = re.compile(r"_{2,}|[（(]\s*[)）]|[？?]|下列|以下|哪|什么|谁|几|多少|是否|何|怎")
_SIGN = re.compile(r"[？?：:（(_【\[\n]|答|选|[A-Da-d]\s*[.．、)）]")
_NUMERALS = "零一二三四五六七八九十百千万两"


@dataclass(frozen=True)
class PreparedQuestion:
    """A question as it is compared with texts."""

    stem: Hashes
    """Tokens of its stem."""
    weights: Weights
    """Weight of each of them."""
    asking: npt.NDArray[np.bool_]
    """True for those of the clause that asks."""
    numbers: npt.NDArray[np.bool_]
    """True for those that are numbers."""
    options: tuple[Hashes, ...]
    """Tokens of each option that has any."""
    answers: tuple[Hashes, ...]
    """Tokens of the right option; of every option where the right one is not known."""

    @property
    def size(self) -> int:
        """Tokens of stem and options."""
        return len(self.stem) + sum(map(len, self.options))


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


@lru_cache(maxsize=8192)
def prepared(question: BenchmarkQuestion) -> PreparedQuestion:
    """Prepare a question for comparison."""
    stem = tokenize(question.stem)
    spans = [stem.span(k, k + 1) for k in range(len(stem.hashes))]
    words = stem.strings()
    quoted = np.zeros(len(spans), bool)
    for match in _QUOTATION.finditer(question.stem):
        inside = np.array([match.start() <= b and e <= match.end() for b, e in spans], bool)
        if inside.sum() >= QUOTED:
            quoted |= inside
    asking = _asking(question.stem, spans) & ~quoted
    numbers = np.array([w.isdigit() or w in _NUMERALS for w in words], bool)
    options = [tokenize(option).hashes for option in question.options]
    answers = [tokenize(question.answer).hashes] if question.answer else options
    return PreparedQuestion(
        stem=stem.hashes,
        weights=np.where(quoted, QUOTED_WEIGHT, 1.0),
        asking=asking,
        numbers=numbers.reshape(len(spans)),
        options=tuple(option for option in options if len(option)),
        answers=tuple(option for option in answers if len(option)),
    )


def _asking(stem: str, spans: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """The tokens of the clause that asks, and of its neighbours where it is only a word or two."""
    ends = [m.end() for m in _CLAUSE.finditer(stem)] + [len(stem)]
    clauses = list(zip([0, *ends[:-1]], ends, strict=True))
    of = [next(k for k, (_, end) in enumerate(clauses) if b < end) for b, _ in spans]
    asks = {k for k, (b, e) in enumerate(clauses) if _ASKS.search(stem, b, e)}
    chosen = asks or set(of[-1:])
    marked = np.array([k in chosen for k in of], bool)
    for k in range(min(chosen, default=0) - 1, -1, -1):
        if marked.sum() >= CLAUSE:
            break
        marked |= np.array(of) == k
    return marked if marked.sum() >= CLAUSE else np.ones(len(of), bool)


def passages(
    question: BenchmarkQuestion,
    text: str,
    tokens: Tokens,
    places: Sequence[tuple[int, int]],
    least: float,
    config: ContaminationConfig,
) -> Iterator[Passage]:
    """Yield the passages of a text that ask a question.

    Args:
        question: the question.
        text: the text.
        tokens: its tokens.
        places: first and last token of the stretches in which n-grams of the question were seen.
        least: share of the question from which it counts as asked.
        config: lengths from which a stem is enough.
    """
    asked = prepared(question)
    for low, high in places:
        begin, end = max(0, low), min(len(tokens.hashes), high)
        found = align(asked.stem, tokens.hashes[begin:end])
        if found is not None:
            passage = _judged(asked, text, tokens, _moved(found, begin), least, config)
            if passage is not None:
                yield passage


def _moved(found: Alignment, by: int) -> Alignment:
    """An alignment with a stretch, as one with the text whose token `by` it begins with."""
    return Alignment(found.covered, np.where(found.covered, found.places + by, -1))


def _judged(
    asked: PreparedQuestion,
    text: str,
    tokens: Tokens,
    stem: Alignment,
    least: float,
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
    answered = _with_answer(asked, text, tokens, stem, share, config)
    if answered is not None:
        return answered
    if asked.weights.sum() < config.min_stem * 0.6 or len(asked.stem) < config.min_stem:
        return None
    _, at = tokens.span(stem.last - 1, stem.last)
    follows = _LISTED.search(text, at, at + OPTIONS_SEEN)
    if follows is not None and follows.start() - at <= LIST_WITHIN:
        return None  # another question with the same beginning
    return Passage(share, stem.places[stem.covered])


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
    for option in asked.options:
        found = _present(option, tokens.hashes[begin:end])
        have = 0.0 if found is None else found.share
        if have < OPTION_LEAST:
            missing += 1
            if missing > (1 if len(asked.options) > 2 else 0):
                return None
        elif found is not None:
            places.append(begin + found.places[found.covered])
        counted.append((len(option), have))
    if len(counted) > 2:
        counted.remove(min(counted, key=lambda option: (option[1], -option[0])))
    weight = float(asked.weights.sum())
    total = weight * share + sum(size * have for size, have in counted)
    overlap = total / (weight + sum(size for size, _ in counted))
    return Passage(overlap, np.unique(np.concatenate(places)))


def _present(option: Hashes, stretch: Hashes) -> Alignment | None:
    """An option in a stretch of a text; one of up to three tokens must be there as it is."""
    if len(option) > 3:
        return align(option, stretch)
    count = len(stretch) - len(option) + 1
    if count <= 0:
        return None
    same = np.ones(count, bool)
    for k, token in enumerate(option):
        same &= stretch[k : k + count] == token
    if not same.any():
        return None
    at = int(same.argmax())
    return Alignment(np.ones(len(option), bool), np.arange(at, at + len(option)))


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
        at.append(np.flatnonzero(np.isin(grams, ngrams(option, length))) + begin)
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
        # Inside the stem, where its blank is, or after it; a word or two only right behind it.
        within = ANSWER_WITHIN if len(answer) > 2 else 15
        own = set(stem.places.tolist())
        begin = stem.first
        end = min(len(tokens.hashes), stem.last + within + 2 * len(answer))
        free = np.array([k for k in range(begin, end) if k not in own], np.int64)
        found = _present(answer, tokens.hashes[free]) if len(free) else None
        if found is None or found.share < STEM_LEAST_APART:
            continue
        first = int(free[found.first])
        at = tokens.span(first, first + 1)[0]
        behind = stem.places[(stem.places >= 0) & (stem.places < first)]
        before = tokens.span(int(behind.max()), int(behind.max()) + 1)[1] if len(behind) else at
        bare = total >= BARE and share > 0.95 and found.share > 0.95 and first == stem.last
        if not bare and not _SIGN.search(text, max(before, at - SIGN_WITHIN), at):
            continue
        overlap = (len(asked.stem) * share + len(answer) * found.share) / total
        own_places = stem.places[stem.covered]
        return Passage(overlap, np.union1d(own_places, free[found.places[found.covered]]))
    return None
