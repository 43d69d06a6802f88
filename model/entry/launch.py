"""Start an entry in every rank, and die with whoever started this.

    python -m model.entry.launch NUM_PROCESSES MODULE ARGUMENTS…

One process runs the module right here (torchrun's agent would cost seconds for nothing); several
are started by torchrun on this machine. torchrun's ranks live in sessions of their own, where no
signal to our process group reaches them; so this process asks the kernel for SIGTERM when its
parent dies, and torchrun passes it on to the ranks.
"""

import ctypes
import os
import runpy
import signal
import socket
import sys

PR_SET_PDEATHSIG = 1
SHUTDOWN_SECONDS = 20
"""How long torchrun lets the ranks save after SIGTERM before it kills them."""


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask the kernel (Linux) to signal this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number))


def free_port() -> int:
    """A TCP port on loopback that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(argv: list[str]) -> None:
    """Run `argv = [num_processes, module, *arguments]`."""
    die_with_parent()
    num_processes, module, *arguments = argv
    if num_processes == "1":
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1",
                          MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))  # fmt: skip
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    from torch.distributed.run import main as torchrun

    options = ["--standalone", "--local-addr=127.0.0.1", "--max-restarts=0"]
    options += [f"--nproc-per-node={num_processes}", f"--shutdown-timeout={SHUTDOWN_SECONDS}"]
    torchrun([*options, "-m", module, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
