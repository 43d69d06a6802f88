"""`steel doctor`: everything outside Steel that a run depends on, looked at in a few seconds.

    finding.py    one finding: its level, its words, the command that mends it
    versions.py   libraries: what is missing, what does not work together
    machine.py    Python, compiler, disks, limits of the system, shared memory, fonts
    gpu.py        GPUs, driver against torch's CUDA build, NCCL, direct access between GPUs
    services.py   ports, the Prefect and MLflow servers and their versions
    network.py    hub or mirror, the machine's clock
    leftovers.py  locks, half-written files, processes and runs that nobody owns

No library that takes seconds is imported: versions come from the packages' own records, GPUs from
`nvidia-smi`, torch's CUDA version from its file version.py.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flows.doctor import gpu, leftovers, machine, network, services, versions
from flows.doctor.finding import Finding


def examine(store: Path, *, offline: bool = False) -> list[Finding]:
    """All findings, in the order in which they are read best.

    offline: ask nothing beyond this machine.
    """

    def looked(*found: Iterator[Finding]) -> list[Finding]:
        return [finding for one in found for finding in one]

    with ThreadPoolExecutor(4) as pool:
        # Those that wait for an answer wait together.
        asked = [
            pool.submit(looked, network.findings(offline=offline)),
            pool.submit(looked, services.findings()),
            pool.submit(looked, gpu.findings()),
        ]
        near = looked(versions.findings(), machine.findings(store))
        left = looked(leftovers.findings(store))
        away, served, gpus = (future.result() for future in asked)
    return [*near, *gpus, *served, *away, *left]
