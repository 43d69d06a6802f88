"""Shape and behaviour of a Steel model as plain values: what `SteelConfig` adds to Transformers.

Imports neither torch nor Transformers, so that a configuration is checked, and its model's size
known, before they are.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from common.config import field_types, refusal
from common.errors import ConfigError
from common.ranges import Ge, Limit, Lt, PositiveFloat, fits

Routing = Literal["token", "sequence", "reference_norm", "uniform", "dense"]

AttentionImplementation = Literal[
    "auto",
    "eager",
    "sdpa",
    "sdpa_cudnn",
    "varlen",
    "flex_attention",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
]
"""Values of `attn_implementation` (model/attention.py)."""

MergedProduct = Literal["qkv", "ffn_in", "ffn_out"]
"""Values of `merged_products` (model/merged_products.py)."""

MAX_PARAMETERS = 10**14
"""Of a model that anybody can train: with AdamW in fp32 the memory of 20,000 GPUs of 80 GB."""

LEAKING_ROUTINGS = ("sequence", "reference_norm")
"""Modes whose dispatch weights sum over the whole sequence: a token sees later tokens."""


@dataclass(kw_only=True, repr=False, eq=False)
class SteelArchitecture:
    """Shape and behaviour of a Steel model; defaults are Table 1 of the paper (1.12 B parameters).

    Not frozen, because Transformers' configs are not.
    """

    model_type: ClassVar[str] = "steel"

    vocab_size: Annotated[int, Ge(1), Limit(10**8)] = 151_936
    """Rows of the embedding, >= 1. Qwen1.5's vocabulary, padded (Table 1)."""

    hidden_size: Annotated[int, Ge(1), Limit(10**6)] = 1792
    """Width of the residual stream, >= 1 (Table 1)."""

    num_hidden_layers: Annotated[int, Ge(1), Limit(10**4)] = 18
    """Decoder layers, >= 1 (Table 1)."""

    num_attention_heads: Annotated[int, Ge(1), Limit(10**5)] = 32
    """Query heads, >= 1 (Table 1)."""

    num_key_value_heads: Annotated[int, Ge(1), Limit(10**5)] | None = None
    """Key and value heads; must divide the query heads. None: as many as query heads (Table 1)."""

    head_dim: Annotated[int, Limit(10**6)] | None = None
    """Width of a head, even. None: hidden_size / num_attention_heads (56 in Table 1)."""

    expert_intermediate_size: Annotated[int, Ge(1), Limit(10**7)] = 448
    """Width between an expert's two layers, >= 1. Table 1 says 1792; the published code divides it
    by 4, and only 448 gives the stated 1.12 B parameters."""

    num_experts: Annotated[int, Ge(1), Limit(10**5)] = 6
    """Experts in each layer, >= 1 (Table 1)."""

    slots_per_expert: Annotated[int, Ge(1), Limit(10**5)] = 1
    """Slots that feed one expert, >= 1 (Table 1)."""

    routing: Routing = "token"
    """Routing of tokens to experts (model/soft_moe.py): `token` (causal, default), `sequence` (the
    paper's equations; leaks), `reference_norm` (the published code; leaks), `uniform` (every expert
    with the same weight, no router: what routing is measured against), `dense` (one SwiGLU FFN of
    equal parameters)."""

    gain: PositiveFloat = 1.0
    """Factor on the output of the routed FFN, > 0. 1 is the paper's equation."""

    learn_gain: bool = False
    """If true, `gain` is the initial value of a learned factor. Not in the paper."""

    expert_init: Literal["fixed", "fan_in"] = "fan_in"
    """Standard deviation of the initial expert weights: `initializer_range`, or 1/sqrt(inputs).
    An expert multiplies four weights together, so `fixed` makes its output vanish in narrow models
    (docs/FOOTGUNS.md)."""

    decode_with_cache: bool = False
    """For leaking routings only: decode one token at a time with a key-value cache, as the
    published code does, although that is another function than the one trained. False: every step
    recomputes the prefix."""

    rms_norm_eps: PositiveFloat = 1e-6
    """Added to the mean square in RMSNorm, > 0 (section 3)."""

    rope_theta: PositiveFloat = 1e6
    """Base of the rotary frequencies, > 0; computed in fp32 (section 3)."""

    max_position_embeddings: Annotated[int, Ge(1), Limit(10**9)] = 2048
    """Longest sequence the model is meant for, in tokens (section 5). No buffer depends on it."""

    attention_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout on attention weights while training, [0, 1)."""

    pad_head_dim: Annotated[int, Limit(10**6)] | Literal["auto", "off"] = "auto"
    """Width to pad heads to with zeros before attention (results stay the same): `off`, a multiple
    of 8 of at least head_dim (64 for Table 1's 56), or `auto`: the next multiple of 8, which flash
    kernels demand. 64 is faster on some kernels and GPUs (docs/LOG.md)."""

    initializer_range: PositiveFloat = 0.02
    """Standard deviation of the normal distribution of the initial weights, > 0."""

    tie_word_embeddings: bool = False
    """If true, the output layer shares the embedding's weights (Table 1: false)."""

    kernels: str | dict[str, str] = "auto"
    """Implementation of the fused operations (model/kernels): for all of them `auto` (by each
    tensor's device), `eager`, `triton`, or a library's where it has them (`torch`, `liger`); or by
    operation, {"rope": "eager"}, the others being `auto`. Table 2 compares such choices."""

    use_cache: bool = True
    """If true, forward returns a key-value cache unless told otherwise; never while training."""

    bos_token_id: int | None = None
    """None: Qwen1.5's tokenizer has none."""

    eos_token_id: int | list[int] | None = None
    """Id that ends a text, `<|endoftext|>`: 151643, except in a pruned vocabulary."""

    pad_token_id: int | None = None
    """Id that pads short rows, `<|endoftext|>` too: its embedding is trained all the same."""

    def complete(self) -> None:
        """Fill in the fields that follow from others. Raises ConfigError for values out of range or
        contradictory."""
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        check_ranges(self)
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                raise ConfigError(
                    f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                    f"{self.num_attention_heads}: change one of them or give head_dim"
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.head_dim < 2 or self.head_dim % 2:
            raise ConfigError(
                f"head_dim {self.head_dim} must be even and positive: rotary positions rotate pairs"
            )
        pad = self.pad_head_dim
        if isinstance(pad, int) and (pad < self.head_dim or pad % 8):
            raise ConfigError(
                f"pad_head_dim is {self.pad_head_dim!r}: give auto, off, or a multiple of 8 that "
                f"is at least head_dim = {self.head_dim}"
            )

    @property
    def leaks(self) -> bool:
        """True if a position sees later tokens through the routing."""
        return self.routing in LEAKING_ROUTINGS

    @property
    def has_router(self) -> bool:
        """True if weights of experts are learned: there are keys and a scale."""
        return self.routing not in ("uniform", "dense")

    @property
    def dense_intermediate_size(self) -> int:
        """Width of the `dense` FFN (three matrices) with as many weights as the experts (four)."""
        return round(4 * self.num_experts * self.expert_intermediate_size / 3)

    def num_parameters(self) -> int:
        """Parameters of `SteelForCausalLM`, by arithmetic (Table 1: 1.12 B)."""
        # Not by model.cost: this file goes out with exported models, which have no such module.
        d = self.hidden_size
        kv_heads = self.num_key_value_heads or self.num_attention_heads
        assert self.head_dim is not None
        q, kv = self.num_attention_heads * self.head_dim, kv_heads * self.head_dim
        attention = 2 * d * q + 2 * d * kv + q + 2 * kv
        if self.routing == "dense":
            ffn = 3 * d * self.dense_intermediate_size
        else:
            router = d * self.num_experts * self.slots_per_expert + 1 if self.has_router else 0
            experts = 4 * self.num_experts * self.expert_intermediate_size * d
            ffn = experts + router + int(self.learn_gain)
        embeddings = self.vocab_size * d * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * (attention + ffn + 2 * d) + d


def check_ranges(architecture: SteelArchitecture) -> None:
    """Raise ConfigError for the first value that is out of range."""
    for name, hint in field_types(SteelArchitecture).items():
        if not fits(getattr(architecture, name), hint):
            raise ConfigError(refusal(name, getattr(architecture, name), hint))
    if architecture.num_attention_heads % (architecture.num_key_value_heads or 1):
        raise ConfigError(
            f"num_key_value_heads {architecture.num_key_value_heads} does not divide "
            f"num_attention_heads {architecture.num_attention_heads}"
        )
