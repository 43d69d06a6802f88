"""A checkpoint as a Transformers folder: the same model, in the background, kept with it."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.errors import DataError
from flows.cli import main as steel
from model.train.build import Run
from model.train.callbacks.export import Exporter
from model.train.checkpoint.export import export, find_checkpoint
from model.train.checkpoint.reader import complete_checkpoints
from model.train.run.folder import CHECKPOINTS_FOLDER, EXPORTS_FOLDER, MODEL_FOLDER
from tests.model.train import ranks
from tests.model.train.ranks import Fault

MakeRun = Callable[..., Run]
KEPT = {"interval": 2, "keep_last": 1, "keep_every": 4, "keep_best": 0, "export": True}
IDS = torch.arange(48).view(2, 24) % ranks.END


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(input_ids=IDS, use_cache=False).logits
    return found


def test_kept_checkpoints_become_models_while_training_goes_on(make_run: MakeRun) -> None:
    run = make_run(steps=5, checkpoints=KEPT)
    expected: dict[int, torch.Tensor] = {}
    step = run.trainer._step

    def recorded() -> Any:
        outcome = step()
        expected[run.trainer.progress.step] = logits(run.model)
        run.model.train()
        return outcome

    run.trainer._step = recorded  # type: ignore[method-assign]
    run.trainer.fit()
    assert run.trainer.exporter is not None
    run.trainer.exporter.finish()
    exports = run.trainer.checkpoints.folder.parent / EXPORTS_FOLDER
    [folder] = exports.iterdir()
    assert folder.name == "step-00000004"
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), expected[4])
    assert len(AutoTokenizer.from_pretrained(folder)) == ranks.VOCABULARY


@pytest.mark.slow
def test_exports_go_with_their_checkpoints(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(steps=4, checkpoints={"interval": 2})
    run.trainer.fit()
    first, second = complete_checkpoints(run.trainer.checkpoints.folder)
    exporter = Exporter(tmp_path / EXPORTS_FOLDER)
    assert exporter.update([first]) <= {first}
    exporter.finish()
    assert exporter.update([second]) <= {second}
    exporter.finish()
    assert [path.name for path in (tmp_path / EXPORTS_FOLDER).iterdir()] == [second.name]
    exporter.stop()


def test_a_checkpoint_that_is_being_read_stays(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(steps=4, checkpoints={"interval": 2})
    run.trainer.fit()
    first, second = complete_checkpoints(run.trainer.checkpoints.folder)
    exporter = Exporter(tmp_path / EXPORTS_FOLDER)
    exporter.update([first])
    while exporter._current is None:
        pass
    assert exporter.update([second]) == {first}, "busy for the seconds that imports take"
    exporter.stop()
    assert not list((tmp_path / EXPORTS_FOLDER).glob("step-00000004"))


class SlowExporter(Exporter):
    """Its exports copy one file at once, and end when they may."""

    def _start(self, checkpoint: Path) -> "subprocess.Popen[str]":
        script = (
            'mkdir -p "$1" && cp "$0"/complete.json "$1" && until [ -e "$2" ]; do sleep .01; done'
        )
        target = self.folder / checkpoint.name
        return subprocess.Popen(
            ["sh", "-c", script, checkpoint, target, self.folder.with_name("go")],
            stdout=subprocess.PIPE,
            text=True,
        )


def test_what_a_rollback_removed_is_not_taken_for_what_replaces_it(tmp_path: Path) -> None:
    checkpoint, exported = tmp_path / "step-00000004", tmp_path / EXPORTS_FOLDER / "step-00000004"
    checkpoint.mkdir()
    (checkpoint / "complete.json").write_text("first course")
    exporter = SlowExporter(tmp_path / EXPORTS_FOLDER)
    exporter.update([checkpoint])
    while not (exported / "complete.json").exists():
        time.sleep(0.01)
    # Rolled back: nothing is wanted for now, and the next course comes by the same step.
    shutil.rmtree(checkpoint)
    exporter.update([])
    checkpoint.mkdir()
    (checkpoint / "complete.json").write_text("second course")
    (tmp_path / "go").touch()
    exporter.update([checkpoint])
    exporter.finish()
    exporter.stop()
    assert (exported / "complete.json").read_text() == "second course"


@pytest.mark.slow
def test_what_cannot_be_exported_is_a_warning(
    make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(steps=2, checkpoints={"interval": 2})
    run.trainer.fit()
    [saved] = complete_checkpoints(run.trainer.checkpoints.folder)
    (saved / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(DataError, match=r"__0_0\.distcp has 0 bytes"):
        export(saved, tmp_path / MODEL_FOLDER)
    exporter = Exporter(tmp_path / EXPORTS_FOLDER)
    exporter.update([saved])
    exporter.finish()
    exporter.stop()
    assert "step-00000002 could not be exported" in caplog.text and "0 bytes" in caplog.text


def test_the_command_exports_what_two_ranks_saved(
    packed: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine without the ranks: the files alone are read."""
    out = tmp_path / "out"
    assert steel(["export", str(uninterrupted), str(out)]) == 0
    for path in (uninterrupted / MODEL_FOLDER).iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    assert steel(["export", str(uninterrupted), str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    first = uninterrupted / CHECKPOINTS_FOLDER / "step-00000008"
    assert steel(["export", str(first), str(out), "--force"]) == 0
    assert steel(["export", str(packed), str(tmp_path / "none")]) == 2
    with pytest.raises(DataError, match="holds none"):
        find_checkpoint(packed)


@pytest.mark.usefixtures("fork_server")
@pytest.mark.slow
def test_an_interrupted_export_is_made_by_the_next_start(packed: Path, tmp_path: Path) -> None:
    values = ranks.settings(steps=6, checkpoints={**KEPT, "interval": 4})
    job = ranks.write_job(packed, tmp_path, values)
    ranks.run_ranks(job, 2, Fault(step=5, number=signal.SIGTERM))
    assert ranks.run_ranks(job, 2) == [0, 0]
    [exported] = (tmp_path / EXPORTS_FOLDER).iterdir()
    assert exported.name == "step-00000004"
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["SteelForCausalLM"]
