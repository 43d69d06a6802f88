"""A checkpoint as a Transformers folder: the same model, in the background, kept with it."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.child import Child
from common.errors import DataError
from flows.cli import main as steel
from model.export.folder import export_model
from model.train.callbacks.export import BackgroundExport
from model.train.checkpoint.folders import complete_checkpoints
from model.train.run.folder import CHECKPOINTS_FOLDER, EXPORT_JOB_FILE, EXPORTS_FOLDER, MODEL_FOLDER
from model.train.run.lease import Lease
from model.train.trainer import Trainer
from tests.model.train import ranks
from tests.model.train.ranks import Fault
from tests.processes import wait_until

MakeRun = Callable[..., Trainer]
KEPT = {"interval": 2, "keep_last": 1, "keep_every": 4, "keep_best": 0, "export": True}
IDS = torch.arange(48).view(2, 24) % ranks.END


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(input_ids=IDS, use_cache=False).logits
    return found


def test_kept_checkpoints_become_models_while_training_goes_on(make_run: MakeRun) -> None:
    run = make_run(steps=5, checkpoints=KEPT)
    expected: dict[int, torch.Tensor] = {}
    step = run._step

    def recorded() -> Any:
        outcome = step()
        expected[run.progress.step] = logits(run.model)
        run.model.train()
        return outcome

    run._step = recorded  # type: ignore[method-assign]
    run.fit()
    exports = run.checkpoints.folder.parent / EXPORTS_FOLDER
    [folder] = exports.iterdir()
    assert folder.name == "step-00000004"
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), expected[4])
    assert len(AutoTokenizer.from_pretrained(folder)) == ranks.VOCABULARY


@pytest.mark.slow
def test_exports_go_with_their_checkpoints(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(steps=4, checkpoints={"interval": 2})
    run.fit()
    first, second = complete_checkpoints(run.checkpoints.folder)
    exporter = BackgroundExport(tmp_path / EXPORTS_FOLDER, Lease.take(tmp_path))
    assert exporter.keep_checkpoints([first]) <= {first}
    exporter.wait()
    assert exporter.keep_checkpoints([second]) <= {second}
    exporter.wait()
    assert [path.name for path in (tmp_path / EXPORTS_FOLDER).iterdir()] == [second.name]
    exporter.close()


def test_a_checkpoint_that_is_being_read_stays(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(steps=4, checkpoints={"interval": 2})
    run.fit()
    first, second = complete_checkpoints(run.checkpoints.folder)
    exporter = SlowExport(tmp_path / EXPORTS_FOLDER, Lease.take(tmp_path))
    exporter.keep_checkpoints([first])
    wait_until(lambda: exporter._current is not None, "the export has begun")
    assert exporter.keep_checkpoints([second]) == {first}
    exporter.close()
    assert not list((tmp_path / EXPORTS_FOLDER).glob("step-00000004"))


class SlowExport(BackgroundExport):
    """Its exports copy one file at once, and end when they may."""

    def _start(self, checkpoint: Path) -> Child:
        script = (
            'mkdir -p "$1" && cp "$0"/complete.json "$1" && until [ -e "$2" ]; do sleep .01; done'
        )
        target = self._made(checkpoint)
        arguments = map(str, (checkpoint, target, self.folder.with_name("go")))
        return Child(["sh", "-c", script, *arguments], self.folder.with_name(EXPORT_JOB_FILE))


def test_what_a_rollback_removed_is_not_taken_for_what_replaces_it(tmp_path: Path) -> None:
    checkpoint, exported = tmp_path / "step-00000004", tmp_path / EXPORTS_FOLDER / "step-00000004"
    checkpoint.mkdir()
    (checkpoint / "complete.json").write_text("first run")
    exporter = SlowExport(tmp_path / EXPORTS_FOLDER, Lease.take(tmp_path))
    exporter.keep_checkpoints([checkpoint])
    wait_until((exporter._made(checkpoint) / "complete.json").exists, "the export has begun")
    # Rolled back: nothing is wanted for now, and training comes by the same step again.
    shutil.rmtree(checkpoint)
    exporter.keep_checkpoints([])
    checkpoint.mkdir()
    (checkpoint / "complete.json").write_text("second run")
    (tmp_path / "go").touch()
    exporter.keep_checkpoints([checkpoint])
    exporter.wait()
    exporter.close()
    assert (exported / "complete.json").read_text() == "second run"


@pytest.mark.slow
def test_what_cannot_be_exported_is_a_warning(
    make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(steps=2, checkpoints={"interval": 2})
    run.fit()
    [saved] = complete_checkpoints(run.checkpoints.folder)
    (saved / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(DataError, match=r"__0_0\.distcp has 0 bytes"):
        export_model(saved, tmp_path / MODEL_FOLDER)
    assert not (tmp_path / MODEL_FOLDER).exists()
    exporter = BackgroundExport(tmp_path / EXPORTS_FOLDER, Lease.take(tmp_path))
    exporter.keep_checkpoints([saved])
    exporter.wait()
    exporter.close()
    assert "step-00000002 could not be exported" in caplog.text and "0 bytes" in caplog.text


def test_the_command_exports_what_two_ranks_saved(
    packed: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine without the ranks: the files alone are read."""
    out = tmp_path / "out"
    assert steel(["export", str(uninterrupted), "--to", str(out)]) == 0
    weights = "model.safetensors"
    assert (out / weights).read_bytes() == (uninterrupted / MODEL_FOLDER / weights).read_bytes()
    assert steel(["export", str(uninterrupted), "--to", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err
    checkpoints = uninterrupted / CHECKPOINTS_FOLDER
    for number, model in enumerate((checkpoints, checkpoints / "step-00000008", uninterrupted)):
        chosen = ["--checkpoint", "8"] if model != checkpoints / "step-00000008" else []
        to = tmp_path / str(number)
        assert steel(["export", str(model), *chosen, "--to", str(to)]) == 0
        assert (to / weights).read_bytes() != (out / weights).read_bytes()
    assert (
        steel(["export", str(uninterrupted), "--checkpoint", "7", "--to", str(tmp_path / "x")]) == 2
    )
    assert "no complete checkpoint of step 7; it has" in capsys.readouterr().err
    assert steel(["export", str(packed), "--to", str(tmp_path / "none")]) == 2
    assert "holds no model" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


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
