"""Configurations and sizes that bench_train measures."""

from dataclasses import dataclass
from typing import Any

from model.train.throughput.variants import (
    OURS,
    PLAIN,
    STEEL_1B,
    TINY,
    TINY_MICRO_BATCH,
    TINY_SEQUENCE,
    Variant,
)

DOCUMENT_TOKENS = 512

CANDIDATES: dict[str, Variant] = {
    "best": Variant(compile=True),
    "interpreted": OURS,
    "documents": Variant(compile=True, document_tokens=DOCUMENT_TOKENS),
    "plain": PLAIN,
    "liger": OURS,  # both replaced below, or skipped with the reason
    "liger compiled": OURS,
    "dense": Variant(compile=True, model={"routing": "dense"}),
    "sequence": Variant(compile=True, model={"routing": "sequence"}),
    "selective": Variant(compile=True, activation_checkpointing="selective"),
    "full": Variant(compile=True, activation_checkpointing="full"),
    "fp8": Variant(compile=True, precision="fp8"),
    "heads of 64": Variant(compile=True, model={"pad_head_dim": 64}),
    "merged": Variant(compile=True, merged_products=("qkv", "ffn_in", "ffn_out")),
    "merged qkv": Variant(compile=True, merged_products=("qkv",)),
    "merged ffn_in": Variant(compile=True, merged_products=("ffn_in",)),
    "merged ffn_out": Variant(compile=True, merged_products=("ffn_out",)),
    "loss of 8": Variant(compile=True, kernels={"cross_entropy": "triton8"}),
}
CHALLENGERS = {
    "merged": "pretrain.merged_products: [qkv, ffn_in, ffn_out]",
    "merged qkv": "pretrain.merged_products: [qkv]",
    "merged ffn_in": "pretrain.merged_products: [ffn_in]",
    "merged ffn_out": "pretrain.merged_products: [ffn_out]",
    "loss of 8": "pretrain.model.kernels: {cross_entropy: triton8}",
    "heads of 64": "pretrain.model.pad_head_dim: 64",
}
"""Rows that become the default where they are faster than `best`, and the setting that they are."""
GAIN = 1.005
"""Times the speed of `best` that one must reach to become the default."""
AT_LARGER = ("best", "merged")
"""Rows that are measured at larger micro-batches, too."""
QUICK = ("best", "interpreted", "plain", "liger", "liger compiled")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Model and batches of one benchmark."""

    model: dict[str, Any]
    sequence_length: int
    micro_batches: tuple[int, ...]
    """Tried in this order until `plain` fits; the paper's comes first."""
    larger: tuple[int, ...]
    """Also tried for the rows `AT_LARGER`, until one does not fit."""
    accumulation: int
    """Micro-batches in a step. Section 5: 8."""
    tiny: bool


PAPER_SIZES = Sizes(
    model=STEEL_1B,
    sequence_length=2048,
    micro_batches=(8, 4, 2, 1),
    larger=(16, 32, 64),
    accumulation=8,
    tiny=False,
)
TINY_SIZES = Sizes(
    model=STEEL_1B | TINY,
    sequence_length=TINY_SEQUENCE,
    micro_batches=(TINY_MICRO_BATCH,),
    larger=(2 * TINY_MICRO_BATCH,),
    accumulation=2,
    tiny=True,
)
