"""One pretraining through `steel run`: stopped, killed, on 2, 1 and 2 processes; one curve."""

import json
import signal
from pathlib import Path

import pytest

from benchmarks import rescaled_run
from benchmarks.rescaled_run import Part


def test_parts_are_read_as_they_are_written() -> None:
    assert rescaled_run._parse("2@150:TERM,1@320:KILL,2") == rescaled_run.DEFAULT
    assert rescaled_run._parse("4@7") == (Part(4, 7, signal.SIGTERM),)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stopped_killed_and_rescaled_is_one_run_with_falling_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out, picture = tmp_path / "out.json", tmp_path / "curve.png"
    settings = (
        "sample_data.scale=0.2",
        "pretrain.steps=60",
        "pretrain.eval_interval=20",
        "pretrain.checkpoints={interval: 10, keep_last: 2}",
    )
    command = ["deployments/smoke.yaml", "--store", str(tmp_path / "store")]
    command += [word for setting in settings for word in ("--set", setting)]
    command += ["--parts", "2@16:TERM,1@34:KILL,2", "--json", str(out), "--picture", str(picture)]
    assert rescaled_run.main(command) == 0
    told = json.loads(out.read_text())
    assert told["steps"] == 60 and told["each_step_once"]
    assert told["tokens"] == 60 * 8 * 256, "the axis of the picture"
    assert [s["processes"] for s in told["sessions"]] == [2, 1, 2]
    assert [s["ended"] for s in told["sessions"]] == ["stopped", "killed", "done"]
    stopped, killed, done = told["sessions"]
    assert killed["from_step"] == stopped["to_step"], "SIGTERM saves the very step"
    assert done["from_step"] in (20, 30), "from the newest checkpoint before the kill"
    losses = list(told["validation_loss"].values())
    assert losses == sorted(losses, reverse=True)
    assert picture.stat().st_size > 10_000
    assert picture.with_name("curve-dark.png").is_file()
