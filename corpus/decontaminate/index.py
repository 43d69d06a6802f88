"""The index of benchmark questions: made once, loaded by every worker, searched once a document.

    questions ──tokens──▶ n-grams ──▶ sorted hashes ──▶ questions that have it
                             └──────▶ two tables of their first bits, looked at first
    document ──tokens──▶ n-grams ──tables──▶ sorted hashes ──▶ stretches with several n-grams of a
                                             question ──alignment, evidence──▶ Match

n-grams only propose; a match is counted on the tokens themselves.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import DataError
from common.files import complete_file
from common.paths import display
from corpus.decontaminate.alignment import GAP
from corpus.decontaminate.arrays import NEVER, Arrays, arranged, thresholds
from corpus.decontaminate.evidence import Passage, passages
from corpus.decontaminate.questions import BenchmarkQuestion, ContaminationConfig
from corpus.decontaminate.tokens import (
    Hashes,
    Places,
    Tokens,
    forms_arrays,
    forms_digest,
    forms_versions,
    ngrams,
    ngrams_at,
    take_forms,
    tokenize,
)

PAIRS = (0.6, 0.4)
"""Share of the pairs of neighbours in a stem that such a stretch has, too: of characters, and of
words, which a misprint changes as a whole."""
WORDS = 3
"""Tokens of an n-gram of a question in a language with blanks between its words."""
SPACED = 0.6
"""Share of words and numbers among the tokens of such a question."""
MOST_STRETCHES = 3
"""Stretches of a piece that are aligned with a question, those with most n-grams of it."""
PIECE = 1 << 18
"""Characters looked at together; longer documents are looked at in pieces."""
PIECE_OVERLAP = 1 << 15
"""Characters that two pieces share: more than any question has."""
EXCERPT = 400
"""Longest excerpt, in characters."""


_PLACE_BITS = 24
"""Bits of a key that hold a token's place in a piece."""
_PAIR_BITS = 17
"""Bits of a pair by which it is looked up in a text."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A question that a text contains."""

    benchmark: str
    """Recipe in data_recipes/evals."""
    question_id: str
    """subject/split/number."""
    overlap: float
    """Share of the question's n-grams that the text contains, 0 to 1."""
    excerpt: str
    """The part of the text that contains it, at most 400 characters."""
    question: str
    """Stem and options."""
    parts: tuple[tuple[int, int], ...]
    """The stretches of the text that belong to it: first character, and the one after the last."""


