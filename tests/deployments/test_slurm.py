"""The batch script under Slurm itself: limits, errors, scancel, requeue, several nodes.

Needs Debian's `slurm-wlm` and `munge`; two nodes need network namespaces too.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.files import sha256_of_file
from common.paths import ROOT
from tests.deployments.slurm import Slurm, slurm
from tests.flows import whole_run
from tests.machines import two_machines
from tests.model.train import ranks
from tests.processes import kill_all, processes_of, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

PATIENCE_SECONDS = 900
STEPS = 80
FEW = 8
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL")


class Project:
    """A configuration, and a store whose data stages are finished."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "data"
        self.config = folder / "batch.yaml"
        values = {name: whole_run.CONFIG[name] for name in ("base", "sample_data", "pack")}
        pretrain = {
            **whole_run.CONFIG["pretrain"],
            "steps": STEPS,
            "epochs": 10_000,
            "eval_interval": 40,
            "log_interval": 1,
        }
        values |= {"name": "batch", "corpora": {"wikipedia_cn": "sample-data"}}
        self.config.write_text(yaml.safe_dump({**values, "pretrain": pretrain}))
        done = subprocess.run(
            [*whole_run.command(self.config, self.store), "--stages", "data"],
            cwd=ROOT,
            env=self.environment(self.store),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def environment(self, store: Path) -> dict[str, str]:
        store.mkdir(exist_ok=True)
        return {**whole_run.environment(store, self.folder / "home"), "OMP_NUM_THREADS": "1"}

    def copy(self, store: Path) -> Path:
        """The store once more, at this place."""
        for name in ("acquire", "normalize", "clean", "pack"):
            shutil.copytree(self.store / name, store / name)
        return store


class Job:
    """One submission of the script."""

    def __init__(self, cluster: Slurm, project: Project, store: Path, *arguments: str) -> None:
        """`arguments`: those of sbatch, then `--`, then those of `steel run`."""
        cut = arguments.index("--")
        self.cluster, self.store, self.log = cluster, store, store.with_suffix(".log")
        self.number = cluster.call(
            *("sbatch", "--parsable", "--chdir", str(ROOT), "--gpus-per-node=1"),
            *("--cpus-per-task=1", f"--output={self.log}", *arguments[:cut]),
            str(ROOT / "deployments" / "slurm" / "steel.sbatch"),
            *(str(project.config), str(store), "--stages", "pretrain", *arguments[cut + 1 :]),
            **project.environment(store),
        )

    @property
    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def facts(self) -> dict[str, str]:
        return self.cluster.facts(self.number)

    def lines(self) -> list[dict[str, Any]]:
        found = list(self.store.glob("pretrain/*/metrics.jsonl"))
        return [json.loads(line) for path in found for line in path.read_text().splitlines()]

    def last_step(self) -> int:
        return max((line["step"] for line in self.lines()), default=0)

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        wait_until(condition, f"job {self.number}: {what}", log=self.log, seconds=PATIENCE_SECONDS)

    def wait(self) -> str:
        """Its state at its end."""
        self.wait_for(lambda: self.facts["JobState"] in ENDED, "it ends")
        return self.facts["JobState"]

    @contextlib.contextmanager
    def halted(self, step: int) -> Iterator[None]:
        """Have its training stand still from after a step on, however fast the machine is."""
        self.wait_for(lambda: self.last_step() > step, f"step {step + 1}")
        pids = processes_of(self.store / "pretrain")
        assert pids, self.text
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def reach_limit(self, restarts: int) -> None:
        """Bring its time limit near while it trains; returns when it is in the queue again."""
        with self.halted(self.last_step() + FEW):
            hours, minutes, _ = self.facts["RunTime"].split(":")
            self._limit(60 * int(hours) + int(minutes) + 2)  # less than two minutes are left
            self.wait_for(lambda: self.text.count("\nstopping: ") == restarts, "asked to stop")
        self.wait_for(lambda: self.facts["Restarts"] == str(restarts), f"restart {restarts}")
        self._limit(60)

    def _limit(self, minutes: int) -> None:
        self.cluster.call("scontrol", "update", f"JobId={self.number}", f"TimeLimit={minutes}")

    def measurements(self) -> dict[int, dict[str, float]]:
        """Losses, gradient norms, samples and learning rate of each step."""
        [folder] = self.store.glob("pretrain/*/")
        found = ranks.read_run(folder)
        assert sorted(found) == list(range(1, STEPS + 1))
        return found

    def weights(self) -> dict[str, str]:
        return {
            path.name: sha256_of_file(path)
            for path in self.store.glob("pretrain/*/model/*.safetensors")
        }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("slurm"), []) as found:
        yield found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def store(project: Project, tmp_path: Path) -> Iterator[Path]:
    found = project.copy(tmp_path / "store")
    yield found
    kill_all(whole_run.MARK, str(found))


