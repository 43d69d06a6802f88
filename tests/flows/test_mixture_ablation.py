"""steel/mixture-ablation: refusals, plan, children at once; a comparison with a child killed."""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.tracking import MlflowClient

from common.errors import ConfigError, DataError, StageError
from common.paths import ROOT, resolve
from common.recipes import load_config, parse
from flows.ablations import parallel
from flows.ablations.mixtures import models_of
from flows.ablations.parallel import gpu_shares, run_all
from flows.cli import main
from flows.commands import BAD_INPUT, DONE, FAILED
from flows.config import PipelineConfig
from model.train.run.folder import MODEL_FOLDER
from tasks.core.stage import plain
from tasks.core.tracking import MODELS, PIPELINES, default_uri
from tests.flows.parallel_program import Job
from tests.flows.refused import assert_refused
from tests.processes import PATIENCE_SECONDS, alive, kill_all, wait_until

MIXTURES = ("smoke-chinese", "smoke-chinese-english")
TINY = {
    "base": str(resolve("deployments/smoke.yaml")),
    "name": "tiny-mixtures",
    "sample_data": {"seed": 7, "scale": 0.1},
    "dpo": None,
    "pretrain": {"steps": 12, "warmup_steps": 4, "eval_interval": 12},
    "sft": {"max_steps": 40, "global_batch_size": 4, "micro_batch_size": 4},
    "evaluate": {"limit": 2},
    "mixtures": list(MIXTURES),
}
PROGRAM = "tests.flows.parallel_program"
MARK = "TEST_MIXTURE_ABLATION"
"""Environment variable by which all processes of a comparison are found."""
log = logging.getLogger("steel.test")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


