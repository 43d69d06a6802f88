"""The index of exam questions: made once, loaded by every worker, asked once a document.

    questions ──tokens──▶ n-grams ──▶ sorted hashes ─▶ (question, place, weight)     a bitmap of the
                                                                                     hashes before it
    document ──tokens──▶ n-grams ──bitmap──▶ sorted hashes ──▶ candidates ──tokens compared──▶ Match

An n-gram that k questions share weighs 1/k: what a subject's questions have in common ("which of
the following is right") says little about any one of them. Hashes only propose; a match is counted
on the tokens themselves, so no collision can drop a document.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.errors import DataError
from tasks._contamination._questions import ContaminationConfig, ExamQuestion
from tasks._contamination._tokens import Hashes, Places, Tokens, forms_digest, ngrams, tokenize
from tasks._files import complete_file
from tasks._recipes import display

MAX_SHARED = 50
"""An n-gram in more questions than this is a commonplace and is not looked for."""
SLACK = 1.5
"""A question is looked for in as many tokens of the text as it has itself, times this, plus 20:
page furniture may stand between stem and options, other chapters may not."""
PIECE = 1 << 20
"""Characters looked at together; longer documents are looked at in pieces."""
PIECE_OVERLAP = 1 << 16
"""Characters that two pieces share: more than any question has."""
EXCERPT = 400
"""Longest excerpt, in characters."""

_UNCHECKED, _STEM, _WHOLE = 0, 1, 2
_BREAK = "\x1f"


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
    """What is looked up, all as numpy arrays."""

    grams: Hashes
    """Sorted hashes of n-grams."""
    starts: Places
    """n-gram -> its first entry in `owners`; one more at the end."""
    owners: npt.NDArray[np.int32]
    """Questions that contain it."""
    places: npt.NDArray[np.int32]
    """Where: the number of its first token in the question."""
    modes: npt.NDArray[np.uint8]
    """Question -> unchecked, by its stem alone, or stem with options."""
    needs: npt.NDArray[np.float64]
    """Question -> the weight of all its n-grams."""


class Index:
    """Exam questions, ready to be found. Make one with `build_index` or `Index.load`."""

    def __init__(
        self, config: ContaminationConfig, questions: Sequence[ExamQuestion], arrays: _Arrays
    ) -> None:
        self.config = config
        self.questions = tuple(questions)
        self._arrays = arrays
        self._sizes = np.diff(arrays.starts)
        bits = max(16, int(16 * len(arrays.grams)).bit_length())
        self._shift = np.uint64(64 - bits)
        buckets = arrays.grams >> self._shift
        self._bitmap = np.zeros(1 << (bits - 3), np.uint8)
        bit = np.left_shift(1, buckets & np.uint64(7), dtype=np.uint64).astype(np.uint8)
        np.bitwise_or.at(self._bitmap, buckets >> np.uint64(3), bit)

    @classmethod
    def build(cls, questions: Iterable[ExamQuestion], config: ContaminationConfig) -> "Index":
        """An index of these questions."""
        questions = list(questions)
        hashes, owners, places = [], [], []
        modes = np.zeros(len(questions), np.uint8)
        for number, question in enumerate(questions):
            unit = tokenize(question.stem).hashes
            modes[number] = _STEM
            if len(unit) < config.min_stem:
                unit = np.concatenate([unit, *(tokenize(o).hashes for o in question.options)])
                modes[number] = _WHOLE if len(unit) >= config.min_tokens else _UNCHECKED
            if modes[number] != _UNCHECKED:
                grams, first = np.unique(ngrams(unit, config.ngram), return_index=True)
                hashes.append(grams)
                owners.append(np.full(len(grams), number, np.int32))
                places.append(first.astype(np.int32))
        return cls(config, questions, _arranged(hashes, owners, places, modes))

    @property
    def num_checkable(self) -> int:
        """Questions that can be found."""
        return int(np.count_nonzero(self._arrays.modes))

    @property
    def num_ngrams(self) -> int:
        """Different n-grams that are looked for."""
        return len(self._arrays.grams)

    def unchecked(self) -> Iterator[ExamQuestion]:
        """Questions too short, or too much like others, to be told from ordinary speech."""
        for question, mode in zip(self.questions, self._arrays.modes, strict=True):
            if mode == _UNCHECKED:
                yield question

    def find(self, text: str) -> list[Match]:
        """The questions that a text contains, the surest first."""
        best: dict[int, Match] = {}
        for begin in range(0, max(1, len(text) - PIECE_OVERLAP), PIECE - PIECE_OVERLAP):
            for number, match in self._find(text[begin : begin + PIECE]):
                if number not in best or match.overlap > best[number].overlap:
                    best[number] = match
        return [best[number] for number in sorted(best, key=lambda n: (-best[n].overlap, n))]

    def _find(self, text: str) -> Iterator[tuple[int, Match]]:
        tokens = tokenize(text)
        grams = ngrams(tokens.hashes, self.config.ngram)
        buckets = grams >> self._shift
        bytes_ = self._bitmap[buckets >> np.uint64(3)]
        hits = np.flatnonzero((bytes_ >> (buckets & np.uint64(7)).astype(np.uint8)) & 1)
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
        entries = np.repeat(arrays.starts[rows], sizes) + inner
        where, weights = np.repeat(hits, sizes), np.repeat(1 / sizes, sizes)
        distinct, first = np.unique(entries, return_index=True)
        owners = arrays.owners[distinct]
        found = np.bincount(owners, weights[first])
        numbers = np.flatnonzero(found)
        enough = found[numbers] >= self.config.overlap * arrays.needs[numbers] - 1e-9
        numbers = numbers[enough | (arrays.modes[numbers] == _WHOLE)]
        owner_of = arrays.owners[entries]
        for number in numbers.tolist():
            mine = owner_of == number
            check = self._by_stem if arrays.modes[number] == _STEM else self._by_parts
            found_here = check(
                number, tokens, where[mine], arrays.places[entries[mine]], weights[mine]
            )
            if found_here is not None and found_here[0] >= self.config.overlap - 1e-9:
                overlap, first_token, last_token = found_here
                begin, end = tokens.span(first_token, last_token)
                question = self.questions[number]
                yield number, Match(
                    benchmark=question.benchmark, question_id=question.id,
                    overlap=round(min(1.0, overlap), 4), excerpt=text[begin:end][:EXCERPT],
                    question=question.text,
                )  # fmt: skip

    def _by_stem(
        self, number: int, tokens: Tokens, where: Places, places: npt.NDArray[np.int32],
        weights: npt.NDArray[np.float64],
    ) -> tuple[float, int, int] | None:  # fmt: skip
        """Share of the stem's n-grams in the best window, by weight, and the window's tokens."""
        stem, n = _parts(self.questions[number])[0], self.config.ngram
        order = np.argsort(where, kind="stable")
        hits = [
            (int(where[i]), int(places[i]), float(weights[i]))
            for i in order
            if tokens.strings(int(where[i]), int(where[i]) + n) == list(stem[places[i] :][:n])
        ]
        width = _width(len(stem)) - n
        held: dict[int, int] = {}
        weight = best = 0.0
        span = (0, 0)
        left = 0
        for at, place, gain in hits:
            weight += gain if not held.get(place) else 0.0
            held[place] = held.get(place, 0) + 1
            while at - hits[left][0] > width:
                _, old, loss = hits[left]
                held[old] -= 1
                weight -= loss if not held[old] else 0.0
                left += 1
            if weight > best + 1e-12:
                best, span = weight, (hits[left][0], at + n)
        return (best / float(self._arrays.needs[number]), *span) if best else None

    def _by_parts(
        self, number: int, tokens: Tokens, where: Places, places: npt.NDArray[np.int32],
        weights: npt.NDArray[np.float64],
    ) -> tuple[float, int, int] | None:  # fmt: skip
        """Share of the stem's and the options' tokens near a hit; one option may be missing."""
        parts = _parts(self.questions[number])
        width = _width(sum(map(len, parts)))
        best: tuple[float, int, int] | None = None
        done = -1
        for at in np.unique(where).tolist():
            if at < done:
                continue
            done = at + width // 4
            begin, end = max(0, at - width), min(len(tokens.hashes), at + width)
            window = _BREAK + _BREAK.join(tokens.strings(begin, end)) + _BREAK
            share = self._share(parts, window)
            if best is None or share > best[0]:
                best = (share, at, min(len(tokens.hashes), at + width // 2))
        return best

    def _share(self, parts: Sequence[tuple[str, ...]], window: str) -> float:
        stem, *options = ((len(part), _present(part, window, self.config.ngram)) for part in parts)
        if len(options) > 2:
            options.remove(min(options, key=lambda option: (option[1], -option[0])))
        counted = [stem, *options]
        total = sum(size for size, _ in counted)
        return sum(size * share for size, share in counted) / total if total else 0.0

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
                f"{display(path)} was made with other versions of Python or OpenCC, which read some "
                "characters differently: make it again"
            )
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            loaded = _Arrays(**{name: arrays[name] for name in _Arrays.__dataclass_fields__})
        config = about["config"] | {"benchmarks": tuple(about["config"]["benchmarks"])}
        questions = [
            ExamQuestion(benchmark=benchmark, id=name, stem=stem, options=tuple(options))
            for benchmark, name, stem, *options in about["questions"]
        ]
        return cls(ContaminationConfig(**config), questions, loaded)


def _arranged(
    hashes: list[Hashes],
    owners: list[npt.NDArray[np.int32]],
    places: list[npt.NDArray[np.int32]],
    modes: npt.NDArray[np.uint8],
) -> _Arrays:
    """Entries sorted by n-gram, without commonplaces; questions left with none are unchecked."""
    empty = np.zeros(0, np.int32)
    all_hashes = np.concatenate([*hashes, np.zeros(0, np.uint64)])
    all_owners, all_places = np.concatenate([*owners, empty]), np.concatenate([*places, empty])
    order = np.lexsort((all_owners, all_hashes))
    all_hashes, all_owners, all_places = all_hashes[order], all_owners[order], all_places[order]
    _, inverse, sizes = np.unique(all_hashes, return_inverse=True, return_counts=True)
    kept = sizes[inverse] <= MAX_SHARED
    grams, sizes = np.unique(all_hashes[kept], return_counts=True)
    needs = np.bincount(all_owners[kept], 1 / np.repeat(sizes, sizes), minlength=len(modes))
    return _Arrays(
        grams=grams,
        starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
        owners=all_owners[kept],
        places=all_places[kept],
        modes=np.where(needs > 0, modes, _UNCHECKED).astype(np.uint8),
        needs=needs,
    )


def _width(size: int) -> int:
    return int(SLACK * size) + 20


@lru_cache(maxsize=4096)
def _parts(question: ExamQuestion) -> tuple[tuple[str, ...], ...]:
    """The tokens of the stem and of each option."""
    parts = (tokenize(part) for part in (question.stem, *question.options))
    return tuple(tuple(part.strings(0, len(part.hashes))) for part in parts)


def _present(part: tuple[str, ...], window: str, length: int) -> float:
    """Share of a part's n-grams in a window; of a part shorter than one, whether it is there."""
    length = min(length, len(part))
    if not length:
        return 0.0
    runs = [part[i : i + length] for i in range(len(part) - length + 1)]
    return sum(f"{_BREAK}{_BREAK.join(run)}{_BREAK}" in window for run in runs) / len(runs)
