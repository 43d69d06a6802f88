"""Speed: tokens per second, and the share of the device's peak that they mean (MFU)."""

import datetime

import torch
from torch import nn
from transformers import PreTrainedModel

PEAK_BF16_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
"""Dense bf16 tensor-core peak of one device, FLOP/s, from NVIDIA's datasheets."""


def peak_flops(device: torch.device) -> float | None:
    """Datasheet bf16 peak of this rank's device; None when it isn't known (any CPU)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_BF16_FLOPS.items() if key in name), None)


def flops_per_token(model: PreTrainedModel, sequence_length: int) -> float:
    """Forward and backward FLOPs to train on one token, recomputation not counted.

    6 per weight of every matrix that multiplies the token (input embeddings only look up), plus
    12 x layers x width x L / 2 for causal attention (PaLM, Chowdhery et al. 2022, appendix B).
    Soft MoE over the sequence feeds each expert slots instead of tokens, so its experts count for
    slots / L of a token.
    """
    config = model.config
    slots = getattr(config, "slots_per_expert", 1)
    sequence_routing = getattr(config, "routing", "token") in ("sequence", "reference_norm")
    weights = 0.0
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            continue
        share = slots / sequence_length if sequence_routing and ".experts." in f"{name}." else 1.0
        own = module.parameters(recurse=False)
        weights += share * sum(p.numel() for p in own if p.ndim >= 2)
    if getattr(config, "tie_word_embeddings", False):
        weights += model.get_input_embeddings().weight.numel()
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    attention = 12 * config.num_hidden_layers * heads * head_dim * sequence_length / 2
    return float(6 * weights + attention)


class Speedometer:
    """Counts training time only: validation and checkpoints don't slow the tokens per second."""

    def __init__(
        self,
        *,
        tokens_per_step: int,
        flops_per_token: float,
        device: torch.device,
        world_size: int,
    ) -> None:
        self.tokens_per_step = tokens_per_step
        self.flops_per_token = flops_per_token
        self.device = device
        peak = peak_flops(device)
        self.peak = peak * world_size if peak else None
        self._seconds = 0.0
        self._steps = 0
        self._step_seconds = 0.0

    def step(self, seconds: float) -> None:
        """One step took so long."""
        self._seconds += seconds
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Means since the last reading."""
        assert self._steps, "read before the first step"
        self._step_seconds = self._seconds / self._steps
        speed = self.tokens_per_step / self._step_seconds
        self._seconds, self._steps = 0.0, 0
        metrics = {
            "perf/tokens_per_second": speed,
            "perf/step_seconds": self._step_seconds,
        }
        if self.peak:
            metrics["perf/mfu"] = speed * self.flops_per_token / self.peak
        if self.device.type == "cuda":
            metrics["perf/memory_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return metrics

    def left(self, steps: int) -> str:
        """Time that so many steps will take at the last speed, h:mm:ss."""
        return str(datetime.timedelta(seconds=round(steps * self._step_seconds)))
