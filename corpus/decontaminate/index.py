"""The index of benchmark questions: made once, loaded by every worker, searched once a document.

    questions ──tokens──▶ n-grams ──▶ sorted hashes ──▶ questions that have it
                             └──────▶ a bitmap of the hashes, looked at first
    document ──tokens──▶ n-grams ──bitmap──▶ sorted hashes ──▶ candidates ──tokens compared──▶ Match

Hashes only propose; a match is counted on the tokens themselves, so no collision can drop a
document.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import DataError
from common.files import complete_file
from common.paths import display
from corpus.decontaminate.questions import BenchmarkQuestion, ContaminationConfig
from corpus.decontaminate.tokens import Hashes, Places, Tokens, forms_digest, ngrams, tokenize

Shares = npt.NDArray[np.float64]
_Part = tuple[int, tuple[str, ...]]

MAX_SHARED = 50
"""An n-gram in more questions than this is too common and is not looked for."""
SLACK = 1.5
"""A question is looked for in as many tokens of the text as it has itself, times this, plus 20:
page furniture may stand between stem and options, other chapters may not."""
PIECE = 1 << 18
"""Characters looked at together; longer documents are looked at in pieces."""
PIECE_OVERLAP = 1 << 15
"""Characters that two pieces share: more than any question has."""
EXCERPT = 400
"""Longest excerpt, in characters."""

OPTIONS_WITHIN = 300
"""Characters after a stem in which a list of options begins, if there is one."""
STEM_LEAST = 0.5
"""Share of a stem that must be there however well the options agree: many questions have the same
options."""
OPTION_LEAST = 0.5
"""Share of each option, but one, that must be there."""

SIBLING_NGRAM = 5
"""Tokens of the n-grams by which siblings are recognised: short, to fit between two differences."""
SIBLING_SHARE = 0.15
"""Share of a stem's n-grams in other stems above which a question has siblings."""

_BITS = np.left_shift(1, np.arange(8)).astype(np.uint8)
_NEVER = np.iinfo(np.int32).max
_LISTED = re.compile(r"(?<![A-Za-z])A\s*[.．、:：)）].+?(?<![A-Za-z])B\s*[.．、:：)）]", re.DOTALL)


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


@dataclass(frozen=True)
class _Arrays:
    """Content of an index as numpy arrays."""

    grams: Hashes
    """Sorted hashes of n-grams."""
    starts: Places
    """n-gram -> its first entry in `owners`; one more at the end."""
    owners: npt.NDArray[np.int32]
    """Questions that contain it."""
    needs: npt.NDArray[np.int32]
    """Question -> n-grams of it that a text must have before it is worth a closer look."""
    least: Shares
    """Question -> overlap from which a text contains it."""


