"""The table of an ffn ablation: means, deviations and intervals as computed by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from common.errors import DataError
from tasks.core.stage import StageResult
from tasks.ffn_comparison import FfnComparisonConfig, ffn_comparison
from tests.tasks.running import run_stage

LOSSES = {
    "token": {"1": 4.0, "2": 4.4, "3": 4.2},
    "uniform": {"1": 4.1, "2": 4.5, "3": 4.6},
    "dense": {"1": 3.0},
}


def models(folder: Path, **counts: dict[str, Any]) -> dict[str, StageResult]:
    made = {}
    for routing, by_seed in LOSSES.items():
        for seed, loss in by_seed.items():
            values = {"validation_loss": loss, "tokens_per_second": 100.0 * int(seed)}
            if routing == "token":
                values |= {"routing_effect": 0.01 * int(seed), "routing_entropy": 0.9}
            made[f"{routing}/{seed}"] = StageResult(
                stage="pretrain",
                key=f"{routing}{seed}",
                folder=folder,
                manifest={"counts": values | counts.get(routing, {})},
            )
    return made


def table(folder: Path, inputs: dict[str, StageResult], **config: Any) -> Any:
    run = run_stage(
        ffn_comparison, folder, FfnComparisonConfig(baseline="token", **config), models=inputs
    )
    return run, json.loads((run.folder / "table.json").read_text())


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    run, found = table(tmp_path / "out", models(tmp_path))
    rows = {row["routing"]: row for row in found["rows"]}
    assert (rows["token"]["loss"], rows["token"]["loss ±"]) == pytest.approx((4.2, 0.2))
    expected = stats.ttest_rel(list(LOSSES["uniform"].values()), list(LOSSES["token"].values()))
    interval = expected.confidence_interval(0.95)
    assert rows["uniform"]["difference"] == pytest.approx(0.2)
    assert (rows["uniform"]["low"], rows["uniform"]["high"]) == pytest.approx(tuple(interval))
    assert rows["dense"]["difference"] == pytest.approx(-1.0)
    assert (rows["dense"]["loss ±"], rows["dense"]["low"]) == (None, None), "one seed"
    assert rows["token"]["mean routing"] == pytest.approx(0.02)
    assert rows["uniform"]["mean routing"] is None
    page = (run.folder / "table.md").read_text()
    assert "+0.2000 (-0.2303 to +0.6303)" in page, "4.303 x 0.17321 / sqrt(3) on either side"
    assert "4.2000 ± 0.2000" in page
    assert run.counts["loss_uniform"] == pytest.approx(4.4)
    track: Any = run.track
    assert [row["routing"] for row in track.tables["ffn-ablation.json"]] == list(LOSSES)


def test_a_routing_that_leaks_is_judged_by_its_causal_loss(tmp_path: Path) -> None:
    _, found = table(tmp_path / "out", models(tmp_path, dense={"causal_loss": 7.0}))
    assert found["runs"]["dense/1"] == 7.0


def test_trainings_that_failed_are_named(tmp_path: Path) -> None:
    run, _ = table(tmp_path / "out", models(tmp_path), failed={"sequence/1": "no memory"})
    assert "- sequence/1: not compared, no memory" in (run.folder / "table.md").read_text()


def test_a_training_without_a_held_out_loss_is_named(tmp_path: Path) -> None:
    inputs = models(tmp_path)
    del inputs["uniform/2"].manifest["counts"]["validation_loss"]
    with pytest.raises(DataError, match=r"uniform/2 has no held-out loss.*validation_fraction"):
        table(tmp_path / "out", inputs)
