"""Groups of rows that begin alike: valid, and as good as computing worked examples once."""

from hypothesis import given
from hypothesis import strategies as st

from model.evaluate.forward import PADDING, batches
from model.evaluate.prefixes import GROUP_TOKENS, Row, prefix_groups

STEMS = [tuple(range(k)) for k in (0, 20, 40, 60)] + [(9, *range(70))]

rows_with_tails = st.lists(
    st.tuples(
        st.builds(lambda stem, rest: (*stem, *rest), st.sampled_from(STEMS), st.lists(
            st.integers(0, 3), min_size=1, max_size=6)),
        st.integers(1, 3),
    ),
    max_size=7,
    unique_by=lambda case: case[0],
)  # fmt: skip


@given(rows_with_tails)
def test_every_row_is_in_one_group_and_its_tail_in_no_prefix(cases: list[tuple[Row, int]]) -> None:
    cases = [(row, min(tail, len(row))) for row, tail in cases]
    rows, tails = [row for row, _ in cases], [tail for _, tail in cases]
    groups = prefix_groups(rows, tails)
    assert sorted(i for group in groups for i in group.rows) == list(range(len(rows)))
    for prefix, members in groups:
        assert all(rows[i][:prefix] == rows[members[0]][:prefix] for i in members)
        assert all(prefix <= len(rows[i]) - tails[i] for i in members)
        assert prefix == 0 or (len(members) - 1) * prefix > GROUP_TOKENS


@given(st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=9), min_size=2, unique_by=tuple))
def test_worked_examples_of_two_subjects_are_each_computed_once(ends: list[list[int]]) -> None:
    stems = [tuple(range(100, 200)), tuple(range(200, 400))]
    rows = [(*stem, *end) for stem in stems for end in ends]
    groups = prefix_groups(rows, [1] * len(rows))
    # Ends may begin alike, too; then more is shared, and a group may be of fewer rows.
    forwarded = sum(g.prefix + sum(len(rows[i]) - g.prefix for i in g.rows) for g in groups)
    assert forwarded <= 300 + GROUP_TOKENS * len(groups) + 2 * sum(map(len, ends))
    assert all(group.prefix >= 100 for group in groups)


def test_many_rows_of_every_length_are_grouped() -> None:
    rows = [tuple(range(k)) for k in range(1, 3000)]  # each the prefix of the next
    groups = prefix_groups(rows, [1] * len(rows))
    assert sorted(i for group in groups for i in group.rows) == list(range(len(rows)))


@given(st.lists(st.integers(1, 400)), st.integers(1, 9))
def test_batches_hold_every_row_once_and_little_padding(sizes: list[int], most: int) -> None:
    sizes = sorted(sizes, reverse=True)
    found = list(batches(sizes, most))
    assert [i for start, end in found for i in range(start, end)] == list(range(len(sizes)))
    for start, end in found:
        assert end - start <= most
        real = sum(sizes[start:end])
        assert (end - start) * sizes[start] <= (1 + PADDING) * real
