"""What figures belong to: the device, and the versions of what drives it."""

import contextlib
import platform
from importlib import metadata
from pathlib import Path

import torch

LIBRARIES = ("torch", "triton", "transformers", "liger-kernel", "flash-attn")


def device_name(device: torch.device) -> str:
    """Name of the accelerator, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    return platform.processor() or platform.machine()


def software() -> dict[str, str]:
    """Versions of what shapes speed."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    if torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    return versions
