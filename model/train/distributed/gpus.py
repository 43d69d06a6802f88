"""GPUs of this machine, without importing torch, which takes seconds."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import ConfigError

DEVICES = ("/dev/nvidiactl", "/dev/dxg")
"""Files of a machine with a driver for NVIDIA's GPUs (the second: under Windows)."""

COUNT = """
import ctypes
driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
print(0 if failed else count.value)
"""


def num_gpus() -> int:
    """Number of GPUs that a training may use; CUDA_VISIBLE_DEVICES counts."""
    if "torch" in sys.modules:
        import torch

        return torch.cuda.device_count()
    if not any(Path(device).exists() for device in DEVICES):
        return 0
    # In a process of its own: a driver that was initialised here would be no good after a fork.
    counted = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True)
    return int(counted.stdout) if counted.returncode == 0 else 0


NAMES = """
import ctypes, uuid
driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
assert not driver.cuInit(0) and not driver.cuDeviceGetCount(ctypes.byref(count))
for number in range(count.value):
    device, found = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    assert not driver.cuDeviceGet(ctypes.byref(device), number)
    # Version 2 tells parts of one GPU (MIG) apart.
    assert not driver.cuDeviceGetUuid_v2(found, device)
    print(f"GPU-{uuid.UUID(bytes=bytes(found))}")
"""


def gpu_names() -> list[str]:
    """Lasting name of each GPU that a training may use, in the order of CUDA's numbers.

    The same one has the same name in every process and container, whatever CUDA_VISIBLE_DEVICES
    says there. Where the driver tells none, the words of CUDA_VISIBLE_DEVICES, or numbers.
    """
    total = num_gpus()
    if not total:
        return []
    told = subprocess.run([sys.executable, "-c", NAMES], capture_output=True, text=True)
    names = told.stdout.split() if told.returncode == 0 else []
    return names if len(names) == total else [f"GPU {word}" for word in _words(total)]


def visible_devices(numbers: Sequence[int]) -> str:
    """Value of CUDA_VISIBLE_DEVICES for some of the GPUs that are visible here."""
    words = _words(max(numbers, default=-1) + 1)
    return ",".join(words[number] for number in numbers)


def _words(total: int) -> list[str]:
    """Words of CUDA_VISIBLE_DEVICES for the GPUs that are visible here; at least `total`."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    words = [word.strip() for word in given.split(",")] if given else []
    return words if len(words) >= total else [str(number) for number in range(total)]


CAPABILITY = """
import ctypes
driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
assert not driver.cuInit(0) and not driver.cuDeviceGetCount(ctypes.byref(count))
found = []
for number in range(count.value):
    device, values = ctypes.c_int(), (ctypes.c_int(), ctypes.c_int())
    assert not driver.cuDeviceGet(ctypes.byref(device), number)
    for attribute, value in zip((75, 76), values):  # ..._COMPUTE_CAPABILITY_MAJOR, _MINOR
        assert not driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    found.append([value.value for value in values])
print(*min(found))
"""

FP8_CAPABILITY = (9, 0)
"""Oldest compute capability on which `precision: fp8` gains anything (Hopper)."""


def oldest_capability() -> tuple[int, int] | None:
    """Oldest compute capability of the GPUs that a training may use; None where there is none.

    In a process of its own, also where torch is loaded: it would initialise the driver here.
    """
    if not num_gpus():
        return None
    told = subprocess.run([sys.executable, "-c", CAPABILITY], capture_output=True, text=True)
    if told.returncode:
        return None
    major, minor = map(int, told.stdout.split())
    return major, minor


def check_fp8(capability: tuple[int, int] | None) -> None:
    """Raise ConfigError where `precision: fp8` cannot be computed, or gains nothing.

    capability: compute capability of the oldest GPU; None: there is none of NVIDIA.
    """
    if capability is None or capability < FP8_CAPABILITY:
        here = "there is none here"
        if capability is not None:
            here = f"here is {'.'.join(map(str, capability))}"
        raise ConfigError(
            "pretrain: precision: fp8 needs an NVIDIA GPU of compute capability "
            f"{'.'.join(map(str, FP8_CAPABILITY))} (Hopper) or newer, and {here}; set "
            "pretrain.precision to bf16, or to auto: bf16 where a GPU has it, else fp32"
        )


def check_one_each(ranks_here: int, available: int) -> None:
    """Raise ConfigError when ranks of this machine would have to share its GPUs.

    ranks_here: ranks on this machine. available: its GPUs that may be used; 0: the ranks run on the
    CPU, as many as they like. NCCL refuses two ranks on one GPU, and a rank without a GPU crashes.
    """
    if available and ranks_here > available:
        raise ConfigError(
            f"num_processes asks for {ranks_here} ranks on this machine, which has {available} "
            "GPU(s) (CUDA_VISIBLE_DEVICES counts), and each rank needs one of its own: lower "
            "num_processes, or leave it at auto"
        )
