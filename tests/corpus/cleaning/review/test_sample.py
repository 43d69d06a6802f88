"""The random sample: the same for any partitions, and as likely to hold the last as the first."""

import itertools
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from corpus.cleaning.review.sample import LONGEST, Sample, excerpts


def example(number: int, *, position: int = 1, source: str = "s") -> dict[str, Any]:
    return {
        "position": position,
        "operator": f"o{position}",
        "source": source,
        "id": f"{source}/{number}",
        "before": str(number),
    }


@given(
    numbers=st.lists(st.integers(0, 60), unique=True),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    most=st.integers(0, 4),
)
def test_partitions_make_no_difference(numbers: list[int], cuts: list[int], most: int) -> None:
    whole = Sample(most=most)
    for number in numbers:
        whole.add("dropped", example(number))
    together = Sample(most=most)
    edges = [0, *sorted(min(c, len(numbers)) for c in cuts), len(numbers)]
    parts = [numbers[a:b] for a, b in itertools.pairwise(edges)]
    for part in reversed(parts):
        one = Sample(most=most)
        for number in reversed(part):
            one.add("dropped", example(number))
        together.take(one.as_json())
    assert together.as_json() == whole.as_json()
    assert len(whole.as_json()["dropped"]) == min(most, len(numbers))


def test_every_document_is_as_likely() -> None:
    """Of 1,000 sources with 20 documents each, every place is taken about 1,000 * 3 / 20 times."""
    sample = Sample(most=3)
    for source in range(1000):
        for number in range(20):
            sample.add("changed", example(number, source=f"s{source}"))
    taken = Counter(int(row["before"]) for row in sample.as_json()["changed"])
    assert set(taken) == set(range(20))
    assert all(100 <= count <= 200 for count in taken.values()), taken


def test_operators_and_sources_have_samples_of_their_own() -> None:
    sample = Sample(most=2)
    for number in range(30):
        for position in (1, 2):
            for source in "st":
                sample.add("dropped", example(number, position=position, source=source))
    rows = sample.as_json()["dropped"]
    assert Counter((r["position"], r["source"]) for r in rows) == dict.fromkeys(
        [(1, "s"), (1, "t"), (2, "s"), (2, "t")], 2
    )
    assert {r["id"] for r in rows if r["position"] == 1} != {
        r["id"] for r in rows if r["position"] == 2
    }


def test_texts_are_of_bounded_length() -> None:
    sample = Sample(most=1)
    sample.add("changed", example(1) | {"before": "长" * (LONGEST + 1), "after": "短"})
    (row,) = sample.as_json()["changed"]
    assert len(row["before"]) == LONGEST
    assert row["cut"] is True and row["after"] == "短"


def test_excerpts_begin_shortly_before_the_change() -> None:
    before = "字" * 500 + "旧" + "尾" * 500
    shown = excerpts({"before": before, "after": before.replace("旧", "新")})
    assert shown["before"].startswith("字" * 20 + "旧尾")
    assert shown["after"].startswith("字" * 20 + "新尾")
