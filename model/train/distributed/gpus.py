"""Number of GPUs of this machine, without importing torch, which takes seconds."""

import subprocess
import sys
from pathlib import Path

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
