"""Precision and recall of near-duplicate removal, on real documents and planted copies.

    python -m benchmarks.near_duplicates              the shipped recipes, all measurements
    python -m benchmarks.near_duplicates --sweep      other windows, patterns and distances

Three kinds of pairs, from the real rows in ../shared/data:

- planted: a real document and an edited copy; found is right. Recall, by kind of edit.
- real: all pairs of real documents, judged by their exact Jaccard similarity over character
  5-grams; 0.7 or more is a copy. Precision and recall.
- short: headlines, none of which is a copy of another below that similarity; merged is wrong.

Hashes come from Data-Juicer's own operator; pairs within the Hamming distance are found by brute
force, so the number of blocks plays no role here.
"""

import argparse
import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from benchmarks._sample_texts import (
    EDITS,
    MIN_PLANTED,
    SHARED,
    chinese,
    code,
    english,
    headlines,
    questions,
)
from corpus.cleaning import recipe as recipes

JACCARD = 0.7
"""Character 5-gram similarity from which two documents are copies of each other."""
MIN_REAL = 20
"""Characters of the shortest real document compared."""

Hashes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]
"""Rows (i, j) with i < j."""


# --- hashes and pairs ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Parameters of document_simhash_deduplicator."""

    name: str
    tokenization: str
    window_size: int
    ignore_pattern: str | None
    hamming_distance: int
    lowercase: bool = True

    @cached_property
    def operator(self) -> Any:
        """Data-Juicer's operator, for its hashes."""
        return _operator(self.tokenization, self.window_size, self.ignore_pattern, self.lowercase)

    def hashes(self, texts: Sequence[str]) -> Hashes:
        """One 64-bit hash a text."""
        return np.array(
            [int(self.operator.compute_hash({"text": text})["__dj__simhash"]) for text in texts],
            dtype=np.uint64,
        )


@lru_cache
def _operator(tokenization: str, window: int, pattern: str | None, lowercase: bool) -> Any:
    from data_juicer.ops import load_ops

    arguments = {
        "tokenization": tokenization,
        "window_size": window,
        "lowercase": lowercase,
        "ignore_pattern": pattern,
    }
    return load_ops([{"document_simhash_deduplicator": arguments}])[0]


def shipped(name: str) -> Setting:
    """The deduplicator of a recipe in data_recipes/clean."""
    arguments = recipes.load(name).operators[-1].arguments
    known = {k: v for k, v in arguments.items() if k != "num_blocks"}
    return Setting(name=name, **known)


def close_pairs(hashes: Hashes, distance: int) -> Pairs:
    """All pairs within a Hamming distance, by brute force."""
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, len(hashes), 512):
        block = hashes[start : start + 512]
        near = np.bitwise_count(block[:, None] ^ hashes[None, start:]) <= distance
        found.append(np.argwhere(np.triu(near, 1)) + start)
    return np.concatenate(found)


class Reference:
    """Exact Jaccard similarity over character 5-grams, for every pair of documents."""

    def __init__(self, texts: Sequence[str]) -> None:
        grams = [{text[i : i + 5] for i in range(len(text) - 4)} for text in texts]
        numbers: dict[str, int] = {}
        columns = [[numbers.setdefault(g, len(numbers)) for g in sorted(s)] for s in grams]
        counts = [len(c) for c in columns]
        self.sizes = np.array(counts, dtype=np.int64)
        self.matrix = scipy.sparse.csr_matrix(
            (
                np.ones(sum(counts), np.int32),
                np.concatenate([np.array(c, np.int64) for c in columns]),
                np.concatenate([[0], np.cumsum(counts)]),
            ),
            shape=(len(texts), max(1, len(numbers))),
        )

    def pairs(self, threshold: float = JACCARD) -> Pairs:
        """Pairs of at least this similarity."""
        found = [np.empty((0, 2), np.int64)]
        transposed = self.matrix.T.tocsr()
        for start in range(0, self.matrix.shape[0], 256):
            common = (self.matrix[start : start + 256] @ transposed).tocoo()
            rows = common.row + start
            similarity = common.data / (self.sizes[rows] + self.sizes[common.col] - common.data)
            copies = (similarity >= threshold) & (rows < common.col)
            found.append(np.stack([rows[copies], common.col[copies]], axis=1).astype(np.int64))
        pairs = np.concatenate(found)
        return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]

    def similarity(self, i: int, j: int) -> float:
        """The similarity of one pair."""
        common = int(self.matrix[i].multiply(self.matrix[j]).sum())
        return common / max(1, int(self.sizes[i] + self.sizes[j]) - common)


