"""Clusters of equal and of nearly equal hashes, in memory that does not grow with the corpus.

    hashes [N], on disk ─▶ equal ones ─▶ pairs within `distance` bits ─▶ labels [N], on disk

`labels[i]` is the first document of i's cluster: i is kept if labels[i] == i. Clusters are the
connected components of "differ in at most `distance` of 64 bits", which is what Data-Juicer's
document_simhash_deduplicator finds (tested against it); that operator holds every hash of the
corpus in Python objects, about a kilobyte each.

Pairs are found by pigeonhole (Manku et al. 2007, Detecting Near-Duplicates for Web Crawling,
section 3): cut 64 bits into blocks; two hashes that differ in at most `distance` bits agree on all
but `distance` blocks. For each choice of that many blocks, hashes that agree on them are sorted
together and compared. A choice is worked through in slices of about `SLICE` hashes, each read from
disk in chunks. The number of blocks changes the time this takes, never what is found: more hashes
want more blocks, because fewer strangers then agree by chance.
"""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

SLICE = 1 << 21
"""Hashes worked on at once: about 100 MB with keys and positions."""
CHUNK = 1 << 20
"""Hashes or pairs read from disk at once."""

BITS = 64
MOST_BLOCKS = 16
"""Blocks of 4 bits: more would be more choices than a corpus has documents."""
_MIX = np.uint64(0x9E3779B97F4A7C15)

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]


def near_clusters(hashes: Hashes, distance: int, scratch: Path) -> Ints:
    """Label every hash with the first one of its cluster.

    Args:
        hashes: 64-bit hashes in the documents' order; may be memory-mapped. Shape [N].
        distance: hashes that differ in at most so many bits are near.
        scratch: folder for `labels` and the pairs that were found.

    Returns:
        Labels, memory-mapped. Shape [N].
    """
    assert 0 < distance < MOST_BLOCKS, distance
    num_blocks = best_num_blocks(len(hashes), distance)
    # Equal hashes first: a page that was copied a million times makes a million pairs with its
    # first copy instead of 10^12 with one another.
    labels = equal_clusters(hashes, scratch)
    pairs = scratch / "pairs"
    with pairs.open("wb") as file:
        for mask in _masks(num_blocks, num_blocks - distance):
            for at in slices(hashes, mask, labels):
                for first, second in _near(hashes[at], at, mask, distance):
                    np.stack([first, second], axis=1).tofile(file)
    connect(labels, pairs)
    return labels


def best_num_blocks(num_hashes: int, distance: int) -> int:
    """The number of blocks for which sorting and comparing together take least."""

    def cost(num_blocks: int) -> float:
        kept_bits = BITS * (num_blocks - distance) / num_blocks
        sorting = num_hashes * math.log2(num_hashes + 2)
        comparing = num_hashes**2 / 2 ** (kept_bits + 1)
        return math.comb(num_blocks, distance) * (sorting + comparing)

    return min(range(distance + 1, MOST_BLOCKS + 1), key=cost)


def equal_clusters(hashes: Hashes, scratch: Path) -> Ints:
    """Label every hash with the first one that equals it. Shapes as in `near_clusters`."""
    scratch.mkdir(parents=True, exist_ok=True)
    labels = own_labels(len(hashes), scratch)
    for at, found in _equal(hashes):
        labels[at] = found
    return labels


def distance_between(first: Hashes, second: Hashes) -> npt.NDArray[np.uint8]:
    """Bits in which hashes differ. Shapes [N], [N] -> [N]."""
    bits: npt.NDArray[np.uint8] = np.bitwise_count(first ^ second)
    return bits


def own_labels(length: int, scratch: Path) -> Ints:
    """Labels on disk by which every document is a cluster of its own. Shape [length]."""
    path = scratch / "labels"
    if not length:
        return np.zeros(0, np.int64)
    labels = np.memmap(path, np.int64, mode="w+", shape=(length,))
    for start in range(0, length, CHUNK):
        labels[start : start + CHUNK] = np.arange(start, min(start + CHUNK, length))
    return labels


def _masks(num_blocks: int, num_kept: int) -> Iterator[np.uint64]:
    """Every choice of blocks, as the bits that they cover."""
    edges = [round(BITS * i / num_blocks) for i in range(num_blocks + 1)]
    blocks = [((1 << b) - 1) ^ ((1 << a) - 1) for a, b in itertools.pairwise(edges)]
    for chosen in itertools.combinations(blocks, num_kept):
        yield np.uint64(sum(chosen))


def slices(hashes: Hashes, mask: np.uint64, labels: Ints | None = None) -> Iterator[Ints]:
    """Positions of hashes in slices; hashes that agree under the mask are in the same slice.

    With labels, only of hashes that are the first of their kind.
    """
    length = len(hashes)
    count = -(-length // SLICE)
    for number in range(count):
        found = []
        for start in range(0, length, CHUNK):
            chunk = np.asarray(hashes[start : start + CHUNK])
            wanted = np.ones(len(chunk), bool)
            if count > 1:
                mixed = ((chunk & mask) * _MIX) >> np.uint64(32)
                wanted = mixed % np.uint64(count) == number
            if labels is not None:
                own = np.arange(start, start + len(chunk))
                wanted &= np.asarray(labels[start : start + CHUNK]) == own
            found.append(np.flatnonzero(wanted) + start)
        yield np.concatenate(found)


def _equal(hashes: Hashes) -> Iterator[tuple[Ints, Ints]]:
    """(positions, for each the first position that has the same hash)."""
    for at in slices(hashes, np.uint64(2**64 - 1)):
        _, first, inverse = np.unique(hashes[at], return_index=True, return_inverse=True)
        yield at, at[first[inverse]]


def _near(values: Hashes, at: Ints, mask: np.uint64, distance: int) -> Iterator[tuple[Ints, Ints]]:
    """Positions of pairs of hashes that agree under the mask and are within the distance."""
    keys = values & mask
    order = np.argsort(keys, kind="stable")
    keys, values, at = keys[order], values[order], at[order]
    # Compare each hash with the next one, the one after, … as long as they agree under the mask.
    left = np.arange(len(keys))
    for step in itertools.count(1):
        left = left[left + step < len(keys)]
        left = left[keys[left] == keys[left + step]]
        if not len(left):
            return
        near = left[distance_between(values[left], values[left + step]) <= distance]
        if len(near):
            yield at[near], at[near + step]


def connect(labels: Ints, pairs: Path) -> None:
    """Give every member of a component its smallest position, by hooking and pointer jumping."""
    num_pairs = pairs.stat().st_size // 16
    edges = (
        np.memmap(pairs, np.int64, mode="r", shape=(num_pairs, 2))
        if num_pairs
        else np.zeros((0, 2), np.int64)
    )
    changed = True
    while changed:
        changed = False
        for start in range(0, num_pairs, CHUNK):
            first, second = np.asarray(edges[start : start + CHUNK]).T
            a, b = labels[first], labels[second]
            differ = a != b
            if differ.any():
                changed = True
                low, high = np.minimum(a, b)[differ], np.maximum(a, b)[differ]
                np.minimum.at(labels, high, low)
        _jump(labels)


def _jump(labels: Ints) -> None:
    """Replace every label by its label's label, until nothing changes."""
    changed = True
    while changed:
        changed = False
        for start in range(0, len(labels), CHUNK):
            here = np.asarray(labels[start : start + CHUNK])
            there = labels[here]
            if (there != here).any():
                changed = True
                labels[start : start + CHUNK] = there
