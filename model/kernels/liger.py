"""Liger-Kernel's operations behind our signatures (optional: `pip install liger-kernel`).

Liger's functions save memory by writing over their inputs: RoPE over query and key, cross entropy
over its logits. That is harmless where we call them, since nobody reads those again.
"""

import importlib.util

import torch


def why_not() -> str | None:
    """Why this machine cannot run Liger's kernels; None where it can."""
    if importlib.util.find_spec("liger_kernel") is None:
        return "the package liger-kernel is not installed (pip install liger-kernel==0.8.5)"
    if not torch.cuda.is_available():
        return "this machine has no GPU"
    return None
