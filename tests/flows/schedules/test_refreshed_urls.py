"""Corpora behind URLs, as a refresh asks for them: listed, and nothing of them downloaded."""

from pathlib import Path

import pytest

from flows.config import load_pipeline
from flows.schedules.refresh import _corpora
from tasks.acquire import AcquireConfig
from tasks.core.stage import stage_key
from tasks.refresh import Lineage
from tests.corpus.sources.acquired import A, B, acquired
from tests.corpus.sources.fake_web import Web, serving
from tests.flows.schedules.small_pipeline import write_config


def key(config: AcquireConfig) -> str:
    return stage_key("acquire", 2, config, {})


@pytest.mark.parametrize("etags", [True, False])
def test_a_listing_that_has_changed_is_another_state_of_the_corpora(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, etags: bool
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Web(files={"d/a.jsonl": A}, etags=etags)) as web:
        path = write_config(tmp_path / "c.yaml", {"skypile": f"{web.url}/d/"})
        config = load_pipeline(path)
        begun = config.acquire("corpora")
        first = acquired(tmp_path / "store", 1, begun)
        lineage = Lineage(packed=first, stages={"acquire": {first.key: first}})
        web.requests.clear()
        assert _corpora(config, lineage) == begun
        web.files["d/b.jsonl"] = B
        grown = _corpora(config, lineage)
        web.files["d/b.jsonl"] = B[::-1]
        changed = _corpora(config, lineage)
        assert not [r for r in web.requests if r[0] == "GET" and r[1].endswith(".jsonl")]
        keys = {key(begun), key(grown), key(changed)}
        assert len(keys) == (3 if etags else 1)
        second = acquired(tmp_path / "store", 2, changed)
        assert (second.folder / "skypile" / "b.jsonl").read_bytes() == B[::-1]
        del web.files["d/b.jsonl"]
        assert key(_corpora(config, lineage)) == key(begun)
