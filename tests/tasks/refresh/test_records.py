"""Corpora that a training began with stand for those of now: for that training, and no other."""

import dataclasses
import json
from pathlib import Path

import pytest

from common.recipes import load_config
from flows.config import PipelineConfig
from flows.schedules.newest_run import own_run
from tasks.acquire import AcquireConfig
from tasks.refresh.records import Refreshed, acquired_key
from tests.flows.schedules.small_pipeline import write_config, write_corpora
from tests.flows.schedules.store_pieces import stage


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    path = write_config(tmp_path / "c.yaml", write_corpora(tmp_path / "data"))
    return load_config(path, PipelineConfig)


def corpora_of(config: PipelineConfig) -> AcquireConfig:
    return config.acquire("corpora")


def key(config: PipelineConfig, store: Path) -> str:
    run = own_run(config, store)
    assert run is not None
    return run.key


def test_a_record_is_of_one_training_that_is_there(config: PipelineConfig, tmp_path: Path) -> None:
    store = tmp_path / "store"
    begun = acquired_key(corpora_of(config), store)
    stage(store, "acquire", begun, {}, kind="corpora")
    training = key(config, store)
    (tmp_path / "data" / "wikipedia_cn" / "new.json").write_text(json.dumps([]))
    anew = key(config, store)
    assert anew != training
    now = acquired_key(corpora_of(config), store)
    Refreshed(acquired=now, run=training, begun=begun, packed="p1").write(store)
    assert key(config, store) == anew, "the training is gone, and the appended data with it"

    run = store / "pretrain" / f"{training}.partial"
    run.mkdir(parents=True)
    assert key(config, store) == training
    finished = run.rename(run.with_suffix(""))
    assert key(config, store) == training

    # Other settings make another training, to which nothing was appended.
    assert config.pretrain is not None
    other = dataclasses.replace(config, pretrain=dataclasses.replace(config.pretrain, seed=99))
    with_all = key(other, store)
    (store / "refreshed" / f"{now}.json").unlink()
    assert key(other, store) == with_all
    assert key(config, store) == anew
    assert finished.is_dir()
