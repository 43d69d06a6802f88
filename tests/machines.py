"""Two machines with a network between them: two network namespaces, joined by a cable."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


class Machine:
    """A network namespace with one end of the cable; its loopback is its own."""

    def __init__(self, number: int) -> None:
        self.name = f"steel-{os.getpid()}-{number}"
        self.device = f"st{os.getpid() % 10**6}-{number}"
        self.address = f"10.213.7.{number + 1}"
        ip("netns", "add", self.name)

    def connect(self) -> None:
        ip("link", "set", self.device, "netns", self.name)
        self.inside("addr", "add", f"{self.address}/24", "dev", self.device)
        for device in ("lo", self.device):
            self.inside("link", "set", device, "up")

    def inside(self, *arguments: str) -> None:
        ip("-n", self.name, *arguments)

    def unplug(self) -> None:
        self.inside("link", "set", self.device, "down")

    def remove(self) -> None:
        """The cable goes with the first of its ends."""
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True)

    def start(self, root: Path, log: Path, *arguments: object) -> "subprocess.Popen[bytes]":
        # The name of this machine leads to none of the two.
        names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "PET_LOCAL_ADDR")
        env = {name: value for name, value in os.environ.items() if name not in names}
        with log.open("ab") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name, sys.executable, "-m", *map(str, arguments)],
                cwd=root,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                env={**env, "OMP_NUM_THREADS": "1"},
            )


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def two_machines() -> Iterator[list[Machine]]:
    """Two of them; skips where users may not make any."""
    found: list[Machine] = []
    try:
        try:
            found += [Machine(0)]
            found += [Machine(1)]
            names = [machine.device for machine in found]
            ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
            for machine in found:
                machine.connect()
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this system does not let users make network namespaces (ip netns)")
        yield found
    finally:
        for machine in found:
            machine.remove()
