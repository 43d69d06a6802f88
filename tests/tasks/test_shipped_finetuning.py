"""SFT and DPO as deployments/smoke.yaml sets them, on its sample data: a kill leaves no trace."""

import json
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from common.config import narrowed
from common.files import read_json_lines
from common.paths import resolve
from common.recipes import load_config
from corpus.chats import load_mixture
from corpus.chats.sft_mixture import build_mixture
from flows.config import PipelineConfig
from model.train.finetune.config import DpoSettings, SftSettings
from model.train.run.folder import MIXTURE_FILE, PREPARED_FILE
from tasks.acquire import acquire
from tasks.dpo import CANDIDATES_FILE, write_candidates
from tasks.sft import needed_sets, read_sets
from tests.model.train.finetune.recording import Killed, curve, make_job, seen, train, weights
from tests.tasks.running import data_sets, result_of, run_stage, stage_run
from tests.tiny_chat import write_model

pytestmark = pytest.mark.usefixtures("in_this_process")

ROWS = 150
"""Of a mixture: ten steps of an epoch of SFT, the last a smaller one."""
SMOKE = "deployments/smoke.yaml"
CONFIG = load_config(resolve(SMOKE), PipelineConfig)


def rows_of(name: str, folder: Path) -> list[dict[str, Any]]:
    """Rows that the stage would train on: a mixture's conversations, or the pairs."""
    assert CONFIG.sample_data is not None
    kind: Any = "preferences" if name == "dpo" else "sft"
    config = replace(CONFIG.acquire(kind), sample_data=replace(CONFIG.sample_data, scale=0.4))
    acquired = run_stage(acquire, folder / "data", config)
    shutil.rmtree(acquired.scratch)  # as the end of a stage does
    data = data_sets(result_of(acquired))
    run = stage_run(folder / "drawn")
    if name == "dpo":
        assert CONFIG.dpo is not None
        write_candidates(run, CONFIG.dpo, data)
        return list(read_json_lines(run.scratch / CANDIDATES_FILE))[:ROWS]
    sft = CONFIG.sft_of(name)
    sets, _ = read_sets(
        run,
        needed_sets(sft),
        model=write_model(folder / "base"),
        data=data,
        benchmarks=None,
        contamination=sft.contamination,
        identity=sft.identity,
        remedy="",
    )
    output = run.folder / MIXTURE_FILE
    build_mixture(load_mixture(name), sets, output, seed=sft.seed, max_length=sft.max_length)
    texts = {n: list(read_json_lines(one.folder / "rows.jsonl")) for n, one in sets.items()}
    drawn = list(read_json_lines(output))[:ROWS]
    return [line | {"messages": texts[line["set"]][line.pop("row")]["messages"]} for line in drawn]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CONFIG.mixtures, "dpo"])
def test_a_killed_run_of_the_demo_ends_as_an_uninterrupted_one(tmp_path: Path, name: str) -> None:
    rows = rows_of(name, tmp_path)
    model = write_model(tmp_path / "model")
    if name == "dpo":
        method, options = "dpo", asdict(narrowed(CONFIG.dpo, DpoSettings))
    else:
        method, options = "sft", asdict(narrowed(CONFIG.sft, SftSettings))
        assert options["group_by_length"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for output in (whole, killed):
        make_job(method, model, output, rows, **{**options, "checkpoint_interval": 2})
    assert train(method, whole) == 0
    steps = len(seen(whole))
    trained_on = json.loads((whole / PREPARED_FILE).read_text())["trained_on"]
    in_epoch = -(-trained_on // options["global_batch_size"])
    assert steps == in_epoch * options["epochs"] > 4
    for step in (3, steps - 2):
        with pytest.raises(Killed):
            train(method, killed, kill_after=step)
    assert train(method, killed) == 0
    assert seen(killed) == seen(whole)
    assert curve(killed) == curve(whole)
    assert weights(killed) == weights(whole)
    last = [(step, line) for step, line in curve(killed) if "train/loss" in line][-1]
    assert last[0] == steps
    assert last[1]["data/samples"] == trained_on * options["epochs"]
    epochs = [
        sum((seen(killed)[step] for step in range(begin + 1, begin + in_epoch + 1)), Counter())
        for begin in range(0, steps, in_epoch)
    ]
    assert all(epoch == epochs[0] for epoch in epochs)
    assert epochs[0].total() == trained_on