class Index:
    """Searchable benchmark questions. Make one with `build_index` or `Index.load`."""

    def __init__(
        self, config: ContaminationConfig, questions: Sequence[BenchmarkQuestion], arrays: Arrays
    ) -> None:
        self.config = config
        self.questions = tuple(questions)
        self.bad_rows: Mapping[str, Sequence[str]] = {}
        """Benchmark -> its rows that are no questions, with their places."""
        self._arrays = arrays
        self._sizes = np.diff(arrays.starts)
        bits = max(16, (8 * len(arrays.grams)).bit_length())
        self._shifts = np.uint64(64 - bits), np.uint64(64 - 2 * bits)
        self._mask = np.uint64((1 << bits) - 1)
        self._may_have = np.zeros((2, 1 << bits), np.bool_)
        for which in range(2):
            self._may_have[which][self._bucket(arrays.grams, which)] = True
        self._stem_pairs = _pairs(arrays.stems)
        self._enough = np.where(arrays.spaced, PAIRS[1], PAIRS[0]) - 1e-9

    @classmethod
    def build(cls, questions: Iterable[BenchmarkQuestion], config: ContaminationConfig) -> "Index":
        """Index these questions."""
        questions = list(questions)
        hashes: list[Hashes] = []
        tokens = [tokenize(question.stem) for question in questions]
        stems = [stem.hashes for stem in tokens]
        spaced = np.array([bool(len(t.hashes)) and t.spaced.mean() > SPACED for t in tokens], bool)
        benchmarks = [question.benchmark for question in questions]
        least, own = thresholds(stems, config, benchmarks)
        widths = np.zeros(len(questions), np.int64)
        shares = np.zeros(len(questions), np.int64)
        for number, (question, stem) in enumerate(zip(questions, stems, strict=True)):
            options = [tokenize(option).hashes for option in question.options]
            size = len(stem) + sum(map(len, options))
            n = WORDS if spaced[number] else config.ngram
            parts, widths[number] = [stem], len(stem) + GAP
            if len(stem) < config.min_stem:
                # What is left of a short stem may hold no n-gram: its options propose it, too.
                parts, widths[number] = [stem, *options], 2 * size + GAP
                if all(len(part) < n for part in parts):
                    parts = [np.concatenate(parts)]
            enough = size >= config.min_tokens and len(stem) > 0
            grams = [ngrams(part, n) for part in parts] if enough else []
            hashes.append(np.unique(np.concatenate([*grams, np.zeros(0, np.uint64)])))
            shares[number] = len(np.unique(ngrams(stem, n)))
        return cls(
            config,
            questions,
            arranged(
                hashes, stems, shares, spaced, least, own, widths, config.min_stem, benchmarks
            ),
        )

    @property
    def num_checkable(self) -> int:
        """Questions that can be found."""
        return int(np.count_nonzero(self._arrays.needs < NEVER))

    @property
    def num_ngrams(self) -> int:
        """Different n-grams that are looked for."""
        return len(self._arrays.grams)

    def unchecked(self) -> Iterator[BenchmarkQuestion]:
        """Yield the questions that are too short, or too much like others, to be recognised."""
        for question, need in zip(self.questions, self._arrays.needs, strict=True):
            if need == NEVER:
                yield question

    def find(self, text: str) -> list[Match]:
        """Find the questions that a text contains, largest overlap first."""
        best: dict[int, Match] = {}
        for begin in range(0, max(1, len(text) - PIECE_OVERLAP), PIECE - PIECE_OVERLAP):
            for number, match in self._find(text[begin : begin + PIECE]):
                parts = tuple((first + begin, last + begin) for first, last in match.parts)
                match = replace(match, parts=parts)
                if number not in best or match.overlap > best[number].overlap:
                    best[number] = match
        return [best[number] for number in sorted(best, key=lambda n: (-best[n].overlap, n))]

    def _find(self, text: str) -> Iterator[tuple[int, Match]]:
        tokens, grams, at = _looked_up(text, self.config.ngram)
        hits = np.flatnonzero(self._may_be_there(grams, 0))
        hits = hits[self._may_be_there(grams[hits], 1)]
        if not len(hits):
            return
        arrays = self._arrays
        rows = np.searchsorted(arrays.grams, grams[hits])
        rows[rows == len(arrays.grams)] = 0
        real = arrays.grams[rows] == grams[hits]
        hits, rows = hits[real], rows[real]
        if not len(hits):
            return
        sizes = self._sizes[rows]
        inner = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        entries, where = np.repeat(arrays.starts[rows], sizes) + inner, np.repeat(at[hits], sizes)
        owners = arrays.owners[entries].astype(np.int64)
        found: dict[int, tuple[Match, Passage]] = {}
        for number, stretches in self._stretches(tokens, owners, where):
            question, least = self.questions[number], float(arrays.least[number]) - 1e-9
            own = arrays.own[arrays.stem_starts[number] : arrays.stem_starts[number + 1]]
            every = passages(question, text, tokens, stretches, least, own, self.config)
            best = max(every, key=lambda passage: passage.overlap, default=None)
            if best is not None:
                found[number] = _match(question, best, text, tokens), best
        yield from ((number, match) for number, (match, _) in _without_look_alikes(found))

    def _stretches(
        self, tokens: Tokens, owners: Places, where: Places
    ) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Questions with the stretches (first and last token) that have enough n-grams of each.

        Args:
            tokens: of the text.
            owners: question of each n-gram that was seen.
            where: token of the text at which it was seen.
        """
        arrays = self._arrays
        keys = np.sort(owners << _PLACE_BITS | where)
        owners, where = keys >> _PLACE_BITS, keys & ((1 << _PLACE_BITS) - 1)
        ends = np.searchsorted(keys, keys + arrays.widths[owners])
        counts = ends - np.arange(len(keys))
        chosen = np.flatnonzero(counts >= arrays.needs[owners])
        if not len(chosen):
            return
        pairs = _pairs(tokens.hashes)
        chosen = chosen[self._may_be_asked(owners[chosen], pairs)]
        best = chosen[np.lexsort((-counts[chosen], owners[chosen]))]
        firsts, lasts = where[best].tolist(), where[ends[best] - 1].tolist()
        stretches: list[tuple[int, int]] = []
        before = -1
        for number, first, last in zip(owners[best].tolist(), firsts, lasts, strict=True):
            if number != before:
                if stretches:
                    yield before, stretches
                before, stretches = number, []
                wanted = self._stem_pairs[
                    arrays.stem_starts[number] : arrays.stem_starts[number + 1] - 1
                ]
            if len(stretches) == MOST_STRETCHES or any(b <= first < e for b, e in stretches):
                continue
            width = int(arrays.widths[number])
            low, high = max(0, first - width), last + width
            if len(wanted) and _present(wanted, pairs[low:high]) < self._enough[number]:
                continue
            stretches.append((low, high))
        if stretches:
            yield before, stretches

    def _may_be_asked(self, owners: Places, pairs: Hashes) -> npt.NDArray[np.bool_]:
        """False for each entry whose question has too few pairs in common with a text.

        Args:
            owners: a question for each entry, ascending.
            pairs: those of the whole text.
        """
        first = np.append(True, np.diff(owners) != 0)
        numbers = owners[first]
        starts = self._arrays.stem_starts[numbers]
        sizes = self._arrays.stem_starts[numbers + 1] - 1 - starts
        begins = np.cumsum(sizes) - sizes
        inner = np.arange(int(sizes.sum())) - np.repeat(begins, sizes)
        there = np.zeros(1 << _PAIR_BITS, np.bool_)
        there[pairs >> np.uint64(64 - _PAIR_BITS)] = True
        wanted = self._stem_pairs[np.repeat(starts, sizes) + inner]
        seen = np.append(0, np.cumsum(there[wanted >> np.uint64(64 - _PAIR_BITS)]))
        enough = seen[begins + sizes] - seen[begins] >= self._enough[numbers] * sizes
        asked: npt.NDArray[np.bool_] = enough[np.cumsum(first) - 1]
        return asked

    def _may_be_there(self, grams: Hashes, which: int) -> npt.NDArray[np.bool_]:
        """False for each n-gram that is certainly not looked for."""
        there: npt.NDArray[np.bool_] = self._may_have[which].take(self._bucket(grams, which))
        return there

    def _bucket(self, grams: Hashes, which: int) -> Places:
        """One of the two buckets of each n-gram: by its highest bits, or by those that follow."""
        bucket = grams >> self._shifts[which]
        return (bucket & self._mask if which else bucket).view(np.int64)

    def save(self, path: Path) -> None:
        """Write `path` (arrays, .npz) and beside it the questions (.json)."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = vars(self._arrays) | forms_arrays()
        np.savez(buffer, **arrays)
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        with complete_file(path) as file:
            file.write(buffer.getvalue())
        about = {
            "config": asdict(self.config),
            "forms": forms_digest(),
            "versions": forms_versions(),
            "bad_rows": {name: list(rows) for name, rows in self.bad_rows.items()},
            "arrays": digest,
            "questions": [
                [q.benchmark, q.id, q.stem, q.answer, *q.options] for q in self.questions
            ],
        }
        with complete_file(path.with_suffix(".json")) as file:
            file.write(json.dumps(about, ensure_ascii=False).encode())

    @classmethod
    def load(cls, path: Path) -> "Index":
        """Read what `save` wrote. Raises DataError when it is damaged or of other versions."""
        try:
            content = path.read_bytes()
            about: dict[str, Any] = json.loads(path.with_suffix(".json").read_bytes())
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(f"{display(path)} is not a contamination index: {error}") from error
        if hashlib.sha256(content).hexdigest() != about["arrays"]:
            raise DataError(f"{display(path)} and its .json are not of one index: make it again")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            loaded = Arrays(**{name: arrays[name] for name in Arrays.__dataclass_fields__})
            if about["versions"] == forms_versions():
                take_forms(arrays)
        if about["forms"] != forms_digest():
            raise DataError(
                f"{display(path)} was made with other versions of Python or OpenCC, which read "
                "some characters differently: make it again"
            )
        config = about["config"] | {"benchmarks": tuple(about["config"]["benchmarks"])}
        questions = [
            BenchmarkQuestion(
                benchmark=benchmark, id=name, stem=stem, answer=answer, options=tuple(options)
            )
            for benchmark, name, stem, answer, *options in about["questions"]
        ]
        index = cls(ContaminationConfig(**config), questions, loaded)
        index.bad_rows = about["bad_rows"]
        return index


