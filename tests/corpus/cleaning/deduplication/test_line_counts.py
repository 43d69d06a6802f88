"""Lines are counted on disk as they would be in memory."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.cleaning.deduplication import repeated_lines
from corpus.cleaning.deduplication.repeated_lines import LINES, count_repeated, lines_among

HASHES = st.lists(
    st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-3, 3)), max_size=8, unique=True
)


def tables(folder: Path, parts: list[list[list[int]]]) -> list[Path]:
    paths = []
    for number, part in enumerate(parts):
        paths.append(folder / f"{number}.parquet")
        pq.write_table(pa.table({LINES: pa.array(part, pa.list_(pa.int64()))}), paths[-1])
    return paths


@settings(max_examples=40)
@given(
    parts=st.lists(st.lists(HASHES, max_size=6), min_size=1, max_size=4),
    least=st.integers(2, 4),
    left_out=st.sets(st.integers(0, 20)),
    per_file=st.sampled_from([2, 1 << 22]),
)
def test_counts_are_those_of_a_dictionary(
    parts: list[list[list[int]]],
    least: int,
    left_out: set[int],
    per_file: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    documents = [hashes for part in parts for hashes in part]
    rows = [i for i in range(len(documents)) if i not in left_out]
    files = tables(folder, parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeated_lines, "PER_FILE", per_file)
        given_rows = None if len(rows) == len(documents) else np.array(rows, np.int64)
        count_repeated(files, given_rows, least, folder / "scratch", folder / "repeated")
    counts = Counter(value for i in rows for value in documents[i])
    wanted = sorted(value for value, count in counts.items() if count >= least)
    repeated = np.fromfile(folder / "repeated", np.int64)
    assert repeated.tolist() == wanted
    assert not (folder / "scratch").exists()
    found = [one for file in files for one in lines_among(file, repeated)]
    assert found == [frozenset(hashes) & frozenset(wanted) for hashes in documents]


def test_many_hashes_in_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated_lines, "PER_FILE", 300)
    rng = random.Random(0)
    often = [rng.getrandbits(64) - 2**63 for _ in range(50)]
    parts = [
        [
            sorted({rng.getrandbits(64) - 2**63 for _ in range(5)} | set(rng.sample(often, 3)))
            for _ in range(40)
        ]
        for _ in range(10)
    ]
    count_repeated(tables(tmp_path, parts), None, 3, tmp_path / "scratch", tmp_path / "repeated")
    assert set(np.fromfile(tmp_path / "repeated", np.int64).tolist()) == set(often)
