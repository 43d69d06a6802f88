"""The scripts for several machines start existing commands, as their schedulers would run them.

The schedulers' own commands (srun, scontrol, ssh) are replaced by ones that note what they are
asked to start; so is `steel`, whose command line is then read by the real parser.
"""

import importlib.util
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.paths import resolve
from common.recipes import load_config
from flows.cli import parser
from flows.config import PipelineConfig
from tests.processes import PATIENCE_SECONDS, wait_until

SCRIPTS = ("multi-node/hosts.sh", "slurm/steel.sbatch")


@pytest.fixture
def folder(root: Path) -> Path:
    return root / "deployments"


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """Commands that note their arguments, one a line, in calls/<name>.

    `steel` ends once STEEL_AFTER's files are there too, and `never` with nothing
    but a signal.
    """
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    calls.mkdir()
    # By a rename, so that a file that is seen is whole.
    note = f'printf "%s\\n" "$@" >"{calls}/.$$"\nmv "{calls}/.$$" "{calls}/$(basename "$0")"\n'
    bodies = {
        "scontrol": '[ "$1" = show ] && printf "node0\\nnode1\\nnode2\\n" || true\n',
        "squeue": 'echo "${JOB_STATE:-RUNNING}"\n',
        "srun": "exec sleep 600\n",
        "ssh": f'touch "{calls}/ssh-$4"\nexec sleep 600\n',
        "steel": f'for name in ${{STEEL_AFTER:-}}; do until [ -e "{calls}/$name" ]; do sleep 0.05; '
        'done; done\nexit "${STEEL_CODE:-0}"\n',
    }
    for name, body in bodies.items():
        first = 'trap "exit 143" TERM\n' if name == "steel" else ""  # before anybody knows of it
        (folder / name).write_text(f"#!/usr/bin/env bash\n{first}{note}{body}")
        (folder / name).chmod(0o755)
    return folder


def start(script: Path, bin_folder: Path, *arguments: str, **env: str) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "HEAD": "node0",
        "SLURM_SUBMIT_DIR": str(script.parents[2]),
        "SLURM_NNODES": "3",
        "SLURM_JOB_ID": "70123",
        "SLURM_JOB_NODELIST": "node[0-2]",
        **env,
    }
    return subprocess.Popen(["bash", str(script), *arguments], env=environment)


def called(bin_folder: Path, name: str) -> list[str]:
    path = bin_folder.parent / "calls" / name
    wait_until(path.exists, f"{name} is called")
    return path.read_text().splitlines()


def check_run(arguments: list[str]) -> Any:
    """The pretraining's config that this `steel` command line gives."""
    given = parser().parse_args(arguments)
    assert arguments[0] == "run" and given.stages == "pretrain"
    return load_config(resolve(given.config), PipelineConfig, given.overrides).pretrain


def check_join(text: str) -> None:
    assert "python -m model.entry.join" in text.replace("'", "")
    assert importlib.util.find_spec("model.entry.join")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_are_valid_and_say_how_they_are_used(folder: Path, name: str) -> None:
    subprocess.run(["bash", "-n", str(folder / name)], check=True)
    asked = subprocess.run(
        ["bash", str(folder / name)], capture_output=True, text=True, check=False
    )
    assert asked.returncode != 0
    assert "CONFIG.yaml STORE" in asked.stdout + asked.stderr


def test_hosts(folder: Path, bin_folder: Path, tmp_path: Path) -> None:
    script = start(
        folder / "multi-node" / "hosts.sh",
        bin_folder,
        "deployments/steel-1b.yaml",
        str(tmp_path / "store"),
        "node1",
        "node2",
        STEEL_AFTER="ssh-node1 ssh-node2",
    )
    assert script.wait(PATIENCE_SECONDS) == 0
    config = check_run(called(bin_folder, "steel"))
    assert (config.nodes, config.rendezvous) == (3, "node0:29400")
    check_join(" ".join(called(bin_folder, "ssh")))
    assert (tmp_path / "store" / "join-node2.log").exists()