@lru_cache(maxsize=1)
def _looked_up(text: str, length: int) -> tuple[Tokens, Hashes, Places]:
    """The tokens of a text, every n-gram of it that may be a question's, and its first token.

    The last text is remembered: several indexes are searched for one after the other.
    """
    tokens = tokenize(text)
    grams = ngrams(tokens.hashes, length)
    at = np.arange(len(grams))
    spaced = tokens.spaced
    of_words = spaced[: 1 - WORDS].copy()
    for k in range(1, WORDS):
        of_words &= spaced[k : len(spaced) + 1 + k - WORDS]
    words = np.flatnonzero(of_words)
    if not len(words):
        return tokens, grams, at
    return (
        tokens,
        np.concatenate([grams, ngrams_at(tokens.hashes, words, WORDS)]),
        np.concatenate([at, words]),
    )


def _pairs(hashes: Hashes) -> Hashes:
    """One number for each two neighbours."""
    return hashes[:-1] * np.uint64(3) ^ hashes[1:]


def _present(wanted: Hashes, there: Hashes) -> float:
    """Share of hashes that are there."""
    if len(wanted) * len(there) > 1 << 16:
        return float(np.isin(wanted, there).mean())
    return np.count_nonzero((wanted[:, None] == there).any(axis=1)) / len(wanted)


