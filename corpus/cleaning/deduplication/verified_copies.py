"""Near-duplicates: candidates by MinHash, each verified against the text of a kept document.

    documents, the preferred ones first
      ─▶ no bucket in common with a kept one                                     ─▶ kept
      ─▶ candidates: kept documents with most buckets in common, COMPARISONS at most
           ─▶ Jaccard similarity of the shingles of both texts ≥ threshold, and still half
              of it without the boilerplate of web pages: a copy                   ─▶ dropped
           ─▶ two thirds of the threshold, and 95 % of the tokens in the same order: a copy with
              small edits all over, each of which takes several shingles           ─▶ dropped
           ─▶ of none                                                              ─▶ kept

Every document that is dropped is that near to the kept one that is named for it. There
are no chains: a copy of a copy is compared with kept documents, and stays if it is near none.

Documents that no bucket connects do not depend on one another, so connected ones are worked on by
one worker each, and the result is the same for any number of workers. What bounds the cost bounds
it on the safe side: of a template with a million pages some copies may stay.
"""

import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.files import complete_file
from corpus.cleaning.deduplication.band_buckets import Buckets
from corpus.cleaning.deduplication.boilerplate import without_boilerplate
from corpus.cleaning.deduplication.near_duplicates import Ints
from corpus.cleaning.engine.workers import map_in_workers
from corpus.cleaning.fast.minhash import MinHash, Shingles, common_in_order, jaccard, mix

COMPARISONS = 64
"""Kept documents that a document is compared with, at most."""
EDITED_LEAST = 2 / 3
"""Share of the threshold from which a text may be another with small edits all over."""
IN_ORDER = 0.95
"""Share of the tokens that such a text has in the same order. Files that one template wrote about
different things come to 0.83, pages of weather, jobs and prices to 0.94."""
DIGITS_IN_ORDER = 0.85
"""Share of its digits."""
MOST_TOKENS, MOST_EDITED = 20_000, 4
"""Tokens of a text, and texts, that are compared in this way: it takes the product of lengths."""
SAID_LEAST = 0.5
"""Share of the threshold that two pages must reach without their boilerplate."""
TASK = 1 << 15
"""Documents that a worker takes at once, about; components of connected documents are not cut."""
CHUNK = 1 << 18
"""Documents whose places are read at once: 75 MB with 36 bands, however many are connected."""
CACHE_BYTES = 64 << 20
"""Shingles of kept documents that a worker remembers."""

SHORT = 40
"""Shingles. In a shorter text another word is another fact (重庆大学2008年录取结果查询, 郑州大学…):
it is a copy only of one that contains it, or that it contains."""

COPY = np.dtype([("document", "<i8"), ("kept", "<i8"), ("similarity", "<f8")])
"""A document that is dropped, the one kept in its place, and their similarity."""