# --- measurements ----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Score:
    """Found pairs against the reference."""

    found: int
    right: int
    copies: int

    @property
    def precision(self) -> float:
        """Share of the found pairs that are copies; 1 when nothing is found."""
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of the copies that are found; 1 when there is none."""
        return self.right / self.copies if self.copies else 1.0


def score(found: Pairs, copies: Pairs) -> Score:
    """Precision and recall of pairs."""
    one, other = (pairs[:, 0] << 32 | pairs[:, 1] for pairs in (found, copies))
    return Score(found=len(one), right=len(np.intersect1d(one, other)), copies=len(other))


@dataclass(kw_only=True)
class Planted:
    """Real documents and their edited copies."""

    originals: list[str]
    copies: dict[str, list[str]] = field(default_factory=dict)
    """Kind of edit -> one copy an original."""

    @classmethod
    def of(cls, texts: Sequence[str], language: str, *, count: int, seed: int = 0) -> "Planted":
        """`count` documents of at least MIN_PLANTED characters, each edited in every way."""
        rng = random.Random(seed)
        fit = [text for text in texts if MIN_PLANTED <= len(text) <= 20_000]
        chosen = rng.sample(fit, min(count, len(fit)))
        planted = cls(originals=chosen)
        for name, edit in EDITS.items():
            if language == "code" and name == "style":
                continue
            planted.copies[name] = [edit(text, rng, language) for text in chosen]
        return planted

    def mapped(self, mapper: "Mappers") -> "Planted":
        """Originals and copies after a recipe's mappers, as its deduplicator sees them."""
        copies = {name: mapper(texts) for name, texts in self.copies.items()}
        return Planted(originals=mapper(self.originals), copies=copies)

    def distances(self, setting: Setting) -> dict[str, npt.NDArray[np.int64]]:
        """Kind of edit -> Hamming distances between originals and copies."""
        originals = setting.hashes(self.originals)
        return {
            name: np.bitwise_count(originals ^ setting.hashes(copies)).astype(np.int64)
            for name, copies in self.copies.items()
        }

    def recall(self, setting: Setting) -> dict[str, float]:
        """Kind of edit -> share of the copies that are found."""
        found = self.distances(setting)
        return {name: float((d <= setting.hamming_distance).mean()) for name, d in found.items()}

    def precision(self, setting: Setting) -> float:
        """Of the pairs merged among originals and copies, the share that have one original."""
        texts = [text for group in (self.originals, *self.copies.values()) for text in group]
        pairs = close_pairs(setting.hashes(texts), setting.hamming_distance) % len(self.originals)
        return float((pairs[:, 0] == pairs[:, 1]).mean()) if len(pairs) else 1.0


class Mappers:
    """The mappers of a recipe, one after the other."""

    def __init__(self, name: str) -> None:
        from data_juicer.ops import load_ops

        recipe = recipes.load(name)
        recipe.import_custom_operators()
        mappers = [{op.name: dict(op.arguments)} for op in recipe.operators if op.kind == "mapper"]
        self.operators = load_ops(mappers)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Texts as the recipe's deduplicator sees them."""
        samples = {"text": list(texts)}
        for operator in self.operators:
            samples = operator.process(samples)
        return list(samples["text"])


LANGUAGES: dict[str, Callable[[Path], list[str]]] = {
    "chinese": chinese,
    "english": english,
    "code": code,
}
MAX_REAL = 60_000
"""Characters of the longest real document compared: hashing it in Python takes a second."""
NUM_SHORT = 2_000


def planted_table(settings: Sequence[Setting], count: int) -> Iterator[str]:
    """Recall on planted pairs, and precision: a line for each setting and language."""
    yield "| recipe | rows | " + " | ".join(EDITS) + " | precision |"
    yield "|" + "---|" * (len(EDITS) + 3)
    for language, load in LANGUAGES.items():
        planted = Planted.of(load(SHARED), language, count=count)
        for setting in settings:
            if (language == "code") == setting.name.endswith("code"):
                mapped = planted.mapped(Mappers(setting.name))
                recall = mapped.recall(setting)
                cells = [f"{100 * recall[e]:.0f} %" if e in recall else "" for e in EDITS]
                cells.append(f"{mapped.precision(setting):.3f}")
                yield f"| {setting.name} | {language} | " + " | ".join(cells) + " |"


