"""Start an entry in every rank, and end it when the parent process dies.

    python -m model.entry.launch NUM_PROCESSES MODULE ARGUMENTS…

One process runs the module right here (torchrun's agent would cost seconds for nothing); several
are started by torchrun. torchrun's ranks live in sessions of their own, where no signal to our
process group reaches them; so this process asks the kernel for SIGTERM when its parent dies, and
torchrun passes it on to the ranks.

Several machines: the same command on each of them, with the same arguments, in any order.

    python -m model.entry.launch --nodes 4 --rendezvous HOST:PORT NUM_PROCESSES MODULE ARGUMENTS…

They meet at HOST:PORT, which the one that HOST names opens. Without `--nodes`, torchrun's own
variables count (PET_NNODES, PET_RDZV_ENDPOINT, PET_RDZV_ID), as Kubeflow sets them. Ranks are
numbered by the machines' names: the same machines get the same ranks again after a restart.
"""

import argparse
import logging
import os
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

from common.errors import ConfigError
from common.processes import PARENT, die_with_parent
from common.redaction import install
from model.train.distributed.network import (
    interface_of,
    is_here,
    is_loopback,
    is_possible,
    own_address_towards,
    wait_until_open,
)

SHUTDOWN_SECONDS = 20
"""Grace: how long torchrun lets the ranks save after SIGTERM before it kills them. In it fall the
rest of a step or of a validation batch, the rest of a save that is under way, and a save."""
GRACE_SECONDS = SHUTDOWN_SECONDS + 5.0
"""Grace of a launch as a whole: a little more, for torchrun itself. Prefect's worker kills the flow
30 s after it cancelled it."""
JOIN_SECONDS = 600
"""Seconds for which the machines of a run wait for each other."""


ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "DO_NOT_TRACK": "true",
    # Progress goes to metrics.jsonl; bars would only fill the log.
    "TQDM_DISABLE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    # Threads that wait must not spin: with other work on the machine, even a tracker, spinning made
    # two threads three times slower than one (docs/FOOTGUNS.md).
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Environment of every launch: nothing is fetched, and the log holds no progress bars."""

MAX_COMPILE_WORKERS = 16
"""Processes that a rank's Inductor compiles with, at most: each imports torch and takes 0.5 GB."""
ALLOCATOR = "PYTORCH_ALLOC_CONF"
ALLOCATOR_BEFORE = "PYTORCH_CUDA_ALLOC_CONF"
"""Older name of the same variable, which torch still reads."""


