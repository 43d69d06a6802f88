"""The stage itself, twice in one store: of a new commit of a hub, and after `steel gc`."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants as hub_constants

from tasks.acquire import AcquireConfig, acquire
from tasks.core.results.unneeded import remove, unneeded
from tasks.core.stage import Context
from tasks.core.store import verify
from tasks.core.tracking import Tracker
from tests.corpus.sources.fake_hub import COMMIT, Hub, serving

OLD, CHANGED, NEW = (b'{"text": "%s"}\n' % word * 50 for word in (b"old", b"changed", b"new"))
OTHER = "d" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    commits = {
        COMMIT: {"data/a.jsonl": OLD, "data/b.jsonl": OLD + OLD},
        OTHER: {"data/a.jsonl": OLD, "data/b.jsonl": CHANGED, "data/c.jsonl": NEW},
    }
    with serving(Hub(commits=commits)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
        yield server


def test_a_new_commit_costs_what_is_new_and_outlives_the_old_one(hub: Hub, store: Path) -> None:
    def context() -> Context:
        tracker = Tracker(store=store, pipeline="test", pipeline_id="test")
        return Context(store=store, tracker=tracker, is_task=False)

    branch = AcquireConfig(kind="corpora", datasets={"skypile": "hub"})
    first = acquire(branch, context=context())
    hub.requests.clear()
    second = acquire(replace(branch, commits={"skypile": OTHER}), context=context())
    assert hub.downloads() == {"data/b.jsonl", "data/c.jsonl"}
    counts = second.manifest["counts"]
    assert (counts["files_taken_over"], counts["files_fetched"]) == (1, 2)
    assert counts["bytes_taken_over"] == len(OLD)
    record = json.loads((second.folder / "sources.json").read_text())
    assert record["skypile"].keys() == {"data/a.jsonl", "data/b.jsonl", "data/c.jsonl"}
    kept = (first.folder / "skypile/data/a.jsonl").stat()
    assert kept.st_nlink == 2
    for one in unneeded(store, [second.key], keep=0):
        remove(store, one)
    assert not first.folder.exists()
    rows, damaged = verify(store)
    assert [row["key"] for row in rows] == [second.key]
    assert damaged == []
