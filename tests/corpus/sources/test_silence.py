"""Servers that take connections and never say a word: a message within the stated wait."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import DataError
from corpus.recipes import HubSource
from corpus.sources import hub, remote, retry


@pytest.fixture
def black_hole(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[int]]]:
    """Its address, and the number of attempts made so far."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(retry, "PAUSE", 0.01)
    monkeypatch.setattr(remote, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    attempts: list[int] = []
    plain = retry.is_permanent
    monkeypatch.setattr(retry, "is_permanent", lambda e: attempts.append(1) or plain(e))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}", attempts


@pytest.mark.timeout(200)
def test_a_silent_hub(
    black_hole: tuple[str, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", black_hole[0])
    source = HubSource(repository="owner/name", files=("*.json",), revision="main")
    with pytest.raises(DataError, match=r"owner/name could not be downloaded: .*imed out"):
        hub.HubRepository(source, tmp_path, {})


@pytest.mark.timeout(200)
def test_a_silent_web_server(black_hole: tuple[str, list[int]], tmp_path: Path) -> None:
    url, attempts = black_hole
    with pytest.raises(DataError, match="cannot be listed"):
        remote.UrlSource(f"{url}/x.jsonl", tmp_path, {}).files()
    assert len(attempts) == 1, "the second silence is the last"
