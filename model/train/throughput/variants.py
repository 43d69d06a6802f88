"""Configurations of one model that are measured against each other, and the words for them.

    Table 2 of the paper says       here
    attention  flash | torch        torch's scaled dot product attention, flash backend | any other
    RoPE       fused | torch        kernels: a fused one | eager
    RMSNorm    fused | torch        the same
    loss       triton | torch       kernels: without logits | eager (all logits at once)
    FSDP       shard | no param s.  reshard_after_forward: true | false

"torch" attention cannot mean scores written out: at micro-batch 8 they alone are 26 GB in 24 layers
of 16 heads (bf16), and the paper's column has 4 GB more than the one with flash.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from common.errors import ConfigError
from model.architecture import MergedProduct
from model.kernels import IMPLEMENTATIONS
from model.train.activation_checkpoint import ActivationCheckpointing
from model.train.config import PretrainSettings
from model.train.distributed.config import ParallelSettings
from model.train.throughput.measure import Attention

STEEL_1B: dict[str, Any] = {"vocab_size": 151_936, "routing": "token"}
"""Table 1, which SteelConfig's defaults are: 1.12 B parameters."""

TINY: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_experts": 6,
    "expert_intermediate_size": 48,
}
"""Sizes that replace a model's own where there is no GPU: that shows that a table can be made, and
says nothing about speed."""

TINY_SEQUENCE = 128
TINY_MICRO_BATCH = 2


LIGER = ("rms_norm", "rope", "swiglu", "cross_entropy")
"""Operations of ours that Liger-Kernel has."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One configuration, in our words."""

    kernels: str | dict[str, str] = "auto"
    """As SteelConfig.kernels."""
    attention: Attention = "auto"
    """See ThroughputJob."""
    document_tokens: int = 0
    """Mean length of documents that a row packs; 0: a row is one."""
    activation_checkpointing: ActivationCheckpointing = "none"
    """Activations that the backward pass computes again."""
    reshard_after_forward: bool = False
    """FSDP frees gathered weights between forward and backward."""
    compile: bool = False
    """torch.compile each layer."""
    precision: Literal["auto", "fp8"] = "auto"
    """As PretrainSettings.precision."""
    merged_products: tuple[MergedProduct, ...] = ()
    """Matrix products that are computed as one each."""
    model: dict[str, Any] = field(default_factory=dict)
    """Changes to the model's config."""

    def settings(
        self,
        model: dict[str, Any],
        *,
        num_processes: int,
        micro_batch_size: int,
        accumulation: int = 1,
        sequence_length: int = 2048,
    ) -> PretrainSettings:
        """A run's settings with this configuration: section 5's optimizer, the given sizes."""
        return PretrainSettings(
            model={**model, "kernels": self.kernels, **self.model},
            sequence_length=sequence_length,
            micro_batch_size=micro_batch_size,
            global_batch_size=micro_batch_size * accumulation * num_processes,
            parallel=ParallelSettings(reshard_after_forward=self.reshard_after_forward),
            activation_checkpointing=self.activation_checkpointing,
            compile=self.compile,
            precision=self.precision,
            merged_products=self.merged_products,
        )


PLAIN = Variant(kernels="eager", attention="other", reshard_after_forward=True)
"""PyTorch without anything fused: Exp8 of Table 2."""

OURS = Variant()
"""Whatever wins on this machine, weights kept gathered."""


def from_paper(
    *,
    attention: Literal["flash", "torch"],
    rope: Literal["fused", "torch"],
    rms_norm: Literal["fused", "torch"],
    loss: Literal["triton", "torch"],
    shard_parameters: bool,
) -> Variant:
    """A column of Table 2 in our words; operations that the paper does not name are eager."""
    words = {"rope": rope, "rms_norm": rms_norm, "cross_entropy": loss}
    return Variant(
        kernels=dict.fromkeys(IMPLEMENTATIONS, "eager")
        | {name: "eager" if word == "torch" else fused(name) for name, word in words.items()},
        attention="flash" if attention == "flash" else "other",
        reshard_after_forward=shard_parameters,
    )


def fused(operation: str) -> str:
    """Our fused implementation of an operation: Triton's on a GPU where there is one, else auto."""
    on_gpu = torch.cuda.is_available()
    return "triton" if on_gpu and "triton" in IMPLEMENTATIONS[operation] else "auto"


def liger() -> Variant:
    """The same model built from Liger-Kernel and torch's attention.

    Raises ConfigError when an operation that Liger-Kernel has is not among our implementations.
    """
    missing = [name for name in LIGER if "liger" not in IMPLEMENTATIONS[name]]
    if missing:
        raise ConfigError(f"there is no implementation `liger` of {', '.join(missing)}")
    return Variant(kernels="liger", attention="sdpa")
