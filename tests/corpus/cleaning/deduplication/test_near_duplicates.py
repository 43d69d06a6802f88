"""Clusters of near-duplicates, compared with Data-Juicer's own operator."""

from random import Random

import datasets
import numpy as np
import pytest
from data_juicer.ops.deduplicator.document_simhash_deduplicator import DocumentSimhashDeduplicator
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.cleaning.deduplication import near_duplicates


def kept_by_the_library(hashes: list[int], num_blocks: int, distance: int) -> list[int]:
    """Positions that Data-Juicer's own operator keeps."""
    operator = DocumentSimhashDeduplicator(num_blocks=num_blocks, hamming_distance=distance)
    rows = {"__dj__simhash": [str(h) for h in hashes], "row": list(range(len(hashes)))}
    unique, _ = operator.process(datasets.Dataset.from_dict(rows))
    return list(unique["row"])


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 120),
    bounds=st.sampled_from([(6, 4), (8, 6), (5, 1), (12, 10)]),
    piece=st.sampled_from([7, 64, 1 << 20]),
)
def test_clusters_are_the_librarys(
    seed: int,
    count: int,
    bounds: tuple[int, int],
    piece: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    random = Random(seed)
    base = [random.getrandbits(64) for _ in range(max(1, count // 4))]
    hashes = []
    for _ in range(count):
        value = random.choice(base)
        for bit in random.sample(range(64), random.randrange(0, 7)):
            value ^= 1 << bit
        hashes.append(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "best_num_blocks", lambda count, distance: bounds[0])
        # Many slices and chunks, as if the corpus did not fit into memory.
        patch.setattr(near_duplicates, "SLICE", piece)
        patch.setattr(near_duplicates, "CHUNK", piece)
        labels = near_duplicates.near_clusters(
            np.array(hashes, np.uint64), bounds[1], tmp_path_factory.mktemp("near")
        )
    kept = [i for i, label in enumerate(labels.tolist()) if label == i]
    assert kept == (kept_by_the_library(hashes, *bounds) if count else [])


@pytest.mark.parametrize("distance", [1, 4, 6, 10])
def test_more_hashes_want_more_blocks(distance: int) -> None:
    chosen = [near_duplicates.best_num_blocks(10**n, distance) for n in range(2, 10)]
    assert chosen == sorted(chosen)
    assert distance < chosen[0] <= chosen[-1] <= near_duplicates.MOST_BLOCKS
    assert distance == 1 or chosen[0] < chosen[-1]