def _match(question: BenchmarkQuestion, passage: Passage, text: str, tokens: Tokens) -> Match:
    first, last = tokens.span(passage.first, passage.last)
    excerpt = text[first : min(last, first + EXCERPT)]
    return Match(
        benchmark=question.benchmark,
        question_id=question.id,
        overlap=round(passage.overlap, 4),
        excerpt=excerpt.encode("utf-8", "replace").decode(),  # half a surrogate has no UTF-8
        question=question.text,
        parts=tuple(tokens.span(*part) for part in passage.parts),
    )


def _without_look_alikes(
    found: dict[int, tuple[Match, Passage]],
) -> Iterator[tuple[int, tuple[Match, Passage]]]:
    """Leave out questions for a passage that has more of another question of their benchmark."""
    ordered = sorted(found, key=lambda number: found[number][1].first)
    less: set[int] = set()
    for k, number in enumerate(ordered):
        one = found[number][1]
        for following in islice(ordered, k + 1, None):
            other = found[following][1]
            common = min(one.last, other.last) - other.first
            if common <= 0:
                break
            if found[number][0].benchmark != found[following][0].benchmark:
                continue
            if other.overlap > one.overlap + 0.02 and common > 0.6 * (one.last - one.first):
                less.add(number)
            if one.overlap > other.overlap + 0.02 and common > 0.6 * (other.last - other.first):
                less.add(following)
    for number, (match, passage) in found.items():
        if number not in less:
            yield number, (match, passage)
