"""GPUs: driver against torch's CUDA build, compute capability, NCCL, direct access, flash-attn.

`nvidia-smi` and the packages' own files answer; torch is not imported, which takes seconds.
"""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from flows.doctor.finding import Finding, note, ok, problem

SECONDS = 10.0
"""Longest wait for nvidia-smi: a driver that hangs must not hang the doctor."""

LEAST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 65)}
"""CUDA's major version -> the oldest Linux driver that runs it (CUDA Toolkit release notes, table
"CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility")."""
LEAST_CAPABILITY = {11: (3, 7), 12: (5, 0), 13: (7, 5)}
"""CUDA's major version -> the oldest compute capability that torch is built for (its release
notes)."""
BFLOAT16 = (8, 0)
"""Compute capability from which bfloat16 is computed in hardware."""
PIP = ".venv/bin/python -m pip"


@dataclass(frozen=True, kw_only=True)
class _FlashAttention:
    """A package of FlashAttention."""

    package: str
    name: str
    """Value of `attn_implementation`."""
    capability: tuple[int, int]
    """Oldest compute capability that it is for."""
    command: str
    """Installs it."""


FLASH_ATTENTION = (
    _FlashAttention(
        package="flash-attn-4",
        name="flash_attention_4",
        capability=(9, 0),
        command=f"{PIP} install -c requirements.lock -e '.[flash-attn-4]'",
    ),
    _FlashAttention(
        package="flash-attn",
        name="flash_attention_2",
        capability=(8, 0),
        command=f"{PIP} install --no-build-isolation -c requirements.lock -e '.[flash-attn]' "
        "(compiles for long, with nvcc: docs/pretraining.md)",
    ),
)
"""In order of preference."""
FIELDS = ("name", "driver_version", "memory.total", "compute_cap", "mig.mode.current")


