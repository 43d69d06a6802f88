"""Lend this machine to the trainings that another machine runs.

    python -m model.entry.join STORE      on each further machine; same project, same shared store

    first machine: steel run … ──▶ STORE/nodes/launch.json ──▶ every other machine: starts its part
                   (pretrain.nodes: 4)       (atomic)          and waits for the next launch

The store is on a file system that all machines share, under one path. A launch names an entry of
`model.entry` and its job file; nothing else is started. A new launch ends what an old one started,
so a training that the first machine starts again finds this one ready. SIGTERM and Ctrl-C end it,
once its ranks have saved.
"""

import argparse
import contextlib
import dataclasses
import logging
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from common.child import Child, python
from common.config import from_json
from common.devices import Claim, Others, Ticket, taken
from common.errors import DataError
from common.files import write_json
from common.redaction import install
from model.entry.launch import GRACE_SECONDS, Nodes, environment
from model.train.distributed.gpus import gpu_names

log = logging.getLogger("model.entry.join")

LAUNCH_FILE = Path("nodes") / "launch.json"
"""Path of the current launch, from the store."""
ENTRIES = "model.entry."
POLL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """Command that every machine of a run starts."""

    nodes: Nodes
    """Machines; their `run_id` is this launch's own."""
    num_processes: int
    """Ranks on each."""
    module: str
    """The entry."""
    arguments: list[str]
    """Its arguments."""

    @classmethod
    def make(
        cls, nodes: Nodes, num_processes: int, module: str, arguments: list[str]
    ) -> "LaunchSpec":
        """Describe a launch, with an id that no other has."""
        nodes = dataclasses.replace(nodes, run_id=uuid.uuid4().hex)
        return cls(nodes=nodes, num_processes=num_processes, module=module, arguments=arguments)

    def command(self) -> list[str]:
        """Command line that starts one machine's part."""
        nodes = self.nodes
        where = ("--nodes", nodes.num, "--rendezvous", nodes.rendezvous, "--run-id", nodes.run_id)
        return python(
            "model.entry.launch", *where, self.num_processes, self.module, *self.arguments
        )

    @contextlib.contextmanager
    def published(self, store: Path) -> Iterator[None]:
        """Have the machines that wait at this store start their parts, until the block ends."""
        if self.nodes.num == 1:
            yield
            return
        path = store / LAUNCH_FILE
        write_json(path, dataclasses.asdict(self))
        try:
            yield
        finally:
            if LaunchSpec.read(store) == self:  # another run's launch stays
                path.unlink(missing_ok=True)

    @classmethod
    def read(cls, store: Path) -> "LaunchSpec | None":
        """The current launch, if any. Raises DataError when it names no entry of ours."""
        path = store / LAUNCH_FILE
        try:
            spec = from_json(cls, path)
        except DataError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        if not spec.module.startswith(ENTRIES):
            raise DataError(f"{path}: {spec.module} is no entry of {ENTRIES}*; not started")
        return spec


class _NoLongerWantedError(Exception):
    """A launch was over before this machine could begin with it."""


class NodeAgent:
    """Starts this machine's part of every launch at one store."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.stopping = False
        self._spec: LaunchSpec | None = None
        self._child: Child | None = None
        self._held = contextlib.ExitStack()

    def run(self) -> None:
        """Until SIGTERM, SIGINT, or the connection that started this is lost (SIGHUP)."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        log.info("waiting for launches in %s", self.store / LAUNCH_FILE)
        while not self.stopping:
            self.look()
            time.sleep(POLL_SECONDS)
        self.end()

    def look(self) -> None:
        """Start what is called for; note what ended."""
        spec = LaunchSpec.read(self.store)
        if spec is not None and spec != self._spec:
            self.end()
            log.info("starting %d rank(s) of %s", spec.num_processes, spec.module)
            self._spec = spec
            try:
                claim = self._held.enter_context(self._gpus(spec))
            except _NoLongerWantedError:
                return
            self._child = Child(
                spec.command(),
                None,
                env=environment(spec.num_processes),
                grace=GRACE_SECONDS,
                pass_fds=claim.files if claim is not None else (),
            )
        if self._child is not None and (code := self._child.poll()) is not None:
            log.info("ended with exit code %d; waiting for the next launch", code)
            self._child = None
            self._held.close()

    def end(self) -> None:
        """Let the ranks save, and end them."""
        if self._child is not None:
            self._child.stop()
            self._child = None
        self._held.close()

    def _gpus(self, spec: LaunchSpec) -> AbstractContextManager[Claim | None]:
        """Hold all GPUs of this machine, waiting until they are free. Cores are lent as they are.

        Raises _NoLongerWantedError when the launch is over before that.
        """

        def waiting(others: Others) -> None:
            if self.stopping or LaunchSpec.read(self.store) != spec:
                raise _NoLongerWantedError
            if not told:
                whom = ", ".join(ticket.what for ticket in (*others.holders, *others.ahead))
                log.info("the GPUs of this machine are busy: waiting for %s", whom)
                told.append(whom)

        told: list[str] = []
        names = gpu_names()
        ticket = Ticket(what=f"{spec.module} of {spec.nodes.rendezvous}")
        return taken(names, len(names), ticket, waiting=waiting)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True


def main(argv: list[str]) -> int:
    """Follow the launches at a store; returns the exit code."""
    install()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    parser = argparse.ArgumentParser(prog="python -m model.entry.join")
    parser.add_argument("store", type=Path, help="the store that the first machine works in")
    store = parser.parse_args(argv).store.resolve()
    if not store.is_dir():
        log.error("there is no folder %s; is it a file system that all machines share?", store)
        return 2
    NodeAgent(store).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
