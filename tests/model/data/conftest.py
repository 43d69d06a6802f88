"""Small packed data of two sources."""

from collections.abc import Callable
from pathlib import Path

import pytest

from model.data import PackedManifest

Pack = Callable[..., PackedManifest]


@pytest.fixture
def packed(tmp_path: Path, pack: Pack) -> PackedManifest:
    """Two sources, several shards; every token of the folder is another number."""
    ids = iter(range(1, 1000))
    documents = {
        source: [[next(ids) for _ in range(3 + number % 7)] for number in range(40)]
        for source in ("en", "zh")
    }
    return pack(tmp_path / "shards", documents)
