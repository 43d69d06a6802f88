"""A training of two machines, and what each finds out about the other's address."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import ConfigError
from model.entry.launch import Nodes
from model.train.checkpoint.writer import complete_checkpoints
from model.train.distributed import network
from model.train.run.folder import CHECKPOINTS_FOLDER
from tests.machines import Machine, two_machines
from tests.model.train import ranks
from tests.processes import PATIENCE_SECONDS, wait_until

PORT = 29400


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    with two_machines() as found:
        yield found


def launch(machines: list[Machine], root: Path, folder: Path, job: Path, run_id: str) -> list:
    where = ("--nodes", 2, "--rendezvous", f"{machines[0].address}:{PORT}", "--run-id", run_id)
    command = ("model.entry.launch", *where, 1, "model.entry.pretrain", job)
    return [
        machine.start(root, folder / f"{run_id}-{number}.txt", *command)
        for number, machine in enumerate(machines)
    ]


def ended(processes: list["subprocess.Popen[bytes]"]) -> list[int]:
    return [process.wait(PATIENCE_SECONDS) for process in processes]


def logs(folder: Path, run_id: str) -> list[str]:
    return [path.read_text() for path in sorted(folder.glob(f"{run_id}-*.txt"))]


def texts(folder: Path, run_id: str) -> str:
    return "\n".join(logs(folder, run_id))


def test_a_machine_knows_its_own_addresses() -> None:
    """Answers to all that a launch asks for, of this machine and of others."""
    assert network.is_here("127.0.0.1") and network.is_loopback("localhost")
    assert not network.is_here("192.0.2.7"), "an address that nobody has"
    assert network.addresses("no-such-host.invalid") == network.addresses("a..b") == []
    assert not network.is_loopback("no-such-host.invalid")
    assert network.interface_of("127.0.0.1") == "lo"
    assert network.interface_of("192.0.2.7") is None
    own = network.own_address_towards("192.0.2.7")
    assert own is None or (network.is_here(own) and network.interface_of(own))
    assert network.own_address_towards("localhost") == own, "others do not reach its loopback"


def test_a_place_that_nobody_opens_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.entry.launch.JOIN_SECONDS", 0)
    monkeypatch.setattr("model.train.distributed.network.CONNECT_SECONDS", 0.2)
    with pytest.raises(ConfigError, match=r"192\.0\.2\.7:29400.* nothing has listened there"):
        Nodes(num=2, rendezvous="192.0.2.7:29400").wait()
    Nodes(num=2, rendezvous="127.0.0.1:29400").wait()  # is opened here


def test_a_launch_looks_up_its_own_address_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def towards(host: str) -> str:
        asked.append(host)
        return "127.0.0.1"

    monkeypatch.delenv("PET_LOCAL_ADDR", raising=False)
    monkeypatch.setattr("model.entry.launch.own_address_towards", towards)
    nodes = Nodes(num=2, rendezvous="node0.invalid:29400")
    assert nodes.environment() == {"GLOO_SOCKET_IFNAME": "lo"}
    assert "--local-addr=127.0.0.1" in nodes.torchrun_options()
    assert asked == ["node0.invalid"]


def test_a_name_may_lead_here_only_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod of Kubernetes starts before the cluster's names have its own."""
    answers = iter([[], []])
    monkeypatch.setattr(network, "addresses", lambda host: next(answers, ["127.0.0.1"]))
    monkeypatch.setattr("model.entry.launch.JOIN_SECONDS", PATIENCE_SECONDS)
    Nodes(num=2, rendezvous="steel-0.steel.invalid:29400").wait()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_they_train_as_one_and_a_cut_cable_costs_what_follows_the_last_checkpoint(
    machines: list[Machine], packed: Path, tmp_path: Path, root: Path
) -> None:
    changes = ranks.settings(
        steps=40,
        weights={"alpha": 4.0, "beta": 4.0},
        checkpoints={"interval": 5},
        health={"step_timeout_minutes": 0.5, "first_step_timeout_minutes": 2.0},
    )
    expected = ranks.write_job(packed, tmp_path / "expected", changes)
    assert ended(launch(machines, root, tmp_path, expected, "whole")) == [0, 0], texts(
        tmp_path, "whole"
    )
    whole = ranks.read_run(tmp_path / "expected")
    assert sorted(whole) == list(range(1, 41))

    job = ranks.write_job(packed, tmp_path / "cut", changes)
    processes = launch(machines, root, tmp_path, job, "cut")
    wait_until(
        lambda: complete_checkpoints(tmp_path / "cut" / CHECKPOINTS_FOLDER),
        "a checkpoint is there",
        process=processes[0],
        log=tmp_path / "cut-0.txt",
    )
    machines[1].unplug()
    # Ranks end by themselves, on both. torchrun's agent on the machine that is cut off asks for the
    # others for five minutes more, deaf to SIGTERM: `model.entry.join` kills it for a new launch.
    wait_until(
        lambda: all("(allowed: 30)" in log for log in logs(tmp_path, "cut")),
        "the ranks have ended on both machines",
        log=tmp_path / "cut-0.txt",
    )
    processes[1].kill()
    assert 0 not in ended(processes), texts(tmp_path, "cut")
    machines[1].inside("link", "set", machines[1].device, "up")
    again = launch(machines, root, tmp_path, job, "again")
    assert ended(again) == [0, 0], texts(tmp_path, "again")
    assert ranks.read_run(tmp_path / "cut") == whole
