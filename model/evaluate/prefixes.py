"""Rows of tokens that begin alike, in groups whose common beginning is computed once.

worked examples · question 1 ─┐               ┌─ question 1
worked examples · question 2 ─┼─▶ prefix, once ┼─ question 2
worked examples · question 3 ─┘               └─ question 3
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

Row = tuple[int, ...]
"""Token ids of one input."""

GROUP_TOKENS = 16
"""Tokens that a prefix must save: a forward pass of its own costs as much as some tokens."""


class Group(NamedTuple):
    """Rows that share a prefix."""

    prefix: int
    """Length of the prefix in tokens; 0 for rows that share none worth computing apart."""
    rows: list[int]
    """Numbers of the rows."""


def prefix_groups(rows: Sequence[Row], tails: Sequence[int]) -> list[Group]:
    """Group rows so that as few tokens as possible are forwarded, every prefix of a group once.

    tails: the last tokens of each row that must not be in a prefix, at least 1. Every row is in one
    group.
    """
    order = sorted(range(len(rows)), key=rows.__getitem__)
    free = [len(rows[i]) - tails[i] for i in order]
    shared = [
        min(_common(rows[a], rows[b]), free[k], free[k + 1])
        for k, (a, b) in enumerate(itertools.pairwise(order))
    ]
    # Neighbours are joined from the longest common prefix to the shortest: of two clusters either
    # both stay as they are, or all of their rows become one group.
    cluster = list(range(len(order)))  # at both ends of a cluster: its other end
    saved = [0] * len(order)  # tokens, at a cluster's first row
    groups: list[list[tuple[int, int, int]]] = [[(0, k, k)] for k in range(len(order))]
    for k in sorted(range(len(shared)), key=lambda k: -shared[k]):
        first, last = cluster[k], cluster[k + 1]
        apart = saved[first] + saved[k + 1]
        together = (last - first) * shared[k] - GROUP_TOKENS
        if together > apart:
            saved[first], groups[first] = together, [(shared[k], first, last)]
        else:
            saved[first], groups[first] = apart, groups[first] + groups[k + 1]
        cluster[first], cluster[last] = last, first
    found = [
        Group(prefix, order[begin : end + 1]) for prefix, begin, end in (groups[0] if rows else [])
    ]
    single = [group.rows[0] for group in found if not group.prefix]
    return [group for group in found if group.prefix] + ([Group(0, single)] if single else [])


def _common(one: Row, other: Row) -> int:
    """Length of the common prefix of two rows."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    return next(i for i in range(length) if one[i] != other[i])