class Index:
    """Searchable benchmark questions. Make one with `build_index` or `Index.load`."""

    def __init__(
        self, config: ContaminationConfig, questions: Sequence[BenchmarkQuestion], arrays: _Arrays
    ) -> None:
        self.config = config
        self.questions = tuple(questions)
        self.bad_rows: Mapping[str, Sequence[str]] = {}
        """Benchmark -> its rows that are no questions, with their places."""
        self._arrays = arrays
        self._sizes = np.diff(arrays.starts)
        self._bits = max(16, (16 * len(arrays.grams)).bit_length())
        self._bitmap = np.zeros(1 << (self._bits - 3), np.uint8)
        for which in range(2):
            bucket = self._bucket(arrays.grams, which)
            np.bitwise_or.at(self._bitmap, bucket >> 3, _BITS[bucket & 7])

    @classmethod
    def build(cls, questions: Iterable[BenchmarkQuestion], config: ContaminationConfig) -> "Index":
        """Index these questions."""
        questions, n = list(questions), config.ngram
        hashes: list[Hashes] = []
        stems = [tokenize(question.stem).hashes for question in questions]
        least = _thresholds(stems, config)
        needs = np.ones(len(questions), np.int64)
        for number, (question, unit) in enumerate(zip(questions, stems, strict=True)):
            if len(unit) >= config.min_stem:
                # As many may be missing as the overlap lets go, ends counted (see _parts).
                lost = (1 - least[number]) * (len(unit) + n - 1)
                needs[number] = len(unit) - n + 1 - int(lost)
            else:
                unit = np.concatenate([unit, *(tokenize(o).hashes for o in question.options)])
            enough = len(unit) >= config.min_tokens
            grams = np.unique(ngrams(unit, n)) if enough else np.zeros(0, np.uint64)
            needs[number] -= max(0, len(unit) - n + 1) - len(grams)  # it repeats itself
            hashes.append(grams)
        return cls(config, questions, _arranged(hashes, needs, least))

    @property
    def num_checkable(self) -> int:
        """Questions that can be found."""
        return int(np.count_nonzero(self._arrays.needs < _NEVER))

    @property
    def num_ngrams(self) -> int:
        """Different n-grams that are looked for."""
        return len(self._arrays.grams)

    def unchecked(self) -> Iterator[BenchmarkQuestion]:
        """Yield the questions that are too short, or too much like others, to be recognised."""
        for question, need in zip(self.questions, self._arrays.needs, strict=True):
            if need == _NEVER:
                yield question

    def find(self, text: str) -> list[Match]:
        """Find the questions that a text contains, largest overlap first."""
        best: dict[int, Match] = {}
        for begin in range(0, max(1, len(text) - PIECE_OVERLAP), PIECE - PIECE_OVERLAP):
            for number, match in self._find(text[begin : begin + PIECE]):
                if number not in best or match.overlap > best[number].overlap:
                    best[number] = match
        return [best[number] for number in sorted(best, key=lambda n: (-best[n].overlap, n))]

    def _find(self, text: str) -> Iterator[tuple[int, Match]]:
        tokens = tokenize(text)
        grams = ngrams(tokens.hashes, self.config.ngram)
        hits = np.flatnonzero(self._in_bitmap(grams, 0))
        hits = hits[self._in_bitmap(grams[hits], 1)]
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
        entries, where = np.repeat(arrays.starts[rows], sizes) + inner, np.repeat(hits, sizes)
        owners = arrays.owners[entries]
        seen, found = np.unique(arrays.owners[np.unique(entries)], return_counts=True)
        for number in seen[found >= arrays.needs[seen]].tolist():
            match = self._compare(number, text, tokens, where[owners == number])
            if match is not None:
                yield number, match

    def _in_bitmap(self, grams: Hashes, which: int) -> npt.NDArray[np.bool_]:
        """True for each n-gram whose bit is set."""
        bucket = self._bucket(grams, which)
        is_set: npt.NDArray[np.bool_] = self._bitmap[bucket >> 3] & _BITS[bucket & 7] > 0
        return is_set

    def _bucket(self, grams: Hashes, which: int) -> Places:
        """One of the two bits of the bitmap for each n-gram: by its highest or its lowest bits."""
        low = grams & np.uint64((1 << self._bits) - 1)
        return (low if which else grams >> np.uint64(64 - self._bits)).view(np.int64)

    def _compare(self, number: int, text: str, tokens: Tokens, where: Places) -> Match | None:
        """Compare a question with the tokens around each place where an n-gram of it was seen."""
        question, n = self.questions[number], self.config.ngram
        parts, least = _parts(question, n), float(self._arrays.least[number]) - 1e-9
        width = int(SLACK * sum(size for size, _ in parts)) + 20
        best: tuple[float, int, int] | None = None
        places = np.unique(where)
        done = -1
        for at in places.tolist():
            if at < done:
                continue
            done = at + width // 4
            begin, end = max(0, at - width), min(len(tokens.hashes), at + width)
            near = places[(places >= begin) & (places <= end - n)]
            first, last = tokens.span(int(near[0]), int(near[-1]) + n)
            window = tokens.window(begin, end)
            overlap = self._overlap(parts, window, text[last : last + OPTIONS_WITHIN], least)
            if overlap >= least and (best is None or overlap > best[0]):
                best = (overlap, first, last)
        if best is None:
            return None
        overlap, first, last = best
        excerpt = text[first : min(last, first + EXCERPT)]
        return Match(
            benchmark=question.benchmark,
            question_id=question.id,
            overlap=round(overlap, 4),
            excerpt=excerpt.encode("utf-8", "replace").decode(),  # half a surrogate has no UTF-8
            question=question.text,
        )

    def _overlap(self, parts: Sequence[_Part], window: str, after: str, least: float) -> float:
        """Share of a question in a window: of its stem alone, or of stem and options; 0 for none.

        A long stem is enough by itself, unless a list of other options follows it: that is another
        question with the same beginning. One option may be missing.
        """
        size, runs = parts[0]
        share = _present(runs, window)
        if share < STEM_LEAST:
            return 0.0
        if size >= self.config.min_stem and share >= least and not _LISTED.search(after):
            return share
        counted = [(size, share), *((size, _present(runs, window)) for size, runs in parts[1:])]
        if len(counted) > 3:
            counted.remove(min(counted[1:], key=lambda option: (option[1], -option[0])))
        if any(share < OPTION_LEAST for _, share in counted[1:]):
            return 0.0
        return sum(size * share for size, share in counted) / sum(size for size, _ in counted)

    def save(self, path: Path) -> None:
        """Write `path` (arrays, .npz) and beside it the questions (.json)."""
        buffer = io.BytesIO()
        np.savez(buffer, **vars(self._arrays))
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        with complete_file(path) as file:
            file.write(buffer.getvalue())
        about = {
            "config": asdict(self.config),
            "forms": forms_digest(),
            "arrays": digest,
            "questions": [[q.benchmark, q.id, q.stem, *q.options] for q in self.questions],
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
        if about["forms"] != forms_digest():
            raise DataError(
                f"{display(path)} was made with other versions of Python or OpenCC, which read "
                "some characters differently: make it again"
            )
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            loaded = _Arrays(**{name: arrays[name] for name in _Arrays.__dataclass_fields__})
        config = about["config"] | {"benchmarks": tuple(about["config"]["benchmarks"])}
        questions = [
            BenchmarkQuestion(benchmark=benchmark, id=name, stem=stem, options=tuple(options))
            for benchmark, name, stem, *options in about["questions"]
        ]
        return cls(ContaminationConfig(**config), questions, loaded)


def _arranged(hashes: list[Hashes], needs: Places, least: Shares) -> _Arrays:
    """Sort entries by n-gram, without too common ones; a question with no other never matches."""
    all_hashes = np.concatenate([*hashes, np.zeros(0, np.uint64)])
    all_owners = np.repeat(np.arange(len(hashes), dtype=np.int32), [len(h) for h in hashes])
    order = np.lexsort((all_owners, all_hashes))
    all_hashes, all_owners = all_hashes[order], all_owners[order]
    _, inverse, sizes = np.unique(all_hashes, return_inverse=True, return_counts=True)
    kept = sizes[inverse] <= MAX_SHARED
    grams, sizes = np.unique(all_hashes[kept], return_counts=True)
    left = np.bincount(all_owners[kept], minlength=len(needs))
    needs = needs - (np.bincount(all_owners, minlength=len(needs)) - left)
    return _Arrays(
        grams=grams,
        starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
        owners=all_owners[kept],
        needs=np.where(left > 0, np.maximum(needs, 1), _NEVER).astype(np.int32),
        least=least,
    )


def _thresholds(stems: list[Hashes], config: ContaminationConfig) -> Shares:
    """The overlap that each question must have: more if other stems have a part of it."""
    grams = [np.unique(ngrams(stem, SIBLING_NGRAM)) for stem in stems]
    sizes = np.array([len(part) for part in grams], np.int64)
    _, inverse, counts = np.unique(
        np.concatenate([*grams, np.zeros(0, np.uint64)]), return_inverse=True, return_counts=True
    )
    owners = np.repeat(np.arange(len(stems)), sizes)
    shared = np.bincount(owners, counts[inverse] > 1, minlength=len(stems))
    sibling = shared > SIBLING_SHARE * sizes
    return np.where(sibling, max(config.overlap, config.sibling_overlap), config.overlap)


@lru_cache(maxsize=1024)
def _parts(question: BenchmarkQuestion, length: int) -> tuple[_Part, ...]:
    """Number of tokens, and the runs to be found, of the stem and of each option with a token.

    The runs are the n-grams; they reach over both ends and are cut there, so that each token is in
    as many: a stem whose last word differs is as different as one with another word in its middle.
    A part shorter than an n-gram is one run.
    """
    parts: list[_Part] = []
    for text in (question.stem, *question.options):
        tokens = tokenize(text)
        size = len(tokens.hashes)
        spans = [(max(0, i), min(size, i + length)) for i in range(1 - length, size)]
        if size <= length:
            spans = [(0, size)]
        if size or not parts:
            parts.append((size, tuple(tokens.window(first, last) for first, last in spans)))
    return tuple(parts)


def _present(runs: Sequence[str], window: str) -> float:
    """Share of the runs that a window contains."""
    return sum(run in window for run in runs) / len(runs)
