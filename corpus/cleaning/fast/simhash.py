"""SimHash of character shingles, as document_simhash_deduplicator computes it, but many at once.

    text ─▶ shingles of `window` characters ─▶ 64 bits of each one's MD5 ─▶ majority, bit by bit

The library hashes one shingle after the other, in Python: most of the time that cleaning takes.
Here all shingles of a batch go through MD5 together (RFC 1321, section 3.4), a numpy operation at
a time. The same bits come out (tested); an MD5 of at most 55 bytes is one block.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MAX_WINDOW = 13
"""Characters whose UTF-8 is at most 52 bytes: one MD5 block."""
PIECE = 1 << 14
"""Shingles hashed at once: their state stays in a core's cache."""

Words = npt.NDArray[np.uint32]

_SHIFTS = np.array([7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10, 15, 21]).reshape(4, 4)
_SINES = (np.abs(np.sin(np.arange(1, 65))) * 2**32).astype(np.uint64).astype(np.uint32)
_START = [np.uint32(v) for v in (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)]


def simhashes(texts: Sequence[str], window: int) -> npt.NDArray[np.uint64]:
    """The SimHash of each text; 0 for one that is shorter than the window. Shape [len(texts)]."""
    assert 1 <= window <= MAX_WINDOW, window
    counts = np.array([max(0, len(text) - window + 1) for text in texts], np.int64)
    votes = np.zeros((len(texts), 64), np.int64)
    owners = np.repeat(np.arange(len(texts)), counts)
    data, starts, ends = _shingles(texts, window, counts)
    for at in range(0, len(starts), PIECE):
        hashes = _md5(data, starts[at : at + PIECE], ends[at : at + PIECE])
        _count(hashes, owners[at : at + PIECE], votes)
    # A bit is set where more shingles have it than have it not.
    majority = np.packbits(votes * 2 > counts[:, None], axis=1)
    return majority.view(">u8").ravel().astype(np.uint64)


LANES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).view(np.uint64).ravel()
"""A byte's 8 bits in 8 bytes of one word: adding words counts all bits at once, up to 255."""


def _count(
    hashes: npt.NDArray[np.uint8], owners: npt.NDArray[np.int64], votes: npt.NDArray[np.int64]
) -> None:
    """Add each hash's bits to its text's votes. Shapes [N, 8], [N], [texts, 64]."""
    begins = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
    sizes = np.diff(np.append(begins, len(owners)))
    groups = -(-sizes // 255)
    inner = np.arange(groups.sum()) - np.repeat(np.cumsum(groups) - groups, groups)
    first = np.repeat(begins, groups) + 255 * inner
    sums = np.add.reduceat(LANES[hashes], first, axis=0).view(np.uint8)
    np.add.at(votes, owners[first], sums.astype(np.int64))


def _shingles(
    texts: Sequence[str], window: int, counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All texts' bytes, and where in them each shingle begins and ends."""
    data = np.frombuffer("".join(texts).encode("utf-8", "surrogatepass") + b"\0" * 64, np.uint8)
    # Every byte that is no continuation begins a character.
    begins = np.flatnonzero((data[: len(data) - 64] & 0xC0) != 0x80)
    edges = np.append(begins, len(data) - 64)
    lengths = np.array([len(text) for text in texts], np.int64)
    offsets = np.cumsum(lengths) - lengths
    first = np.repeat(offsets - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
    return data, edges[first], edges[first + window]


def _md5(
    data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """The first 8 bytes of each shingle's MD5. Shape [N, 8]."""
    length = ends - starts
    longest = int(length.max(initial=0))
    block = np.zeros((len(starts), 64), np.uint8)
    columns = np.arange(longest)
    inside = columns < length[:, None]
    block[:, :longest] = np.where(inside, data[starts[:, None] + columns], 0)
    block[np.arange(len(starts)), length] = 0x80
    bits = (8 * length).astype(np.uint32)
    block[:, 56:60] = bits[:, None].view(np.uint8)
    words = np.ascontiguousarray(block.view("<u4").T)
    # Words past the longest shingle are 0 for all of them, but for the one that holds the length.
    used = [w if w <= longest // 4 or w == 14 else None for w in range(16)]
    return _rounds([None if w is None else words[w] for w in used], len(starts))


def _rounds(words: list[Words | None], count: int) -> npt.NDArray[np.uint8]:
    """All 64 steps. Everything happens in place: fresh arrays would cost more than arithmetic."""
    a, b, c, d = (np.full(count, value, np.uint32) for value in _START)
    mixed, spare = np.empty(count, np.uint32), np.empty(count, np.uint32)
    for step in range(64):
        turn, within = divmod(step, 16)
        if turn == 0:  # d ^ (b & (c ^ d))
            np.bitwise_xor(c, d, out=mixed)
            mixed &= b
            mixed ^= d
            word = within
        elif turn == 1:  # c ^ (d & (b ^ c))
            np.bitwise_xor(b, c, out=mixed)
            mixed &= d
            mixed ^= c
            word = (5 * within + 1) % 16
        elif turn == 2:  # b ^ c ^ d
            np.bitwise_xor(b, c, out=mixed)
            mixed ^= d
            word = (3 * within + 5) % 16
        else:  # c ^ (b | ~d)
            np.bitwise_not(d, out=mixed)
            mixed |= b
            mixed ^= c
            word = (7 * within) % 16
        a += mixed
        a += _SINES[step]
        if (given := words[word]) is not None:
            a += given
        shift = int(_SHIFTS[turn, step % 4])
        np.right_shift(a, np.uint32(32 - shift), out=spare)
        np.left_shift(a, np.uint32(shift), out=a)
        a |= spare
        a += b
        a, b, c, d = d, a, b, c
    result = np.empty((count, 2), "<u4")
    result[:, 0], result[:, 1] = a + _START[0], b + _START[1]
    return result.view(np.uint8)
