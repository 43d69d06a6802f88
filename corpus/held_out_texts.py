"""Texts that are never trained on, to compare corpora by: who predicts them best?

    normalized ──BLAKE2b of the text──▶ chosen ──shares no passages with the rest──▶ a held-out set
                                           └── the rest: what is cleaned and trained on

Chosen before cleaning, so that every cleaning recipe is judged on the same texts as they came in.
A text that also stands elsewhere in the corpora, whole or in long passages, would reward whoever
keeps the copy: it is held out, but not scored.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from common.config import Config
from common.errors import DataError
from common.files import read_json_lines
from common.names import Name
from common.paths import resolve
from common.ranges import Ge, Gt, Le, Limit, MinLen
from corpus.cleaning.quality.labels import read_labels

WINDOW = 24
"""Characters, blanks left out, of a passage that two texts may share."""
MAX_SHARED = 0.2
"""Largest share of a scored text's passages that also stand in the corpora. Formulas, licence
headers and set phrases stay below it."""
BITS = 64
FACTOR = np.uint64(0x9E3779B97F4A7C15)

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class HeldOutSet(Config):
    """One kind of text to score models on."""

    corpora: Annotated[tuple[Name, ...], MinLen(1)]
    """Corpora of the pipeline that its documents are taken from."""
    fraction: Annotated[float, Gt(0), Le(1)] = 0.05
    """Share of their documents, by a hash of the text; 1: all, so that none is trained on. Above 0,
    at most 1."""
    verdicts: str | None = None
    """A file of verdicts on pages, those of `steel review` too (corpus/cleaning/quality/labels.py):
    only the texts that somebody judged worth keeping are scored. None: all."""
    max_characters: Annotated[int, Ge(1), Limit(10**9)] = 1_000_000
    """Scored at the most, in characters; the documents with the smallest hashes count. >= 1."""


def rank(text: str) -> float:
    """A number in [0, 1) that depends on the text alone; a set holds out those below its share.

    Independent of the hash that holds out validation documents (model/data/held_out.py).
    """
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, person=b"held-out")
    return int.from_bytes(digest.digest(), "little") / 2.0**BITS


def passages(text: str) -> Hashes:
    """Hash of every run of `WINDOW` characters of a text, blanks left out; [n], none if shorter."""
    compact = "".join(text.split())
    codes = np.frombuffer(compact.encode("utf-32-le", "replace"), dtype="<u4").astype(np.uint64)
    if len(codes) < WINDOW:
        return np.empty(0, np.uint64)
    hashes = np.zeros(len(codes) - WINDOW + 1, np.uint64)
    with np.errstate(over="ignore"):
        # A polynomial in the characters, modulo 2^64; the mixing spreads them over all bits first.
        mixed = (codes + np.uint64(1)) * FACTOR
        mixed ^= mixed >> np.uint64(29)
        for offset in range(WINDOW):
            hashes *= FACTOR
            hashes += mixed[offset : offset + len(hashes)]
    return hashes


class SharedPassages:
    """Marks which passages of some texts also stand in others."""

    def __init__(self, texts: Sequence[str]) -> None:
        own = [passages(text) for text in texts]
        self._ends = np.cumsum([0, *(len(one) for one in own)])
        joined = np.concatenate([np.empty(0, np.uint64), *own])
        self._known, self._place = np.unique(joined, return_inverse=True)
        self._seen = np.zeros(len(self._known), bool)

    def look_at(self, others: Hashes) -> None:
        """Take note of another text's `passages`."""
        if not len(self._known):
            return
        place = np.searchsorted(self._known, others).clip(max=len(self._known) - 1)
        self._seen[place[self._known[place] == others]] = True

    def shares(self) -> list[float]:
        """For each text, the share of its passages that others have, too; 0 for very short ones."""
        seen = self._seen[self._place]
        return [
            float(seen[start:end].mean()) if end > start else 0.0
            for start, end in zip(self._ends[:-1], self._ends[1:], strict=True)
        ]


def scored(
    name: str, config: HeldOutSet, documents: Iterable[dict[str, Any]], shares: Iterable[float]
) -> list[dict[str, Any]]:
    """The documents of a held-out set that models are scored on, by their hash.

    Raises DataError when none is left.
    """
    labels = read_labels([resolve(config.verdicts)]) if config.verdicts else None
    found, length, total = [], 0, 0
    pairs = sorted(zip(documents, shares, strict=True), key=lambda pair: rank(pair[0]["text"]))
    for document, share in pairs:
        total += 1
        text = document["text"]
        if share > MAX_SHARED or (labels is not None and not labels.is_good(document)):
            continue
        if length and length + len(text) > config.max_characters:
            break
        length += len(text)
        found.append(document)
    if not found:
        raise DataError(
            f"held_out.{name}: no document is left to score: of {total} held out, the others stand "
            "in the corpora a second time or have no verdict `keep`. Raise its fraction"
        )
    return found


def split(path: Path, fraction: float) -> Iterator[tuple[dict[str, Any], bool]]:
    """Every document of a normalised file, and if it is held out."""
    for document in read_json_lines(path):
        yield document, rank(document["text"]) < fraction
