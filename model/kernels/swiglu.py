"""SwiGLU's elementwise part (Shazeer 2020): y = silu(gate) * up, with silu(z) = z sigmoid(z)."""

from torch import Tensor
from torch.nn import functional


def swiglu_eager(gate: Tensor, up: Tensor) -> Tensor:
    """gate, up [...] -> [...]"""
    return functional.silu(gate) * up