def environment(num_processes: int) -> dict[str, str]:
    """This process's environment with what a launch of so many ranks needs.

    Its own values stay for Inductor's workers and for torch's allocator. Segments of the latter
    that grow hold tensors of any size: rows of changing length leave no gaps behind.
    https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-alloc-conf
    """
    threads = max(1, (os.cpu_count() or 1) // num_processes)
    defaults = {"TORCHINDUCTOR_COMPILE_THREADS": str(min(threads, MAX_COMPILE_WORKERS))}
    if ALLOCATOR_BEFORE not in os.environ:
        defaults[ALLOCATOR] = "expandable_segments:True"
    return {**defaults, **os.environ, "OMP_NUM_THREADS": str(threads), **ENVIRONMENT}


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The machines of a run."""

    num: int = 1
    """Number of machines; each has the same number of ranks."""
    rendezvous: str = ""
    """Rendezvous HOST:PORT; HOST is one of them, by a name or address that all can reach."""
    run_id: str = "steel"
    """Tells runs that meet at the same place apart; the same on all machines."""

    @classmethod
    def from_environment(cls) -> "Nodes":
        """Read torchrun's variables; one machine when they are not set."""
        return cls(
            num=int(os.environ.get("PET_NNODES", "1").rpartition(":")[2]),
            rendezvous=os.environ.get("PET_RDZV_ENDPOINT", ""),
            run_id=os.environ.get("PET_RDZV_ID", cls.run_id),
        )

    def check(self) -> None:
        """Raise ConfigError for a rendezvous that cannot be reached, or none."""
        if self.num < 1:
            raise ConfigError(f"nodes = {self.num}; give 1 or more")
        host, _, port = self.rendezvous.rpartition(":")
        fits = port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536
        if self.num > 1 and not (host and is_possible(host) and fits):
            raise ConfigError(
                f"rendezvous = {self.rendezvous!r}: {self.num} nodes need the HOST:PORT of one of "
                "them, as the others reach it (for example node0:29400)"
            )

    def torchrun_options(self) -> list[str]:
        """Options for torchrun to start this machine's part."""
        if self.num == 1:
            from model.entry import loopback

            loopback.register()
            return [
                "--nnodes=1",
                f"--rdzv-backend={loopback.NAME}",
                "--rdzv-endpoint=127.0.0.1:0",
                "--local-addr=127.0.0.1",
            ]
        # torch asks this machine's name whether it is the one that opens the place, and tells the
        # others that name: it may lead to loopback (Debian's /etc/hosts), or nowhere.
        host, _ = self.place()
        opens = ",is_host=1" if is_here(host) and not is_loopback(host) else ""
        own = None if "PET_LOCAL_ADDR" in os.environ else self.own_address
        return [
            f"--nnodes={self.num}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={self.rendezvous}",
            f"--rdzv-id={self.run_id}",
            f"--rdzv-conf=join_timeout={JOIN_SECONDS}{opens}",
            *([f"--local-addr={own}"] if own else []),
        ]

    def place(self) -> tuple[str, int]:
        """Host and port of the rendezvous."""
        host, _, port = self.rendezvous.rpartition(":")
        return host.strip("[]"), int(port)

    def environment(self) -> dict[str, str]:
        """Interfaces for gloo and NCCL where the user has named none.

        One machine's listen on loopback. Of several, gloo's use the interface on which they reach
        the rendezvous: by itself it takes the one that the machine's name leads to. NCCL looks for
        the best by itself.
        """
        if self.num == 1:
            return {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        own = self.own_address
        interface = interface_of(own) if own else None
        return {"GLOO_SOCKET_IFNAME": interface} if interface else {}

    @cached_property
    def own_address(self) -> str | None:
        """Address under which the other machines reach this one; None leaves it to torch. Looked up
        once, after `wait`: before it a cluster may not know the names."""
        host, _ = self.place()
        is_address = host.replace(".", "").isdigit() or ":" in host
        return None if is_address and is_loopback(host) else own_address_towards(host)

    def wait(self) -> None:
        """Wait until the machine that opens the rendezvous has done so; torch waits for a minute.

        Raises ConfigError when nothing listens there in time.
        """
        if self.num == 1:
            return
        host, port = self.place()
        if wait_until_open(host, port, JOIN_SECONDS):
            return
        raise ConfigError(
            f"rendezvous = {self.rendezvous!r}: nothing has listened there for {JOIN_SECONDS} s. "
            "Is the machine started, and is it reached by this name from here?"
        )


def exit_now(code: int) -> NoReturn:
    """End this process at once, when all its work is done and flushed.

    Python's own way out stops daemon threads wherever they are; one that is inside torch's C++ then
    aborts the process ("terminate called without an active exception"), and a training that is
    complete counts as failed. Seen in one of seven runs with torch 2.11.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run_and_exit(main: Callable[[list[str]], int]) -> NoReturn:
    """Run an entry's main function and end this process at once, with what it returns, or with 1
    and a traceback for an error: threads that wait for other ranks are still inside torch then."""
    try:
        code = main(sys.argv[1:])
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    exit_now(code)


def main(argv: list[str]) -> None:
    """Run an entry in every rank of this machine; exits with 2 for wrong arguments."""
    die_with_parent()
    install()
    given = _parser().parse_args(argv)
    nodes = Nodes.from_environment()
    if given.nodes is not None:
        nodes = Nodes(num=given.nodes, rendezvous=given.rendezvous, run_id=given.run_id)
    try:
        nodes.check()
        nodes.wait()
    except ConfigError as error:
        print(f"launch: {error}", file=sys.stderr)
        sys.exit(2)
    if nodes.num == 1 and given.num_processes == 1:
        from model.entry import loopback

        store = loopback.listen_on_loopback()  # libraries open a world of one in the usual way
        os.environ.update(
            RANK="0",
            LOCAL_RANK="0",
            WORLD_SIZE="1",
            LOCAL_WORLD_SIZE="1",
            MASTER_ADDR=loopback.HOST,
            MASTER_PORT=str(store.port),
            TORCHELASTIC_USE_AGENT_STORE="True",
            TORCHELASTIC_RESTART_COUNT="0",
        )
        sys.argv = [given.module, *given.arguments]
        runpy.run_module(given.module, run_name="__main__", alter_sys=True)
        return
    for name, value in nodes.environment().items():
        os.environ.setdefault(name, value)
    os.environ[PARENT] = str(os.getpid())  # a rank that is started while this one dies ends, too
    from torch.distributed.run import get_args_parser
    from torch.distributed.run import main as torchrun

    # torch 2.11 does not know it yet; it waits for 30 seconds.
    patience = f"--shutdown-timeout={SHUTDOWN_SECONDS}"
    known = "--shutdown-timeout" in get_args_parser().format_help()
    torchrun(
        [
            *nodes.torchrun_options(),
            "--max-restarts=0",
            f"--nproc-per-node={given.num_processes}",
            *([patience] if known else []),
            "-m",
            given.module,
            *given.arguments,
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.entry.launch")
    parser.add_argument("--nodes", type=int, help="machines; default: PET_NNODES, or 1")
    parser.add_argument("--rendezvous", default="", metavar="HOST:PORT")
    parser.add_argument("--run-id", default=Nodes.run_id)
    parser.add_argument("num_processes", type=int, help="ranks on each machine")
    parser.add_argument("module", help="dotted name of the entry")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
