"""Ranks on one machine listen on loopback only; ranks on several are one run."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import ConfigError, DataError
from model.entry.join import LAUNCH_FILE, LaunchSpec, NodeAgent
from model.entry.launch import Nodes, environment
from model.train.checkpoint.writer import complete_checkpoints
from model.train.run.folder import CHECKPOINTS_FOLDER
from tests.model.train import ranks
from tests.processes import PATIENCE_SECONDS, wait_until

LOOPBACK = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PET_LOCAL_ADDR": "127.0.0.1"}


def start(root: Path, log: Path, *arguments: object) -> "subprocess.Popen[bytes]":
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=root,
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **LOOPBACK},
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(pids: set[int]) -> list[str]:
    """Addresses, in hexadecimal, on which these processes listen."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = str(descriptor.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    addresses = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in inodes:
                addresses.append(columns[1].rpartition(":")[0])
    return addresses


@pytest.mark.parametrize("num_processes", [1, 2])
def test_one_machine_listens_on_loopback_only(
    root: Path, tmp_path: Path, num_processes: int
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"output": str(tmp_path), "steps": 10_000}))
    log = tmp_path / "log"
    launcher = start(root, log, "model.entry.launch", num_processes, "tests.entry_program", config)
    try:
        begun = lambda: len(list(tmp_path.glob("rank-*.json"))) == num_processes  # noqa: E731
        wait_until(begun, "all ranks work", process=launcher, log=log)
        pids = {json.loads(p.read_text())["pid"] for p in tmp_path.glob("rank-*.json")}
        found = listening({launcher.pid, *pids})
        assert found, "gloo's ranks and the store listen somewhere"
        assert set(found) == {"0100007F"}, "127.0.0.1"
    finally:
        launcher.terminate()
        launcher.wait(PATIENCE_SECONDS)
    assert len(list(tmp_path.glob("saved-*"))) == num_processes


@pytest.mark.slow
def test_two_nodes_train_as_one(packed: Path, tmp_path: Path, root: Path) -> None:
    """Two torchruns with one rank each, with a copy of the weights on each, are a run of two."""
    changes = ranks.settings(steps=4, parallel={"shard": "node"})
    runs = {}
    for name in ("one", "two"):
        runs[name] = ranks.write_job(packed, tmp_path / name, changes)
    log = tmp_path / "log"
    alone = start(root, log, "model.entry.launch", 2, "model.entry.pretrain", runs["one"])
    assert alone.wait(PATIENCE_SECONDS) == 0, log.read_text()
    where = ("--nodes", 2, "--rendezvous", f"127.0.0.1:{free_port()}", "--run-id", "pair")
    nodes = [
        start(
            root,
            tmp_path / f"log-{n}",
            "model.entry.launch",
            *where,
            1,
            "model.entry.pretrain",
            runs["two"],
        )
        for n in range(2)
    ]
    for number, node in enumerate(nodes):
        assert node.wait(PATIENCE_SECONDS) == 0, (tmp_path / f"log-{number}").read_text()
    expected = ranks.read_run(tmp_path / "one")
    found = ranks.read_run(tmp_path / "two")
    assert sorted(found) == [1, 2, 3, 4]
    for step, metrics in expected.items():
        # One copy over two ranks adds gradients in another order than a copy on each.
        assert found[step] == ranks.alike(metrics), step


@pytest.mark.slow
def test_a_machine_that_joins_serves_one_launch_after_the_other(
    root: Path, packed: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    log = tmp_path / "log"
    # Longer than the test waits: the first call is withdrawn while it runs.
    long = ranks.settings(
        steps=60, weights={"alpha": 4.0, "beta": 4.0}, checkpoints={"interval": 1000}
    )
    jobs = [
        ranks.write_job(packed, store / "first", long),
        ranks.write_job(packed, store / "second", ranks.settings(steps=3)),
    ]
    joiner = start(root, log, "model.entry.join", store)
    try:
        for number, job in enumerate(jobs):
            nodes = Nodes(num=2, rendezvous=f"127.0.0.1:{free_port()}")
            spec = LaunchSpec.make(nodes, 1, "model.entry.pretrain", [str(job)])
            with spec.published(store):
                here = start(root, log, *spec.command()[2:])
                if number == 0:
                    trains = lambda: len(ranks.read_run(store / "first")) >= 2  # noqa: E731
                    wait_until(trains, "both machines train", process=here, log=log)
                    here.terminate()
                    here.wait(PATIENCE_SECONDS)
                else:
                    assert here.wait(PATIENCE_SECONDS) == 0, log.read_text()
            assert not (store / LAUNCH_FILE).exists()
        assert sorted(ranks.read_run(store / "second")) == [1, 2, 3]
        [saved] = complete_checkpoints(store / "first" / CHECKPOINTS_FOLDER)
        assert saved.name == f"step-{max(ranks.read_run(store / 'first')):08d}"
    finally:
        joiner.send_signal(signal.SIGTERM)
        assert joiner.wait(PATIENCE_SECONDS) == 0


def test_a_machine_may_be_there_before_the_first_launch(tmp_path: Path) -> None:
    """As on Slurm, where all nodes begin at once."""
    assert LaunchSpec.read(tmp_path) is None
    agent = NodeAgent(tmp_path)
    agent.look()
    agent.end()


def test_only_our_entries_are_started_by_a_launch(tmp_path: Path) -> None:
    spec = LaunchSpec.make(Nodes(num=2, rendezvous="a:1"), 1, "http.server", [])
    with pytest.raises(DataError, match=r"http\.server is no entry"), spec.published(tmp_path):
        LaunchSpec.read(tmp_path)
    (tmp_path / LAUNCH_FILE).write_text('{"module": "model.entry.pretrain", "shell": "true"}')
    with pytest.raises(ConfigError, match="unknown key 'shell'"):
        LaunchSpec.read(tmp_path)


@pytest.mark.parametrize(
    "rendezvous", ["", "node0", "node0:", ":29400", "node0:99999", "a..b:29400", "node0:²"]
)
def test_machines_need_a_place_to_meet(rendezvous: str) -> None:
    with pytest.raises(ConfigError, match=r"HOST:PORT"):
        Nodes(num=2, rendezvous=rendezvous).check()
    Nodes(rendezvous=rendezvous).check()
    Nodes(num=2, rendezvous="node0:29400").check()
    Nodes(num=2, rendezvous="[fd00::1]:29400").check()


def test_the_environment_may_say_which_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Nodes.from_environment() == Nodes()
    monkeypatch.setenv("PET_NNODES", "4")
    monkeypatch.setenv("PET_RDZV_ENDPOINT", "head:29400")
    assert Nodes.from_environment() == Nodes(num=4, rendezvous="head:29400")


def test_inductor_and_the_allocator_are_told_what_a_rank_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("TORCHINDUCTOR_COMPILE_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    found = environment(8)
    assert found["TORCHINDUCTOR_COMPILE_THREADS"] == "12"
    assert environment(1)["TORCHINDUCTOR_COMPILE_THREADS"] == "16", "each takes memory"
    assert found["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    # The user's own values stay, the older name of the second included.
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "3")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    found = environment(8)
    assert found["TORCHINDUCTOR_COMPILE_THREADS"] == "3"
    assert "PYTORCH_ALLOC_CONF" not in found