# --- before any work


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mixtures", "smoke-chinese,smoke-chinese"], "each once"),
        (["--mixtures", "smoke-chinees"], "smoke-chinees"),
        (["--mixtures", ""], "mixtures"),
        (["--seeds", "1,1"], "each once"),
        (["--seeds", "-1"], "must look like 1,8"),
        (["--seeds", "one"], "must look like 1,8"),
        (["--set", "mixtures=[]"], "give `mixtures`"),
        (["--set", "benchmarks=null"], "benchmarks"),
        (["--set", "sft=null"], "sft"),
    ],
)
def test_wrong_requests_are_refused_before_work(
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    for more in ([], ["--dry-run"]):
        command = ["mixture-ablation", str(config), *arguments, *more]
        assert_refused(capsys, tmp_path / "store", command, message)


def test_more_models_at_once_than_gpus_are_refused(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(parallel, "num_gpus", lambda: 2)
    command = ["mixture-ablation", str(config), "--store", str(tmp_path / "store")]
    assert main([*command, "--parallel", "3", "--dry-run"]) == BAD_INPUT
    assert "this machine has 2 GPU(s)" in capsys.readouterr().err
    ranks = ["--set", "evaluate.num_processes=2"]
    assert main([*command, "--parallel", "2", "--dry-run", *ranks]) == BAD_INPUT
    assert "evaluate.num_processes = 2, but with parallel = 2" in capsys.readouterr().err


def test_the_plan_lists_every_model_and_makes_nothing(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    command = ["mixture-ablation", str(config), "--store", str(store), "--seeds", "3,4"]
    assert main([*command, "--dry-run", "--json"]) == DONE
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == ["base"] + [
        f"{mixture} seed {seed}" for seed in (3, 4) for mixture in MIXTURES
    ]
    assert {row["training"] for row in rows} == {"to be made"}
    assert not store.exists()


@pytest.mark.parametrize("name", ["smoke", "smoke-mixtures", "real-sample", "steel-1b"])
def test_a_model_differs_in_mixture_and_seed_alone_and_travels_as_plain_values(name: str) -> None:
    loaded = load_config(resolve(f"deployments/{name}.yaml"), PipelineConfig)
    models = models_of(loaded, [1, 2])
    assert len(models) == 1 + 2 * len(loaded.mixtures)
    assert len({model.key for model in models}) == len({m.label for m in models}) == len(models)
    for model in models:
        assert parse(PipelineConfig, plain(model.config)).value == model.config
    first, *_ = (model.config for model in models if model.mixture)
    assert first.sft is not None and loaded.sft is not None
    assert asdict(first.sft) | {"seed": loaded.sft.seed} == asdict(loaded.sft)
    assert first.pretrain == loaded.pretrain and first.evaluate == loaded.evaluate
    (only, *_) = (m.config for m in models_of(loaded, []) if m.mixture)
    assert only.sft == loaded.sft  # so that it is the model of `steel run`


# --- children at once


@pytest.mark.parametrize(
    ("gpus", "visible", "slots", "shares"),
    [
        (8, None, 2, ["0,1,2,3", "4,5,6,7"]),
        (8, None, 3, ["0,1", "2,3", "4,5"]),
        (4, "1,3,5,7", 2, ["1,3", "5,7"]),
        (2, "GPU-aa,GPU-bb", 2, ["GPU-aa", "GPU-bb"]),
        (8, None, 1, [None]),
        (0, None, 2, [None, None]),
    ],
)
def test_gpus_are_shared_out_evenly(
    gpus: int,
    visible: str | None,
    slots: int,
    shares: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parallel, "num_gpus", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = gpu_shares(slots)
    assert [one.get("CUDA_VISIBLE_DEVICES") for one in found] == shares
    with pytest.raises(ConfigError, match="give 1 or more"):
        gpu_shares(0)


def jobs_of(folder: Path, **settings: Mapping[str, Any]) -> dict[str, Path]:
    jobs = {}
    for name, own in settings.items():
        jobs[name] = folder / f"{name}.json"
        jobs[name].write_text(json.dumps(asdict(Job(folder=str(folder), name=name, **own))))
    return jobs


def test_a_child_that_fails_or_is_killed_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waits = {"waits_for": "end"}
    jobs = jobs_of(tmp_path, bad={"fails": True}, killed=waits, long=waits, last=waits)
    began = {name: tmp_path / f"{name}.began" for name in jobs}

    def kill() -> None:
        try:
            told = lambda: began["killed"].is_file() and began["killed"].read_text()  # noqa: E731
            pid = wait_until(told, "the child that is to be killed works").split()[0]
            os.kill(int(pid), signal.SIGKILL)
            wait_until(began["last"].is_file, "the last child works")
        finally:  # or the others wait for ever
            (tmp_path / "end").touch()

    thread = threading.Thread(target=kill)
    thread.start()
    with caplog.at_level(logging.INFO):
        shares = [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
        failed = run_all(PROGRAM, jobs, shares, log, "test")
    thread.join()
    assert set(failed) == {"bad", "killed"}
    assert isinstance(failed["bad"], DataError) and "bad has no rows" in str(failed["bad"])
    assert isinstance(failed["killed"], StageError) and "status -9" in str(failed["killed"])
    assert {p.stem for p in tmp_path.glob("*.done")} == {"long", "last"}
    assert "[long] long works" in caplog.text and "bad failed: bad has no rows" in caplog.text
    devices = {path.read_text().split()[1] for path in began.values()}
    assert devices == {"0", "1"}


def test_whatever_ends_the_parent_lets_every_child_save(tmp_path: Path) -> None:
    """An interruption as an exception, and the death of the parent."""
    waits = {"waits_for": "never"}
    jobs = jobs_of(tmp_path, one=waits, two=waits, third=waits)
    script = (
        "import logging, signal, sys, json; from pathlib import Path; "
        "from flows.ablations.parallel import run_all; "
        # A shell that runs tests in the background lets its children ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"run_all({PROGRAM!r}, {{n: Path(p) for n, p in json.loads(sys.argv[1]).items()}}, "
        "[{}, {}], logging.getLogger('x'), 'test')"
    )
    argument = json.dumps({name: str(path) for name, path in jobs.items()})
    for number in (signal.SIGINT, signal.SIGKILL):
        for path in [*tmp_path.glob("*.began"), *tmp_path.glob("*.saved")]:
            path.unlink()
        parent = subprocess.Popen(
            [sys.executable, "-c", script, argument], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        both = [tmp_path / "one.began", tmp_path / "two.began"]
        begun = lambda: all(p.is_file() and p.read_text() for p in both)  # noqa: B023, E731
        wait_until(begun, "two children work", process=parent)
        pids = [int(path.read_text().split()[0]) for path in both]
        parent.send_signal(number)
        assert parent.wait(PATIENCE_SECONDS) != 0
        wait_until(lambda: not any(map(alive, pids)), "the children are gone")  # noqa: B023
        assert {path.stem for path in tmp_path.glob("*.saved")} == {"one", "two"}
        assert not (tmp_path / "third.began").exists()


# --- for real


class Comparison:
    """`steel mixture-ablation` in a process of its own."""

    def __init__(self, config: Path, store: Path, *arguments: str) -> None:
        self.store, self.output = store, store.parent / f"{store.name}.txt"
        command = [sys.executable, "-m", "flows.cli", "mixture-ablation", str(config)]
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        environment[MARK] = str(store.parent)
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                [*command, "--store", str(store), *arguments],
                cwd=ROOT,
                stdout=output,
                stderr=output,
                env=environment,
            )

    def child(self, label: str) -> int:
        """Process that makes a model, once its training has saved a checkpoint."""
        pattern = f"mixture-ablation/{label} {'[0-9a-f]' * 8}.json"

        def found() -> int:
            assert self.process.poll() is None, self.output.read_text()
            jobs = [str(path) for path in self.store.glob(pattern)]
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if path.read_text().split("\0")[-2:-1] in ([job] for job in jobs):
                        return int(path.parent.name)
            return 0

        return int(wait_until(found, f"{label} is made", seconds=1200))

    def wait(self) -> int:
        return self.process.wait(3600)


def weights(store: Path) -> dict[str, bytes]:
    """Mixture/seed -> bytes of its finished model."""
    found = {}
    for path in store.glob("sft/*/manifest.json"):
        settings = json.loads(path.read_text())["config"]
        name = f"{settings['mixture']}/{settings['seed']}"
        (file,) = (path.parent / MODEL_FOLDER).glob("*.safetensors")
        found[name] = file.read_bytes()
    return found


def steps_of(store: Path) -> list[int]:
    """Steps that unfinished trainings have logged."""
    return [
        len(path.read_text().splitlines()) for path in store.glob("sft/*.partial/metrics.jsonl")
    ]


BEFORE_SFT = ("acquire", "normalize", "clean", "pack", "pretrain", "cache")
"""Folders of a store that hold what comes before the fine-tuning."""


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """No process of a comparison outlives the test."""
    yield
    kill_all(MARK, str(tmp_path))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.usefixtures("nothing_left")
def test_killed_and_stopped_comparisons_end_in_the_models_of_one_after_the_other(
    config: Path, tmp_path: Path
) -> None:
    sequential = Comparison(config, tmp_path / "sequential", "--seeds", "3")
    assert sequential.wait() == DONE, sequential.output.read_text()
    expected = weights(tmp_path / "sequential")
    assert set(expected) == {f"{mixture}/3" for mixture in MIXTURES}

    store = tmp_path / "parallel"
    for name in BEFORE_SFT:
        shutil.copytree(tmp_path / "sequential" / name, store / name)
    first = Comparison(config, store, "--seeds", "3", "--parallel", "2")
    victim = first.child("smoke-chinese")
    wait_until(
        lambda: any(steps > 0 for steps in steps_of(store)),
        "a training is under way",
        process=first.process,
        log=first.output,
        seconds=1200,
    )
    os.kill(victim, signal.SIGKILL)
    assert first.wait() == FAILED
    text = first.output.read_text()
    assert "1 of 3 models failed" in text and "smoke-chinese/3" in text
    assert "| smoke-chinese-english |" in text
    assert set(weights(store)) == {"smoke-chinese-english/3"}

    second = Comparison(config, store, "--seeds", "3", "--parallel", "2")
    child = second.child("smoke-chinese")
    second.process.send_signal(signal.SIGTERM)  # as Prefect's worker or a cluster ends it
    assert second.wait() != DONE
    wait_until(lambda: not alive(child), "the child is gone", seconds=1200)
    third = Comparison(config, store, "--seeds", "3", "--parallel", "2", "--json")
    assert third.wait() == DONE, third.output.read_text()
    assert weights(store) == expected
    tables = [
        json.loads(path.read_text())
        for folder in (tmp_path / "sequential", store)
        for path in [max(folder.glob("mixture_comparison/*/table.json"), key=os.path.getmtime)]
    ]
    assert tables[0] == tables[1]

    client = MlflowClient(default_uri(store))
    experiment = client.get_experiment_by_name(PIPELINES)
    runs = client.search_runs([experiment.experiment_id])
    (parent, *_) = (r for r in runs if r.info.run_name.startswith("mixture-ablation tiny"))
    page = client.get_experiment_by_name(MODELS)
    flat = {
        "base" if (tags := run.data.tags)["steel.stage"] == "pretrain" else tags["steel.label"]: run
        for run in client.search_runs([page.experiment_id])
    }
    for row in tables[1]["rows"]:
        metric = flat[row["mixture"]].data.metrics[f"accuracy/{row['benchmark']}"]
        assert metric == pytest.approx(row["accuracy"])
    assert not any(name.startswith("accuracy") for run in runs for name in run.data.metrics)
    assert len({run.data.tags["mlflow.runColor"] for run in flat.values()}) == len(flat)
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"table.md", "by_subject.csv", "accuracy.png", "curves.png"} <= files
    assert "mixture-ablation.json" in files
    assert {run.info.status for run in runs} <= {"FINISHED", "FAILED", "KILLED"}