Copies = npt.NDArray[Any]

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class CopyFinder:
    """The search for copies among N documents."""

    minhash: MinHash
    """Hashes of texts."""
    threshold: float
    """Jaccard similarity from which a document is a copy."""
    buckets: Buckets
    """The documents' buckets."""
    text: Callable[[int], str]
    """Text of a document."""
    scratch: Path
    """Folder of results, each written when it is complete."""
    comparisons: int = COMPARISONS
    """Kept documents that a document is compared with, at most."""
    _remembered: "OrderedDict[int, Shingles]" = field(default_factory=OrderedDict)
    _bytes: int = 0

    def find(self, workers: int, tick: Callable[[], None]) -> Iterator[Copies]:
        """Yield the copies, a part of the documents at a time.

        Args:
            workers: processes.
            tick: called a few times a second.
        """
        num = -(-int(np.count_nonzero(self.buckets.shared)) // TASK)
        work = functools.partial(self._find_in_part, num)
        for part in map_in_workers(work, range(num), workers, tick):
            yield np.load(part, allow_pickle=False)

    def _find_in_part(self, num_parts: int, part: int) -> Path:
        """Find the copies in one part of the documents, unless that was done before."""
        result = self.scratch / f"copies-{part:06d}.npy"
        if result.exists():
            return result
        found: list[tuple[int, int, float]] = []
        # A plain array: indexing a memmap takes three times as long.
        slots: Ints = np.memmap(self.buckets.slots, np.int64, mode="r+").view(np.ndarray)
        for documents in self._documents(num_parts, part):
            # An interrupted run may have filled some of these buckets.
            places = np.asarray(self.buckets.places[:, documents])
            slots[places[places > 0] + 1] = 0
        self._remembered.clear()
        self._bytes = 0
        for documents in self._documents(num_parts, part):
            places = np.asarray(self.buckets.places[:, documents])
            for document, column in zip(documents.tolist(), places.T, strict=True):
                own = column[column > 0].tolist()
                if copy := self._original(document, own, slots):
                    found.append((document, *copy))
                    continue
                for place in own:
                    room, count = slots[place : place + 2].tolist()
                    if count < room:
                        slots[place + 2 + count] = document
                        slots[place + 1] = count + 1
        with complete_file(result) as file:
            np.save(file, np.array(found, COPY), allow_pickle=False)
        return result

    def _documents(self, num_parts: int, part: int) -> Iterator[Ints]:
        """The documents of a part, in order, in chunks: all that are connected to one of them."""
        for start in range(0, len(self.buckets.labels), CHUNK):
            end = start + CHUNK
            labels = np.asarray(self.buckets.labels[start:end]).astype(np.uint64)
            mine = mix(labels) % np.uint64(num_parts) == part
            yield np.flatnonzero(mine & self.buckets.shared[start:end]) + start

    def _original(self, document: int, places: list[int], slots: Ints) -> tuple[int, float] | None:
        """The kept document that one is a copy of, and their similarity; None: of none."""
        groups = [slots[p + 2 : p + 2 + int(slots[p + 1])] for p in places if slots[p + 1]]
        if not groups:
            return None
        kept, common = np.unique(np.concatenate(groups), return_counts=True)
        likely = kept[np.lexsort((kept, -common))][: self.comparisons].tolist()
        mine = self.minhash.shingles(self.text(document))
        edited = 0
        for one in likely:
            theirs = self._shingles(one)
            sizes = sorted((len(mine), len(theirs)))
            if sizes[0] < EDITED_LEAST * self.threshold * sizes[1]:
                continue
            similarity = jaccard(mine, theirs)
            contained = round(similarity * sizes[1]) == sizes[0]
            if similarity < EDITED_LEAST * self.threshold or (sizes[1] < SHORT and not contained):
                continue
            if similarity < self.threshold:
                edited += 1
                if edited > MOST_EDITED or not self._is_edited(document, one):
                    continue
            if similarity == 1 or self._said(document, one):
                return one, similarity
        return None

    def _is_edited(self, document: int, kept: int) -> bool:
        """True if two texts have nearly all of their tokens in the same order, and of their digits.

        In pages of one template it is numbers that differ.
        """
        texts = self.text(document), self.text(kept)
        first, second = map(self.minhash.tokens, texts)
        shorter, longer = sorted((len(first), len(second)))
        if longer > MOST_TOKENS or shorter < IN_ORDER * longer:
            return False
        digits = [np.array([ord(c) for c in text if c.isdigit()], np.uint64) for text in texts]
        if max(map(len, digits)) and common_in_order(*digits) < DIGITS_IN_ORDER:
            return False
        return common_in_order(first, second) >= IN_ORDER

    def _said(self, document: int, kept: int) -> bool:
        """True if two pages that are alike are so without their boilerplate, too."""
        left = without_boilerplate(self.text(document), self.text(kept))
        if left is None or not any(map(str.strip, left)):
            return True
        return jaccard(*map(self.minhash.shingles, left)) >= SAID_LEAST * self.threshold

    def _shingles(self, document: int) -> Shingles:
        """Shingles of a kept document, of which the last ones used are remembered."""
        shingles = self._remembered.pop(document, None)
        if shingles is None:
            shingles = self.minhash.shingles(self.text(document))
            self._bytes += shingles.nbytes
            while self._remembered and self._bytes > CACHE_BYTES:
                self._bytes -= self._remembered.popitem(last=False)[1].nbytes
        self._remembered[document] = shingles
        return shingles
