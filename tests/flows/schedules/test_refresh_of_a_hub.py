"""A refresh whose corpus is on a hub: of a new commit it downloads the new file alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from corpus.sample_data import SampleDataConfig, write_dataset
from tests.corpus.sources.fake_hub import COMMIT, Hub, serving
from tests.flows.schedules.small_pipeline import write_config, write_corpora
from tests.flows.schedules.test_refresh import (
    WIKIPEDIA,
    answer,
    check_texts,
    journal,
    processes,
    stop,
    until,
)

# A training and two refreshes, each a cleaning of its own.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

OTHER = "d" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def test_the_new_file_of_a_commit_is_downloaded_and_joins_the_training(
    hub: Hub, tmp_path: Path
) -> None:
    corpora = write_corpora(tmp_path / "data")
    content = (tmp_path / "data" / "wikipedia_cn" / WIKIPEDIA).read_bytes()
    hub.commits[COMMIT] = {WIKIPEDIA: content}
    write_config(
        tmp_path / "c.yaml", {**corpora, "wikipedia_cn": "hub"}, steps=200_000, epochs=20_000
    )
    store = tmp_path / "store"
    with processes(tmp_path) as start:
        training = start("train")
        until(lambda: [*store.glob("pretrain/*.partial/checkpoints/step-*/*")], training)
        stop(training)
        (run,) = store.glob("pretrain/*.partial")
        assert hub.downloads() == {WIKIPEDIA}
        hub.requests.clear()
        unseen = SampleDataConfig(seed=99, scale=0.05)
        write_dataset("corpora", "wikipedia_cn", tmp_path / "more", unseen)
        new = (tmp_path / "more" / WIKIPEDIA).read_bytes()
        hub.commits[OTHER] = {WIKIPEDIA: content, "second.json": new}
        hub.branches["main"] = OTHER
        first = answer(start("refresh"))
        assert first["status"] == "requested"
        assert hub.downloads() == {"second.json"}
        manifest = json.loads((store / "acquire" / first["corpora"] / "manifest.json").read_text())
        assert manifest["counts"]["files_taken_over"] >= 1
        assert manifest["counts"]["bytes_taken_over"] >= len(content)
        hub.requests.clear()
        assert answer(start("refresh"))["status"] == "nothing is new"
        assert hub.downloads() == set()
        again = start("train")
        until(lambda: len(journal(run)) == 1, again)
        stop(again)
    check_texts(store, run, [row["completion"] for row in json.loads(new)])
