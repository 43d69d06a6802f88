"""The index of the real benchmarks, made once for all tests that need it."""

from pathlib import Path

import pytest

from corpus.decontaminate import Index, build_index
from tests.corpus.decontaminate.planted import CONFIG


@pytest.fixture(scope="session")
def real_index(shared: Path) -> Index:
    return build_index(shared / "data" / "eval", ("ceval", "cmmlu", "mmlu"), CONFIG)
