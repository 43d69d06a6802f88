"""Appends through the stage, the configuration and the command, on real processes."""

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from common.config import from_plain, validate
from common.errors import ConfigError, DataError, StageError
from common.recipes import load_config
from flows.cli import main
from model.data import PackedManifest
from model.train.run.folder import JOB_FILE, METRICS_FILE
from model.train.run.metrics import newest_step
from tasks.core.lock import StageLock
from tasks.core.manifest import StageResult
from tasks.core.stage import Context, stage_key
from tasks.core.tracking import default_uri
from tasks.pretrain import PretrainConfig, pretrain
from tasks.pretrain.appends import AppendConfig, check_data, check_trained
from tests.faults.places import Fault, go_on, struck, with_fault
from tests.model.train.ranks import settings, write_packed
from tests.processes import wait_until
from tests.tasks.running import result_of, run_stage, stage_run

KEY = "0123456789abcdef"


def config(*append: AppendConfig, num_processes: int = 1, **changes: Any) -> PretrainConfig:
    plain = {**settings(**changes), "num_processes": num_processes}
    return replace(from_plain(PretrainConfig, plain, "test"), append=list(append))


def packed(store: Path, key: str, seed: int, tokens: int = 12_000) -> StageResult:
    """A finished `pack` in a store."""
    folder = write_packed(store / "pack" / key, seed=seed, tokens=tokens)
    manifest = {"schema": 1, "stage": "pack", "key": key, "counts": {}, "notes": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return StageResult.read(folder)


def test_a_command_appends_while_the_stage_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two appends to one run: by configuration at a step, and by command in the middle."""
    store = tmp_path / "store"
    first, more = packed(store, "a" * 16, 0), packed(store, "b" * 16, 50, 2_000)
    named = packed(store, "c" * 16, 51, 2_000)
    folder = store / "pretrain" / f"{KEY}.partial"
    codes: list[int] = []

    # The training waits when it looks for requests for the 12th time, so that it has not ended
    # before the command is given.
    for name, value in with_fault(store, Fault("wait", "os.listdir", r"/requests$", 12)).items():
        monkeypatch.setenv(name, value)

    def append() -> None:
        arguments = ["append", KEY, more.key, "--store", str(store), "--steps", "extend"]
        try:
            wait_until(lambda: struck(store), "the training is under way")
            assert newest_step(folder / METRICS_FILE) >= 8
            codes.append(main([*arguments, "--weight", "beta=2", "--json"]))
            codes.append(main(arguments))
        finally:
            go_on(store)

    command = threading.Thread(target=append)
    command.start()
    wanted = AppendConfig(packed=named.key, at_step=5)
    quick = {"steps": 0, "eval_interval": 0, "checkpoints": {"interval": 1000}}
    run = run_stage(pretrain, folder, config(wanted, **quick), packed=first)
    command.join()
    assert codes == [0, 0]
    said = capsys.readouterr().out
    answer, again = json.loads(said[: said.rindex("}") + 1]), said[said.rindex("}") + 1 :]
    assert answer["status"] == "requested" and answer["num_samples"] > 0
    assert again.startswith("\nnothing to do: the data in")

    by_config, by_command = run.notes["journal"]
    assert (by_config["step"], by_config["at"], by_config["steps"]) == (5, 40, "keep")
    assert (by_command["weights"], by_command["steps"]) == ({"beta": 2.0}, "extend")
    total = run.notes["journal"][-1]["total_steps"]
    assert total == answer["total_steps"] == newest_step(folder / METRICS_FILE)
    assert run.counts["appends"] == 2 and run.counts["total_steps"] == total
    everything = sum(run.notes["samples_by_source"].values())
    assert everything >= total * 8
    assert by_command["manifest"] in run.track.known["appends"]  # type: ignore[attr-defined]
    assert run.notes["requests_refused"] == {} and run.notes["requests_too_late"] == []

    # What is made from it depends on what joined it.
    finished = replace(result_of(run), key=KEY)
    assert finished.identity.startswith(f"{KEY}+") and finished.identity != KEY
    # A run that has what is configured serves; one that lacks it does not, and says so.
    published = (finished.folder, finished.manifest)
    config(wanted, AppendConfig(packed=more.key)).check_finished(*published)
    with pytest.raises(ConfigError, match=r"are not in the finished pretraining .* train anew"):
        config(AppendConfig(packed=str(first.folder))).check_finished(
            finished.folder, finished.manifest
        )
    # Nor does one that the data joined in another way.
    config(replace(wanted, seed=by_config["seed"])).check_finished(
        finished.folder, finished.manifest
    )
    for other, message in [
        (replace(wanted, at_step=6), "at_step = 5, not 6"),
        (replace(wanted, weights={"beta": 2.0}), r"weights = \{\}, not \{'beta': 2.0\}"),
        (replace(wanted, seed=by_config["seed"] + 1), "with seed = "),
        (replace(wanted, steps="extend"), "steps = 'keep', not 'extend'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            config(other).check_finished(*published)


def test_configured_appends_are_checked_early(tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = packed(store, "a" * 16, 0)
    folder = store / "pretrain" / f"{KEY}.partial"
    with pytest.raises(ConfigError, match="at_step = -1"):
        validate(config(AppendConfig(packed="x", at_step=-1)), "pretrain")
    with pytest.raises(ConfigError, match="same data twice"):
        validate(config(AppendConfig(packed="x"), AppendConfig(packed="x")), "pretrain")
    with pytest.raises(DataError, match="no packed data 'nowhere'"):
        check_data([AppendConfig(packed="nowhere")], store)
    check_data([AppendConfig(packed=first.key, weights={"beta": 2.0})], store)
    with pytest.raises(ConfigError, match=r"pretrain\.append\.0\.weights: 'gamma' is no source of"):
        check_data([AppendConfig(packed=first.key, weights={"gamma": 2.0})], store)
    for appended, error, message in [
        (AppendConfig(packed="nowhere"), DataError, "no packed data 'nowhere'"),
        (AppendConfig(packed=first.key), DataError, "has the content of"),
    ]:
        with pytest.raises(error, match=message):
            run_stage(pretrain, folder, config(appended), packed=first)
    assert not (folder / JOB_FILE).exists(), "training has begun"


def test_a_run_that_ends_without_a_configured_append_does_not_finish(tmp_path: Path) -> None:
    first = packed(tmp_path, "a" * 16, 0)
    run = stage_run(tmp_path / "pretrain" / f"{KEY}.partial")
    run.note(journal=[], requests_refused={})
    with pytest.raises(StageError, match=r"did not join the run \(the run ended before its step\)"):
        check_trained(run, [AppendConfig(packed=first.key)])
    run.note(requests_refused={"x": "its shard is gone"})
    with pytest.raises(StageError, match="its shard is gone"):
        check_trained(run, [AppendConfig(packed=first.key)])
    digest = PackedManifest.read(first.folder / "shards").digest
    run.note(journal=[{"kind": "append", "manifest": digest}])
    check_trained(run, [AppendConfig(packed=first.key)])


def test_appends_do_not_change_the_key_and_are_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "pretrain.yaml"
    path.write_text("append: [{packed: here, at_step: 7, weights: {zh: 0.5}, steps: extend}]\n")
    loaded = load_config(path, PretrainConfig)
    assert loaded.append == [
        AppendConfig(packed="here", at_step=7, weights={"zh": 0.5}, steps="extend")
    ]
    without = replace(loaded, append=[])
    assert stage_key("pretrain", 1, loaded, {}) == stage_key("pretrain", 1, without, {})
    path.write_text("append: [{packed: here, horizon: extend}]\n")
    with pytest.raises(ConfigError, match=r"horizon.*steps"):
        load_config(path, PretrainConfig)


def test_the_command_knows_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    first, more = packed(store, "a" * 16, 0), packed(store, "b" * 16, 50, 2_000)

    def said(*arguments: str, code: int = 2) -> str:
        assert main([*arguments, "--store", str(store)]) == code
        output = capsys.readouterr()
        return output.err if code else output.out

    assert "no pretraining 'x'; none is unfinished" in said("append", "x", more.key)
    folder = store / "pretrain" / f"{KEY}.partial"
    folder.mkdir(parents=True)
    assert f"unfinished in {store}: {KEY}" in said("append", "x", more.key)
    assert "holds no pretraining that has begun" in said("append", KEY, more.key)
    job = {"settings": settings(schedule="constant"), "packed": str(first.folder)}
    (folder / JOB_FILE).write_text(json.dumps({**job, "output": str(folder)}))
    assert "no packed data 'y'" in said("append", str(folder), "y")
    assert "SOURCE=EPOCHS" in said("append", KEY, more.key, "--weight", "much")
    assert "when the run goes on" in said("append", KEY, more.key, code=0)
    with StageLock(store / "pretrain" / f"{KEY}.lock", what="test"):
        moved = said("reschedule", KEY, "--decay-at", "now", "--steps", "20", code=0)
    assert "at its next step boundary; the run ends at step 20" in moved
    assert "nothing is asked for" in said("reschedule", KEY)
    # Old names are refused with the new ones.
    assert "`steel reschedule` now" in said("horizon", KEY, "--steps", "20")
    assert "--decay-at now" in said("reschedule", KEY, "--decay", "now")
    assert "--steps extend" in said("append", KEY, more.key, "--horizon", "extend")
    finished = store / "pretrain" / KEY
    folder.rename(finished)
    (finished / "manifest.json").write_text("{}")
    for name in (KEY, str(finished), str(folder)):
        assert "is finished. Go on from its model" in said("append", name, more.key)


@pytest.mark.slow
def test_a_finished_run_without_a_configured_append_is_not_passed_over(context: Context) -> None:
    """The whole stage: store, lock, key, MLflow."""
    first = packed(context.store, "a" * 16, 0)
    more = packed(context.store, "b" * 16, 50, 2_000)
    wanted = config(AppendConfig(packed=more.key, at_step=4, steps="extend"), num_processes=2)
    # It stops at a checkpoint, and the configuration gains an append before it goes on.
    plain = replace(wanted, append=[])
    key = stage_key("pretrain", 1, plain, {"packed": first})
    with pytest.raises(StageError, match="with a complete checkpoint"):
        interrupted(context, plain, first, key)
    result = pretrain(wanted, context=context, packed=first)
    assert result.key == key
    [row] = result.manifest["notes"]["journal"]
    digest = PackedManifest.read(more.folder / "shards").digest
    assert (row["manifest"], row["step"], row["steps"]) == (digest, 4, "extend")
    assert pretrain(wanted, context=context, packed=first).reused
    assert pretrain(plain, context=context, packed=first).reused
    other = packed(context.store, "d" * 16, 52, 2_000)
    with pytest.raises(ConfigError, match="are not in the finished pretraining"):
        pretrain(
            replace(wanted, append=[AppendConfig(packed=other.key)]), context=context, packed=first
        )
    client = MlflowClient(default_uri(context.store))
    model_run = client.get_run(result.manifest["mlflow"]["model_run"])
    assert model_run.data.tags["steel.appends"] == f"{digest}@4 (extend)"


def interrupted(context: Context, plain: PretrainConfig, first: StageResult, key: str) -> None:
    """The stage, whose launcher is asked to stop after a step."""
    folder = context.store / "pretrain" / f"{key}.partial"

    def stop() -> None:
        wait_until(lambda: newest_step(folder / METRICS_FILE) >= 1, "a step is made")
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            words = path.read_bytes().split(b"\0") if path.exists() else []
            if os.fsencode(folder / JOB_FILE) in words and b"model.entry.launch" in words:
                os.kill(int(path.parent.name), signal.SIGTERM)

    threading.Thread(target=stop).start()
    pretrain(plain, context=context, packed=first)
