"""The device that figures belong to."""

import torch

from common.provenance import processor_name


def device_name(device: torch.device) -> str:
    """Name of the accelerator, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