def findings(smi: str = "nvidia-smi") -> Iterator[Finding]:
    """Findings about GPUs. smi: the program that is asked."""
    cuda = torch_cuda()
    program = shutil.which(smi)
    devices = Path("/proc/driver/nvidia/gpus")
    if program is None:
        if devices.is_dir() and any(devices.iterdir()):
            yield problem(
                "gpu",
                "this machine has NVIDIA GPUs, but nvidia-smi is not there",
                "install the driver's tools (nvidia-utils), or run the container with --gpus all",
            )
        else:
            yield note("gpu", "no NVIDIA GPU: models are trained on the CPU, as in `make demo`")
        return
    rows, error = _ask(program, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")
    if error or not rows:
        yield problem(
            "gpu",
            f"nvidia-smi does not answer: {error or 'it lists no GPU'}",
            "reload the driver (modprobe nvidia), or restart the machine or container",
        )
        return
    gpus = [[cell.strip() for cell in row.split(",")] for row in rows]
    yield from _driver(gpus, cuda)
    yield from _capability(gpus, cuda)
    if len(gpus) > 1:
        yield from _peers(program)
        yield from _nccl()
    yield from _flash_attention(gpus)


def torch_cuda() -> str | None:
    """CUDA version that the installed torch is built for; None for a CPU build or without torch."""
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([0-9.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def _ask(program: str, *arguments: str) -> tuple[list[str], str]:
    """Lines of its answer, and the reason why there are none."""
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return [], f"no answer within {SECONDS:.0f} s"
    except OSError as error:
        return [], str(error)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return [], said[0][:200] if said else f"status {done.returncode}"
    return lines, ""


def _driver(gpus: list[list[str]], cuda: str | None) -> Iterator[Finding]:
    name, driver, memory = gpus[0][:3]
    what = f"{len(gpus)} × {name}, {memory} MiB, driver {driver}"
    if cuda is None:
        yield problem(
            "gpu",
            f"{what}; but the installed torch is a CPU build",
            ".venv/bin/python -m pip install --force-reinstall --no-deps torch==2.13.0 "
            "--index-url https://download.pytorch.org/whl/cu130",
        )
        return
    wanted = LEAST_DRIVER.get(int(cuda.split(".")[0]))
    has = tuple(int(part) for part in re.findall(r"\d+", driver)[:2])
    if wanted and has < wanted:
        yield problem(
            "gpu",
            f"{what}; torch is built for CUDA {cuda}, which needs driver "
            f"{wanted[0]}.{wanted[1]} or newer",
            "update the driver, or install a torch for an older CUDA: pip install torch==2.13.0 "
            "--index-url https://download.pytorch.org/whl/cu126",
        )
    else:
        yield ok("gpu", f"{what}; torch for CUDA {cuda}")
    if any(len(gpu) > 4 and gpu[4] == "Enabled" for gpu in gpus):
        yield note("gpu", "MIG is on: each part counts as one GPU, and ranks cannot share two")


def _capability(gpus: list[list[str]], cuda: str | None) -> Iterator[Finding]:
    found = {gpu[3] for gpu in gpus if len(gpu) > 3 and re.fullmatch(r"\d+\.\d+", gpu[3])}
    for text in sorted(found):
        capability = tuple(map(int, text.split(".")))
        wanted = LEAST_CAPABILITY.get(int(cuda.split(".")[0])) if cuda else None
        if wanted and capability < wanted:
            yield problem(
                "gpu",
                f"compute capability {text}; torch for CUDA {cuda} has no code below "
                f"{wanted[0]}.{wanted[1]}",
                "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126",
            )
        elif capability < BFLOAT16:
            yield note(
                "gpu",
                f"compute capability {text}: no bfloat16 in hardware, FSDP2 in fp32 is slow",
                "--set pretrain.precision=fp32",
            )
    if len(found) > 1:
        yield note(
            "gpu", f"GPUs of different kinds ({', '.join(sorted(found))}): the slowest leads"
        )


def _peers(program: str) -> Iterator[Finding]:
    rows, error = _ask(program, "topo", "-p2p", "r")
    if error:
        return
    cells = [cell for row in rows if re.match(r"\s*GPU\d", row) for cell in row.split()[1:]]
    bad = [cell for cell in cells if cell not in ("X", "OK") and not cell.startswith("GPU")]
    if bad:
        yield note(
            "gpu",
            f"GPUs cannot read each other's memory directly ({', '.join(sorted(set(bad)))}): "
            "gradients go through the CPU",
            "switch IOMMU/ACS off in the firmware; if ranks hang, export NCCL_P2P_DISABLE=1",
        )
    elif cells:
        yield ok("gpu", "GPUs read each other's memory directly (P2P)")


def _nccl() -> Iterator[Finding]:
    names = [d.metadata["Name"] for d in metadata.distributions() if d.metadata["Name"]]
    packages = [name for name in names if name.startswith("nvidia-nccl")]
    if packages:
        yield ok("gpu", f"NCCL {metadata.version(packages[0])}")
    else:
        yield note(
            "gpu",
            "NCCL is not there as a package; torch may bring its own",
            ".venv/bin/python -c 'import torch; print(torch.cuda.nccl.version())'",
        )


def _flash_attention(gpus: list[list[str]]) -> Iterator[Finding]:
    """FlashAttention that is there, and the one that these GPUs would have use of."""
    texts = [gpu[3] for gpu in gpus if len(gpu) > 3 and re.fullmatch(r"\d+\.\d+", gpu[3])]
    if not texts:
        return
    oldest = min(tuple(map(int, text.split("."))) for text in texts)
    fitting = [one for one in FLASH_ATTENTION if one.capability <= oldest]
    for one in FLASH_ATTENTION:
        try:
            version = metadata.version(one.package)
        except metadata.PackageNotFoundError:
            continue
        if one in fitting:
            yield ok("gpu", f"{one.package} {version}: attn_implementation auto or {one.name}")
            return
        needed = ".".join(map(str, one.capability))
        yield note(
            "gpu",
            f"{one.package} {version} is not used: it needs compute capability {needed}",
            f"{PIP} uninstall {one.package}",
        )
    if fitting:
        yield note(
            "gpu",
            f"{fitting[0].package} is not installed; torch's own attention is used",
            fitting[0].command,
        )
