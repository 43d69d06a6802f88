import hashlib
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.permutation import NUM_ROUNDS, Permutation

WORD = 1 << 64
EACH = 50
"""Expected number of occurrences of each permutation."""


def reference(n: int, key: tuple[str | int, ...], x: int) -> int:
    """The module's docstring in Python's unbounded integers, one number at a time."""
    a = next(a for a in range(4, n + 5) if a * a >= n)
    b = max(4, math.ceil(n / a))
    digest = hashlib.blake2b(repr(("feistel", 1, n, *key)).encode(), digest_size=64).digest()
    keys = [int.from_bytes(digest[8 * r : 8 * r + 8], "little") for r in range(NUM_ROUNDS)]

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
        return z ^ (z >> 31)

    while True:
        left, right = divmod(x, b)
        for r in range(NUM_ROUNDS):
            if r % 2 == 0:
                left = (left + mix(right ^ keys[r])) % a
            else:
                right = (right + mix(left ^ keys[r])) % b
        x = left * b + right
        if x < n:
            return x


@settings(deadline=None)
@given(n=st.integers(0, 3000), seed=st.integers())
def test_is_a_bijection_with_its_inverse(n: int, seed: int) -> None:
    permutation = Permutation(n, "test", seed)
    places = permutation(np.arange(n))
    assert sorted(places.tolist()) == list(range(n))
    assert permutation.inverse(places).tolist() == list(range(n))


@settings(deadline=None)
@given(n=st.integers(1, (1 << 62) - 1), seed=st.integers(), data=st.data())
def test_huge_domains_round_trip(n: int, seed: int, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20))
    permutation = Permutation(n, seed)
    places = permutation(numbers)
    assert places.min() >= 0 and places.max() < n
    assert permutation.inverse(places).tolist() == numbers


@settings(deadline=None)
@given(n=st.integers(1, 500), seed=st.integers(-5, 5))
def test_agrees_with_the_formula_in_plain_integers(n: int, seed: int) -> None:
    places = Permutation(n, "a", seed)(np.arange(n))
    assert places.tolist() == [reference(n, ("a", seed), x) for x in range(n)]


def test_never_changes() -> None:
    """Checkpoints rely on it: whoever changes this changes the order of every run."""
    assert Permutation(10, "order", 7)(np.arange(10)).tolist() == [2, 0, 6, 1, 3, 8, 5, 9, 7, 4]


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_every_permutation_of_a_tiny_domain_is_about_equally_likely(n: int) -> None:
    keys = EACH * math.factorial(n)
    counts = Counter(tuple(Permutation(n, k)(np.arange(n)).tolist()) for k in range(keys))
    assert len(counts) == math.factorial(n)
    chi_square = sum((c - EACH) ** 2 / EACH for c in counts.values())
    degrees = math.factorial(n) - 1
    assert chi_square < degrees + 5 * math.sqrt(2 * degrees)


def test_neighbours_are_scattered() -> None:
    n = 100_000
    places = Permutation(n, "scatter")(np.arange(n))
    # Lag-one rank correlation of a random order has standard deviation 1/sqrt(n) = 0.003.
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.015
    assert abs(np.corrcoef(places, np.arange(n))[0, 1]) < 0.015


def test_another_key_gives_another_order() -> None:
    numbers = np.arange(1000)
    first, second = Permutation(1000, "a", 1)(numbers), Permutation(1000, "a", 2)(numbers)
    assert np.count_nonzero(first == second) < 10


def test_refuses_numbers_outside_the_domain() -> None:
    with pytest.raises(AssertionError, match="domain"):
        Permutation(10)([10])
    with pytest.raises(AssertionError, match="domain"):
        Permutation(10)([-1])