@pytest.fixture(scope="module")
def undisturbed(cluster: Slurm, project: Project, tmp_path_factory: pytest.TempPathFactory) -> Job:
    store = project.copy(tmp_path_factory.mktemp("undisturbed") / "store")
    job = Job(cluster, project, store, "--time=60", "--")
    assert job.wait() == "COMPLETED", job.text
    assert job.facts["Restarts"] == "0" and job.last_step() == STEPS
    return job


def test_at_its_limit_a_job_saves_goes_back_and_ends_like_one_without_a_limit(
    cluster: Slurm, project: Project, undisturbed: Job, store: Path
) -> None:
    job = Job(cluster, project, store, "--time=60", "--")
    job.reach_limit(1)
    job.reach_limit(2)
    assert job.wait() == "COMPLETED", job.text
    assert job.text.count("goes back into the queue") == 2
    assert f"job {job.number}, 1 node(s), start 3" in job.text, "one log, one number"
    assert job.measurements() == undisturbed.measurements()
    assert job.weights() == undisturbed.weights() != {}


def test_scancel_saves_and_ends_it_for_good_and_the_next_job_goes_on(
    cluster: Slurm, project: Project, undisturbed: Job, store: Path
) -> None:
    job = Job(cluster, project, store, "--time=60", "--")
    with job.halted(FEW):
        cluster.call("scancel", job.number)
    assert job.wait() == "CANCELLED"
    assert job.facts["Restarts"] == "0"
    saved = job.last_step()
    assert f"saved step {saved}" in job.text, job.text
    again = Job(cluster, project, store, "--time=60", "--")
    assert again.wait() == "COMPLETED", again.text
    assert again.measurements() == undisturbed.measurements()
    assert again.weights() == undisturbed.weights()


def test_a_job_that_is_requeued_from_outside_goes_on(
    cluster: Slurm, project: Project, undisturbed: Job, store: Path
) -> None:
    """As at a preemption: everything gets SIGTERM at once."""
    job = Job(cluster, project, store, "--time=60", "--")
    with job.halted(FEW):
        cluster.call("scontrol", "requeue", job.number)
    assert job.wait() == "COMPLETED", job.text
    assert job.facts["Restarts"] == "1"
    assert "goes back into the queue" not in job.text, "the script does not ask for a second time"
    assert job.measurements() == undisturbed.measurements()
    assert job.weights() == undisturbed.weights()


def test_an_error_ends_it_with_its_exit_code(cluster: Slurm, project: Project, store: Path) -> None:
    job = Job(cluster, project, store, "--time=60", "--", "--set", "pretrain.steps=-1")
    assert job.wait() == "FAILED"
    assert (job.facts["ExitCode"], job.facts["Restarts"]) == ("2:0", "0")
    assert "pretrain.steps" in job.text


def test_two_nodes_train_as_one_and_go_on_after_the_limit(
    project: Project, tmp_path_factory: pytest.TempPathFactory, store: Path
) -> None:
    with two_machines() as machines, slurm(tmp_path_factory.mktemp("slurm"), machines) as cluster:
        whole = Job(cluster, project, project.copy(store.parent / "whole"), "--nodes=2", "--")
        assert whole.wait() == "COMPLETED", whole.text
        job = Job(cluster, project, store, "--nodes=2", "--")
        job.reach_limit(1)
        assert job.wait() == "COMPLETED", job.text
        for one in (job, whole):
            assert one.text.count("2 node(s)") == int(one.facts["Restarts"]) + 1
        assert job.measurements() == whole.measurements()
        assert job.weights() == whole.weights() != {}
