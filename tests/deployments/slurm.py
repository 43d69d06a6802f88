"""A Slurm of the tests' own on this machine: real programs, loopback or two network namespaces.

    munged ◀── slurmctld ◀──▶ slurmd of each node ──▶ the job's script, as this user
                   ▲
    sbatch, scontrol, squeue, scancel: `Slurm.call`

Everything is below one folder and ends with the block. Each node says that it has one GPU, which
nothing looks at: it is /dev/null.
"""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines import Machine

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
START_SECONDS = 120
CONFIG = """\
ClusterName=steel
SlurmctldHost={controller}({addresses[0]})
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
GresTypes=gpu
ReturnToService=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A running one."""

    def __init__(self, folder: Path, machines: list[Machine]) -> None:
        self.folder = folder
        self._machines = machines
        self._processes = contextlib.ExitStack()
        self._started: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))},
            "SLURM_CONF": str(folder / "slurm.conf"),
        }

    def start(self) -> None:
        """Write its configuration and start its programs; skips where they can't be."""
        nodes = [f"node{number}" for number in range(max(1, len(self._machines)))]
        addresses = [machine.address for machine in self._machines] or ["127.0.0.1"]
        here = socket.gethostname()
        text = CONFIG.format(
            folder=self.folder,
            user=getpass.getuser(),
            # The controller finds itself by the name of the machine that it runs on.
            controller=nodes[0] if self._machines else here,
            addresses=addresses,
            ports=free_ports(2),
        )
        for node, address in zip(nodes, addresses, strict=True):
            name = node if self._machines else here
            text += f"NodeName={node} NodeHostname={name} NodeAddr={address} CPUs=2 Gres=gpu:1\n"
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        (self.folder / "state").mkdir()
        munge = self.folder / "munge"
        munge.mkdir(mode=0o755)
        (munge / "key").write_bytes(os.urandom(1024))
        (munge / "key").chmod(0o600)
        hosts = "".join(
            f"{address} {node}\n" for node, address in zip(nodes, addresses, strict=True)
        )
        (self.folder / "hosts").write_text("127.0.0.1 localhost\n" + hosts)
        places = {"socket": "socket", "key-file": "key", "pid-file": "pid"}
        places |= {"log-file": "log", "seed-file": "seed"}
        options = [f"--{name}={munge / place}" for name, place in places.items()]
        self._run("munged", "--foreground", "--force", *options)
        self._run("slurmctld", "-D", "-c")
        for number, node in enumerate(nodes):
            self._run("slurmd", "-D", "-N", node, number=number)
        deadline, ready = time.monotonic() + START_SECONDS, f"{len(nodes)} idle"
        while self.call("sinfo", "--noheader", "--format=%D %t", check=False) != ready:
            for process in self._started:
                if process.poll() is not None:
                    pytest.skip(f"Slurm does not start on this system: {self.logs()}")
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.5)

    def stop(self) -> None:
        """Cancel what runs, and end its programs."""
        self.call("scancel", f"--user={getpass.getuser()}", "--signal=KILL", "--full", check=False)
        self._processes.close()

    def call(self, *command: str, check: bool = True, **environment: str) -> str:
        """Start a command on the first node; returns its output."""
        done = subprocess.run(
            [*self._inside(0), *command],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}{self.logs()}"
        return done.stdout.strip()

    def facts(self, job: str) -> dict[str, str]:
        """Facts of Slurm about a job: `JobState`, `Restarts`, `ExitCode`, …"""
        words = self.call("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def logs(self) -> str:
        """The ends of its programs' logs."""
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log")))

    def _inside(self, number: int) -> list[str]:
        """Words before a command that is to run on a node."""
        if not self._machines:
            return []
        name = f"node{number}"
        script = f'mount --bind "{self.folder}/hosts" /etc/hosts && hostname {name} && exec "$@"'
        return [
            # Unlike `ip netns exec` it leaves /sys as it is, in which slurmd looks for cgroups.
            *("nsenter", f"--net=/run/netns/{self._machines[number].name}"),
            *("unshare", "--uts", "--mount", "sh", "-c", script, name),
        ]

    def _run(self, *command: str, number: int = 0) -> None:
        program = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None
        log = self._processes.enter_context((self.folder / f"{command[0]}.out").open("ab"))
        process = subprocess.Popen(
            [*self._inside(number), program, *command[1:]],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

        self._started.append(process)

        def end() -> None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        self._processes.callback(end)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses."""
    with contextlib.ExitStack() as probes:
        found = []
        for _ in range(count):
            probe = probes.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            found.append(int(probe.getsockname()[1]))
        return found


@contextlib.contextmanager
def slurm(folder: Path, machines: list[Machine]) -> Iterator[Slurm]:
    """A Slurm with these machines as nodes, or this one alone; skips where it is not installed."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]  # fmt: skip  # noqa: E501
    if absent:
        pytest.skip(f"needs Slurm and munge (Debian: slurm-wlm, munge); absent: {absent}")
    found = Slurm(folder, machines)
    try:
        found.start()
        yield found
    finally:
        found.stop()
