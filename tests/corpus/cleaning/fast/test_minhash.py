"""MinHash: shingles as the library counts them, keys that agree as often as theory says."""

import multiprocessing
import random

import numpy as np
import pytest
import regex
from data_juicer.ops.deduplicator.document_minhash_deduplicator import DocumentMinhashDeduplicator
from hypothesis import given
from hypothesis import strategies as st

from corpus.cleaning.fast.minhash import MinHash, _ignored_characters, jaccard
from tests.processes import PATIENCE_SECONDS

OPERATOR = DocumentMinhashDeduplicator(
    tokenization="character",
    window_size=5,
    ignore_pattern=r"[\W_]",
    num_permutations=256,
    jaccard_threshold=0.7,
    num_bands=25,
    num_rows_per_band=10,
)


def sets(text: str, operator: DocumentMinhashDeduplicator) -> set[object]:
    """The library's shingles of a text, one way to write each down."""
    seen = text.lower() if operator.lowercase else text
    if operator.ignore_pattern:
        seen = operator.ignore_pattern.sub("", seen)
    tokens: object = seen
    if operator.tokenization == "space":
        tokens = seen.split()
    elif operator.tokenization == "punctuation":
        tokens = operator.punctuation_pattern.split(seen)
    assert isinstance(tokens, str | list)
    size = operator.window_size
    return {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}


@pytest.mark.parametrize("tokenization", ["character", "space", "punctuation"])
@pytest.mark.parametrize("ignored", [None, r"[\W_]", r"\p{P}", "(?<=a)b+", r"[^\w]"])
@given(texts=st.lists(st.text("aAbB甲乙，。 _\n1𠀀", max_size=60), min_size=2, max_size=2))
def test_similarity_is_that_of_the_librarys_shingles(
    tokenization: str, ignored: str | None, texts: list[str]
) -> None:
    operator = DocumentMinhashDeduplicator(
        tokenization=tokenization,
        window_size=2,
        ignore_pattern=ignored,
        num_permutations=4,
        num_bands=2,
        num_rows_per_band=2,
    )
    minhash = MinHash(operator)
    first, second = (sets(text, operator) for text in texts)
    found = [minhash.shingles(text) for text in texts]
    if first and second:
        assert list(map(len, found)) == [len(first), len(second)]
        assert jaccard(*found) == len(first & second) / len(first | second)
    assert jaccard(found[0], found[0]) == 1


def test_short_texts_and_texts_of_ignored_characters_are_themselves() -> None:
    minhash = MinHash(OPERATOR)
    texts = ["", "！", "？", "甲", "甲！", "乙", "甲乙丙", "\ud800"]
    similar = {
        (a, b)
        for a in texts
        for b in texts
        if a < b and jaccard(minhash.shingles(a), minhash.shingles(b))
    }
    assert similar == {("甲", "甲！")}
    keys = minhash.band_keys(texts)
    assert (keys[3] == keys[4]).all()
    assert len(np.unique(keys[:, 0])) == len(texts) - 1


def test_keys_agree_as_often_as_the_similarity_says() -> None:
    rng = random.Random(0)
    minhash = MinHash(OPERATOR)
    for rate in (0.01, 0.03):
        agreed, expected = [], []
        for _ in range(40):
            text = [chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(rng.choice((80, 300, 2000)))]
            copy = [chr(rng.randrange(0x4E00, 0x9FA5)) if rng.random() < rate else c for c in text]
            pair = ["".join(text), "".join(copy)]
            similarity = jaccard(*map(minhash.shingles, pair))
            expected.append(similarity**minhash.rows)
            first, second = minhash.band_keys(pair)
            agreed.append(float((first == second).mean()))
        # 40 pairs of 25 bands: a standard error of 0.015 and what bands of one pair share.
        assert np.mean(agreed) == pytest.approx(np.mean(expected), abs=0.08)


def test_keys_do_not_depend_on_the_batch_and_stay_the_same() -> None:
    minhash = MinHash(OPERATOR)
    texts = [
        "山高水长风和日丽" * 9,
        "春暖花开",
        "",
        "def main(): return 0",
        "鸟语花香清风徐来" * 400,
    ]
    keys = minhash.band_keys(texts)
    assert keys.shape == (5, OPERATOR.num_bands)
    for text, own in zip(texts, keys, strict=True):
        assert (minhash.band_keys([text])[0] == own).all()
    assert minhash.band_keys([]).shape == (0, OPERATOR.num_bands)
    # Another version of rensa may count otherwise. A stage that was interrupted then has to begin
    # again: note it in the change log.
    assert [hex(value) for value in keys[:, 0].tolist()] == GOLDEN


GOLDEN = [
    "0x8f6c1c44e623ea4d",
    "0xdbeff7d2d4e08bf5",
    "0xbe9c7d4cbc323b7b",
    "0x6b8804b25c5852e5",
    "0x448ef31589ba6801",
]


def _keys_in_child(texts: list[str]) -> list[list[int]]:
    keys: list[list[int]] = MinHash(OPERATOR).band_keys(texts).tolist()
    return keys


def test_a_forked_worker_goes_on_where_its_parent_has_used_the_library() -> None:
    texts = ["山高水长风和日丽" * 900] * 40
    own = _keys_in_child(texts)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map_async(_keys_in_child, [texts, texts]).get(timeout=PATIENCE_SECONDS)
    assert found == [own, own]


@pytest.mark.parametrize("pattern", [r"[\W_]", r"\p{P}", r"[\p{P}\s]", r"\d", "[abc]"])
def test_characters_are_looked_up_as_the_pattern_matches_them(pattern: str) -> None:
    table = _ignored_characters(pattern)
    assert table is not None
    text = "".join(map(chr, range(0x3000))) + "，。𠀀😀_ abc"
    kept = "".join(c for c in text if not table[ord(c)])
    assert kept == regex.sub(pattern, "", text)


@pytest.mark.parametrize(
    "pattern", ["ab", "a+", "[^a]", "(?i)[a]", r"\b", "^.", "[a-z]", "[[a]--b]"]
)
def test_patterns_of_more_than_a_character_are_left_to_the_library(pattern: str) -> None:
    assert _ignored_characters(pattern) is None
