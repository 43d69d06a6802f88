"""A keyed pseudo-random permutation of [0, n) in O(1) memory, with its inverse.

A Feistel network shuffles pairs. With a * b >= n, a number x is the pair (left, right) = (x // b,
x % b), and each round adds to one half a keyed hash of the other:

    even rounds   left  := (left  + hash(key_r, right)) mod a
    odd rounds    right := (right + hash(key_r, left))  mod b

A round can be undone by subtracting the same hash, so the network permutes [0, a*b). Cycle walking
makes it a permutation of [0, n): while the result is n or more, apply the network again. a is about
the square root of n and a*b - n < a (beyond tiny n), so walking is rare: one number in sqrt(n).

Sources: Luby & Rackoff 1988 (Feistel networks are pseudo-random permutations); Black & Rogaway
2002, "Ciphers with Arbitrary Finite Domains" (unequal halves, cycle walking); the hash is the
finaliser of SplitMix64 (Steele, Lea & Flood 2014). It shuffles; it does not keep secrets.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

UInts = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

NUM_ROUNDS = 8
"""Four rounds suffice in theory for large halves; eight keep tiny domains well mixed as well."""

MIN_HALF = 4
"""Halves of two or three values mix badly: those of 5 things were uneven by 14 % (RMS)."""

_MAX = 1 << 62


class Permutation:
    """The permutation of [0, n) that belongs to a key.

    Args:
        n: size of the domain, 0 <= n < 2**62.
        *key: anything with a stable repr: strings and integers. Equal keys give equal permutations
            on every machine and in every version of Python or NumPy.
    """

    def __init__(self, n: int, *key: str | int) -> None:
        assert 0 <= n < _MAX
        assert all(isinstance(part, str | int) for part in key)
        self.n = n
        a = max(MIN_HALF, math.isqrt(max(n - 1, 0)) + 1)  # ceil(sqrt(n))
        b = max(MIN_HALF, -(-n // a))
        self._a, self._b = np.uint64(a), np.uint64(b)
        seed = hashlib.blake2b(repr(("feistel", 1, n, *key)).encode(), digest_size=NUM_ROUNDS * 8)
        self._keys: UInts = np.frombuffer(seed.digest(), dtype="<u8").astype(np.uint64)

    def __call__(self, x: npt.ArrayLike) -> Ints:
        """Map numbers [k], each in [0, n), to their places [k]."""
        return self._walk(x, self._forward)

    def inverse(self, y: npt.ArrayLike) -> Ints:
        """Map places [k] back: inverse(self(x)) == x."""
        return self._walk(y, self._backward)

    def _walk(self, x: npt.ArrayLike, step: Callable[[UInts], UInts]) -> Ints:
        start = np.atleast_1d(np.asarray(x, dtype=np.int64))
        assert start.ndim == 1
        assert start.size == 0 or (start.min() >= 0 and start.max() < self.n), "outside the domain"
        values = step(start.astype(np.uint64))
        limit = np.uint64(self.n)
        outside = np.flatnonzero(values >= limit)
        while outside.size:
            values[outside] = step(values[outside])
            outside = outside[values[outside] >= limit]
        return values.astype(np.int64)

    def _forward(self, x: UInts) -> UInts:
        left, right = x // self._b, x % self._b
        for r in range(NUM_ROUNDS):
            if r % 2 == 0:
                left = (left + _mix(right, self._keys[r]) % self._a) % self._a
            else:
                right = (right + _mix(left, self._keys[r]) % self._b) % self._b
        return left * self._b + right

    def _backward(self, y: UInts) -> UInts:
        left, right = y // self._b, y % self._b
        for r in reversed(range(NUM_ROUNDS)):
            if r % 2 == 0:
                left = (left + (self._a - _mix(right, self._keys[r]) % self._a)) % self._a
            else:
                right = (right + (self._b - _mix(left, self._keys[r]) % self._b)) % self._b
        return left * self._b + right


def _mix(x: UInts, key: np.uint64) -> UInts:
    """SplitMix64's finaliser of x XOR key, element by element, arithmetic modulo 2**64."""
    z = x ^ key
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
