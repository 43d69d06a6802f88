"""Speed of training: its share of the peak, memory, seconds of each phase, time that is left.

Every rank has this callback; the measurements of rank 0 are logged. Their names begin with `perf/`.
"""

import re
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from model.cost.flops import train_flops
from model.train.callbacks.callback import Callback
from model.train.callbacks.phase_timer import PhaseTimer
from model.train.throughput.peak_flops import datasheet_peak

if TYPE_CHECKING:
    from model.train.distributed.step_outcome import StepOutcome
    from model.train.trainer import Trainer

PHASES = ("data", "forward_backward", "all_reduce", "optimizer")
"""Phases of a step; what lies between steps is measured by those who do it."""
SMOOTHING = 0.1
"""Weight of the newest interval in the mean that the time left is computed from."""


def flops_per_token(model: PreTrainedModel, sequence_length: int) -> float:
    """Forward and backward FLOPs to train on one token, recomputation not counted.

    The formula is `model.cost.flops.train_flops`; input embeddings only look up, and don't count.
    Soft MoE over the sequence feeds each expert slots instead of tokens, so its experts count for
    slots / L of a token. Rows count as one document each: kept apart, documents need less attention
    and more slots.
    """
    config = model.config.get_text_config()
    slots = getattr(config, "slots_per_expert", 1)
    sequence_routing = getattr(config, "routing", "token") in ("sequence", "reference_norm")
    routed = _share_of_experts(config)
    weights = 0.0
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            continue
        share = 1.0
        if sequence_routing and ".experts." in f"{name}.":
            share = slots / sequence_length
        elif sequence_routing and hasattr(module, "phi"):
            share = 3.0  # logits, tokens to slots, slots to tokens
        elif re.search(r"\.experts(\.\d|$)", name):
            share = routed
        own = module.parameters(recurse=False)
        weights += share * sum(p.numel() for p in own if p.ndim >= 2)
    # A head that shares the embedding's weights has been counted with its own name.
    if getattr(config, "tie_word_embeddings", False) and model.get_output_embeddings() is None:
        weights += model.get_input_embeddings().weight.numel()
    heads = getattr(config, "num_attention_heads", 0)
    if not isinstance(heads, int) or not heads:  # without attention, or with other heads by layer
        return 6 * weights
    try:
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    except Exception:  # Transformers' error for a field that differs by layer
        head_dim = config.hidden_size // heads
    return train_flops(
        weights,
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        head_dim=head_dim,
        sequence_length=sequence_length,
    )


def _share_of_experts(config: Any) -> float:
    """Share of a layer's experts that compute a token: 1 where each does, as in Soft MoE."""
    chosen = getattr(config, "num_experts_per_tok", None)
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    there = next((n for name in names if (n := getattr(config, name, None))), None)
    if not isinstance(chosen, int) or not isinstance(there, int):
        return 1.0
    return min(1.0, chosen / there)


@dataclass(kw_only=True, eq=False)
class SpeedMonitor(Callback):
    """Measures one rank's steps.

    Tokens a second count steps only: validation and checkpoints between them don't slow them, but
    are part of the time that is left.
    """

    tokens_per_step: int
    flops_per_token: float
    device: torch.device
    world_size: int
    measured_flops: float
    """FLOP/s that all ranks together reach in matrix products."""

    def __post_init__(self) -> None:
        datasheet = datasheet_peak(self.device)
        self.datasheet_flops = datasheet * self.world_size if datasheet else None
        self.phases = PhaseTimer(self.device)
        self._steps = 0
        self._seconds = 0.0
        self._step_began = 0.0
        self._interval_began: float | None = None
        self._seconds_a_step = 0.0

    def on_phase(self, trainer: "Trainer", phase: str) -> None:
        if phase in PHASES and phase != self.phases.current:
            self.begin(phase)

    def on_step_end(self, trainer: "Trainer", outcome: "StepOutcome") -> None:
        self.end_step()

    def metrics(self, trainer: "Trainer", outcome: "StepOutcome") -> dict[str, float]:
        return self.read(trainer.total_steps - trainer.progress.step)

    def begin(self, phase: str) -> None:
        """Start a phase of a step; the first one starts the step."""
        if not self._step_began:
            self._step_began = time.perf_counter()
            if self._interval_began is None:
                self._interval_began = self._step_began
        self.phases.begin(phase)

    def end_step(self) -> None:
        """End the step, as far as the host is concerned."""
        self.phases.end()
        self._seconds += time.perf_counter() - self._step_began
        self._step_began = 0.0
        self._steps += 1

    def read(self, steps_left: int) -> dict[str, float]:
        """Return means over the steps since the last reading."""
        assert self._steps, "read before the first step"
        seconds, steps = self._seconds / self._steps, self._steps
        speed = self.tokens_per_step / seconds
        flops = speed * self.flops_per_token
        metrics = {
            "perf/tokens_per_second": speed,
            "perf/tokens_per_second_per_device": speed / self.world_size,
            "perf/tflops_per_device": flops / self.world_size / 1e12,
            "perf/mfu_measured_peak": flops / self.measured_flops,
            "perf/step_seconds": seconds,
            "perf/seconds_left": self._left(steps_left),
            **memory(self.device),
        }
        if self.datasheet_flops:
            metrics["perf/mfu"] = flops / self.datasheet_flops
        for name, total in self.phases.read().items():
            metrics[f"perf/{name}_seconds"] = total / steps
        self._seconds, self._steps = 0.0, 0
        return metrics

    def _left(self, steps: int) -> float:
        assert self._interval_began is not None
        now = time.perf_counter()
        newest = (now - self._interval_began) / self._steps
        self._interval_began = now
        if not self._seconds_a_step:
            self._seconds_a_step = newest
        self._seconds_a_step += SMOOTHING * (newest - self._seconds_a_step)
        return steps * self._seconds_a_step


def memory(device: torch.device) -> dict[str, float]:
    """GiB in use by this rank now, and at most since the last reading (on a CPU: since its start).

    On a GPU: held by tensors, taken from the device for them, and the most that tensors held.
    """
    if device.type == "cuda":
        values = {
            "allocated": torch.cuda.memory_allocated(device),
            "reserved": torch.cuda.memory_reserved(device),
            "peak": torch.cuda.max_memory_allocated(device),
        }
        torch.cuda.reset_peak_memory_stats(device)
    else:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        values = {
            "resident": pages * resource.getpagesize(),
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
    return {f"perf/memory_{name}_gib": value / 2**30 for name, value in values.items()}
