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