@pytest.mark.parametrize("code", [0, 3])
def test_slurm(folder: Path, bin_folder: Path, tmp_path: Path, code: int) -> None:
    script = start(
        folder / "slurm" / "steel.sbatch",
        bin_folder,
        "deployments/steel-1b.yaml",
        str(tmp_path / "store"),
        STEEL_AFTER="srun",
        STEEL_CODE=str(code),
    )
    assert script.wait(PATIENCE_SECONDS) == code
    config = check_run(called(bin_folder, "steel"))
    assert (config.nodes, config.rendezvous) == (3, "node0:30123")
    step = called(bin_folder, "srun")
    assert {"--relative=1", "--nodes=2", "--ntasks=2"} <= set(step), "all nodes but the first"
    check_join(" ".join(step))


@pytest.mark.parametrize(
    ("state", "restarts", "queued"),
    [("RUNNING", "0", True), ("RUNNING", "100", False), ("CANCELLED", "0", False)],
    ids=["time limit", "too often", "scancel"],
)
def test_slurms_signal_reaches_the_training_which_goes_back_into_the_queue(
    folder: Path, bin_folder: Path, tmp_path: Path, state: str, restarts: str, queued: bool
) -> None:
    script = start(
        folder / "slurm" / "steel.sbatch",
        bin_folder,
        "deployments/steel-1b.yaml",
        str(tmp_path / "store"),
        STEEL_AFTER="never",
        SLURM_NNODES="1",
        SLURM_RESTART_COUNT=restarts,
        JOB_STATE=state,
    )
    try:
        called(bin_folder, "steel")
    except AssertionError:
        script.kill()
        script.wait()
        raise
    script.send_signal(signal.SIGTERM)
    assert script.wait(PATIENCE_SECONDS) == 143
    scontrol = bin_folder.parent / "calls" / "scontrol"
    assert scontrol.exists() is queued
    if queued:
        assert called(bin_folder, "scontrol") == ["requeue", "70123"]


def test_one_node_runs_the_stages_that_are_named(
    folder: Path, bin_folder: Path, tmp_path: Path
) -> None:
    """A run that ends by itself, with an error too, does not go back into the queue."""
    script = start(
        folder / "slurm" / "steel.sbatch",
        bin_folder,
        "deployments/smoke.yaml",
        str(tmp_path / "store"),
        "--stages",
        "sft,dpo",
        SLURM_NNODES="1",
        STEEL_CODE="3",
    )
    assert script.wait(PATIENCE_SECONDS) == 3
    given = parser().parse_args(called(bin_folder, "steel"))
    assert (given.stages, given.overrides) == ("sft,dpo", [])
    assert not (bin_folder.parent / "calls" / "srun").exists()
    assert not (bin_folder.parent / "calls" / "scontrol").exists()


def test_slurm_says_two_minutes_before_the_limit_and_may_put_the_job_back(folder: Path) -> None:
    text = (folder / "slurm" / "steel.sbatch").read_text()
    options = set(re.findall(r"^#SBATCH (\S+)", text, re.M))
    assert {"--requeue", "--open-mode=append", "--signal=B:TERM@120"} <= options


def test_kubernetes(folder: Path) -> None:
    documents = list(yaml.safe_load_all((folder / "multi-node" / "kubernetes.yaml").read_text()))
    by_kind = {document["kind"]: document for document in documents}
    job = by_kind["Job"]["spec"]
    assert job["completions"] == job["parallelism"]
    pod = job["template"]["spec"]
    service = by_kind["Service"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= job["template"]["metadata"]["labels"].items()
    [container] = pod["containers"]
    [script] = container["args"]
    subprocess.run(["bash", "-n"], input=script.encode(), check=True)
    check_join(script)
    command = script.replace("\\\n", " ").split("exec steel ")[1].split()
    config = check_run(command)
    assert config.nodes == job["completions"]
    host, _, port = config.rendezvous.partition(":")
    assert host == f"{by_kind['Job']['metadata']['name']}-0.{pod['subdomain']}"
    assert int(port) == service["spec"]["ports"][0]["port"]
    claims = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}  # fmt: skip  # noqa: E501
    assert claims == {by_kind["PersistentVolumeClaim"]["metadata"]["name"]}
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
