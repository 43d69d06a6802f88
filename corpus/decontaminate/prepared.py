"""Questions as they are compared with texts: tokens, and what each says about the question."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from corpus.decontaminate.questions import BenchmarkQuestion
from corpus.decontaminate.tokens import Hashes, is_number, tokenize

Weights = npt.NDArray[np.float64]

QUOTED = 5
"""Tokens from which words in quotation marks are a quotation, and not a term."""
QUOTED_WEIGHT = 0.1
"""Weight of a quoted token; that of any other is 1."""
CLAUSE = 5
"""Tokens of a clause that asks; a shorter one counts together with those before it."""
_QUOTATION = re.compile('“([^”]*)”|「([^」]*)」|『([^』]*)』|"([^"]*)"|‘([^’]*)’')
_CLAUSE = re.compile("[，。；：？！,;:?!\n]+")
_ASKS = re.compile(r"_{2,}|[（(]\s*[)）]|[？?]|下列|以下|哪|什么|谁|几|多少|是否|何|怎")


@dataclass(frozen=True)
class Wording:
    """Tokens of a stem or an option."""

    hashes: Hashes
    """As numbers."""
    words: tuple[str, ...]
    """As text."""

    @classmethod
    def of(cls, text: str) -> "Wording":
        """The tokens of a text."""
        tokens = tokenize(text)
        return cls(tokens.hashes, tokens.strings())

    def __len__(self) -> int:
        return len(self.hashes)


@dataclass(frozen=True)
class PreparedQuestion:
    """A question as it is compared with texts."""

    stem: Wording
    """Its stem."""
    weights: Weights
    """Weight of each of them."""
    asking: npt.NDArray[np.bool_]
    """True for those of the clause that asks."""
    numbers: npt.NDArray[np.bool_]
    """True for those that are numbers."""
    options: tuple[Wording, ...]
    """Each option that has a token."""
    answers: tuple[Wording, ...]
    """The right option; every option where the right one is not known."""

    @property
    def size(self) -> int:
        """Tokens of stem and options."""
        return len(self.stem) + sum(map(len, self.options))


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
    numbers = np.array([is_number(word) for word in words], bool)
    options = [Wording.of(option) for option in question.options]
    answers = [Wording.of(question.answer)] if question.answer else options
    return PreparedQuestion(
        stem=Wording(stem.hashes, words),
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