def real_table(settings: Sequence[Setting]) -> Iterator[str]:
    """Precision and recall on all pairs of real rows: a line for each setting and language."""
    yield (
        "| recipe | rows | documents | MB/s | merged pairs | copies among them | precision "
        "| at 0.5 | copies in all | recall |"
    )
    yield "|" + "---|" * 10
    for language, load in LANGUAGES.items():
        texts = [text for text in load(SHARED) if MIN_REAL <= len(text) <= MAX_REAL]
        for setting in settings:
            if (language == "code") != setting.name.endswith("code"):
                continue
            seen = [text for text in Mappers(setting.name)(texts) if len(text) >= MIN_REAL]
            reference = Reference(seen)
            start = time.process_time()
            hashes = setting.hashes(seen)
            speed = sum(len(t.encode()) for t in seen) / 1e6 / (time.process_time() - start)
            found = close_pairs(hashes, setting.hamming_distance)
            result, loose = score(found, reference.pairs()), score(found, reference.pairs(0.5))
            yield (
                f"| {setting.name} | {language} | {len(seen)} | {speed:.1f} | {result.found} "
                f"| {result.right} | {result.precision:.2f} | {loose.precision:.2f} "
                f"| {result.copies} | {result.recall:.2f} |"
            )


def short_table(settings: Sequence[Setting]) -> Iterator[str]:
    """Strangers among short documents that are merged."""
    yield "| recipe | rows | documents | merged pairs | strangers among them | of all strangers |"
    yield "|" + "---|" * 6
    for name, texts in (
        ("headlines", headlines(SHARED)[:NUM_SHORT]),
        ("questions", questions(SHARED)),
    ):
        for setting in settings:
            if setting.name.endswith("code"):
                continue
            seen = Mappers(setting.name)(texts)
            found = close_pairs(setting.hashes(seen), setting.hamming_distance)
            result = score(found, Reference(seen).pairs())
            strangers = result.found - result.right
            share = strangers / (len(seen) * (len(seen) - 1) // 2 - result.copies)
            yield (
                f"| {setting.name} | {name} | {len(seen)} | {result.found} | {strangers} "
                f"| {100 * share:.4f} % |"
            )


def sweep_table(count: int) -> Iterator[str]:
    """Recall and merged real pairs over windows, patterns and distances, repaired mappers."""
    yield "| rows | window | ignored | distance | 0.5 % | 1 % | 2 % | 5 % | merged | precision |"
    yield "|" + "---|" * 10
    for language, load in LANGUAGES.items():
        mappers = Mappers(f"repaired/{'code' if language == 'code' else 'text'}")
        texts = [text for text in load(SHARED) if MIN_REAL <= len(text) <= MAX_REAL]
        planted = Planted.of(texts, language, count=count).mapped(mappers)
        seen = [text for text in mappers(texts) if len(text) >= MIN_REAL]
        copies = Reference(seen).pairs()
        for window, pattern in itertools.product((2, 3, 4, 6), (r"\p{P}", r"[\p{P}\s]", r"[\W_]")):
            base = Setting(
                name="",
                tokenization="character",
                window_size=window,
                ignore_pattern=pattern,
                hamming_distance=4,
            )
            hashes, apart = base.hashes(seen), planted.distances(base)
            for distance in (4, 6, 8):
                result = score(close_pairs(hashes, distance), copies)
                cells = [f"{100 * (apart[e] <= distance).mean():.0f} %" for e in list(EDITS)[:4]]
                yield (
                    f"| {language} | {window} | `{pattern}` | {distance} | {' | '.join(cells)} "
                    f"| {result.found} | {result.precision:.2f} |"
                )


def main(argv: list[str]) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=150, help="planted documents a language")
    parser.add_argument("--sweep", action="store_true", help="try other parameters as well")
    args = parser.parse_args(argv)
    settings = [
        shipped(name) for name in ("paper/text", "repaired/text", "paper/code", "repaired/code")
    ]
    tables = [planted_table(settings, args.count), real_table(settings), short_table(settings)]
    if args.sweep:
        tables.append(sweep_table(args.count))
    for table in tables:
        for line in table:
            print(line, flush=True)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
