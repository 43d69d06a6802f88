"""A server with two files in a folder and a store, where a module has none of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from corpus.sources import retry
from tests.corpus.sources.acquired import A, B
from tests.corpus.sources.fake_web import Web, serving


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(retry, "PAUSE", 0.01)
    with serving(Web(files={"d/a.jsonl": A, "d/deep/b.jsonl": B})) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"
