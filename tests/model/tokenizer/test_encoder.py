import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.tokenizer.encoder import Encoded, joined

TEXTS = st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=8)


def batch(texts: list[list[int]]) -> Encoded:
    return joined([np.asarray(ids, dtype=np.uint32) for ids in texts])


def plain(found: Encoded) -> list[list[int]]:
    return [found[number].tolist() for number in range(found.num_texts)]


@given(TEXTS)
def test_every_text_gets_its_end(texts: list[list[int]]) -> None:
    assert plain(batch(texts)) == texts
    ended = batch(texts).with_end(9)
    assert plain(ended) == [[*ids, 9] for ids in texts]
    assert ended.ids.dtype == np.uint32


@given(TEXTS, st.data())
def test_the_first_difference_is_found(texts: list[list[int]], data: st.DataObject) -> None:
    other = [list(ids) for ids in texts]
    for ids in other:
        if data.draw(st.booleans()):
            change = data.draw(st.sampled_from(["longer", "other", "shorter"]))
            if change == "longer" or not ids:
                ids.append(0)
            elif change == "other":
                ids[-1] += 1
            else:
                ids.pop()
    unequal = [i for i, (a, b) in enumerate(zip(texts, other, strict=True)) if a != b]
    expected = unequal[0] if unequal else None
    assert batch(texts).first_difference(batch(other)) == expected
