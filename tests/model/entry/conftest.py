"""Packed data for entries that train; the helpers are those of tests/model/train."""

from pathlib import Path

import pytest

from tests.model.train import ranks


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the stage `pack` leaves it."""
    return ranks.write_packed(tmp_path_factory.mktemp("packed"))
