"""Steel as a Transformers-native model.

    ids ─▶ embed ─▶ 18 x [ + attention(norm(x)) · + ffn(norm(x)) ] ─▶ norm ─▶ lm_head ─▶ logits
                            RoPE in fp32           model/soft_moe.py

Qwen1.5's attention (bias on Q, K, V only) and norms, with the paper's Soft MoE as FFN. Attention
runs through Transformers' interface, so `attn_implementation` may be sdpa, eager, flash, flex or
varlen (model/attention.py). Packed documents are kept apart in attention and routing
(model/documents.py).

Shapes: B = rows, M = tokens of a row, d = hidden size, V = vocabulary, T = B M.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import eager_attention_forward
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from model.attention import mask_config, mask_or_bounds, padded_head_size
from model.config import SteelConfig
from model.documents import (
    Tiles,
    check_padding,
    documents_from_bounds,
    documents_from_positions,
    may_hold_documents,
    tiles_of,
)
from model.kernels import Kernels, choose
from model.kernels.rope import rope_angles
from model.soft_moe import Experts, SoftMoE, build_ffn, warn_if_leaking


class SteelRMSNorm(nn.Module):
    """RMSNorm over the last axis (section 3)."""

    def __init__(self, size: int, eps: float, kernels: Kernels) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        self.kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.rms_norm(x, self.weight, self.eps)

    def of_sum(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The norm of x + residual, and that sum."""
        return self.kernels.add_rms_norm(x, residual, self.weight, self.eps)


class SteelAttention(nn.Module):
    """Causal self-attention with rotary positions; bias on Q, K, V only (section 3)."""

    def __init__(self, config: SteelConfig, layer_idx: int, kernels: Kernels) -> None:
        super().__init__()
        assert config.head_dim is not None and config.num_key_value_heads is not None
        self.config = config
        self.layer_idx = layer_idx
        self.kernels = kernels
        # These names are read by Transformers' attention functions.
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        width, query = config.hidden_size, config.num_attention_heads * self.head_dim
        key_value = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(width, query, bias=True)
        self.k_proj = nn.Linear(width, key_value, bias=True)
        self.v_proj = nn.Linear(width, key_value, bias=True)
        self.o_proj = nn.Linear(query, width, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """hidden_states [B, M, d] -> ([B, M, d], attention weights or None)."""
        query, key, value = self.project(hidden_states, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        implementation = self.config._attn_implementation
        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
            implementation, eager_attention_forward
        )
        width = padded_head_size(self.head_dim, self.config.pad_head_dim, implementation)
        if width > self.head_dim:
            # Zeros add nothing to scores, whose scale stays that of the true size.
            query, key, value = (
                nn.functional.pad(x, (0, width - self.head_dim)) for x in (query, key, value)
            )
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        leading = hidden_states.shape[:-1]
        return self.o_proj(output[..., : self.head_dim].reshape(*leading, -1)), weights

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, M, d] -> query, key (both rotated) and value, each [B, heads, M, head_dim].

        May be replaced by one with merged operands (model/merged_products.py).
        """

        def heads(projection: nn.Linear) -> Tensor:
            y: Tensor = projection(x)
            return y.view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2)

        query, key = self.kernels.rope(heads(self.q_proj), heads(self.k_proj), cos, sin)
        return query, key, heads(self.v_proj)


class SteelDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention, then pre-norm FFN, each added to the residual stream."""

    def __init__(self, config: SteelConfig, layer_idx: int, kernels: Kernels) -> None:
        super().__init__()
        self.self_attn = SteelAttention(config, layer_idx, kernels)
        self.mlp = build_ffn(config, kernels)
        self.input_layernorm = SteelRMSNorm(config.hidden_size, config.rms_norm_eps, kernels)
        self.post_attention_layernorm = SteelRMSNorm(
            config.hidden_size, config.rms_norm_eps, kernels
        )

    def forward(
        self,
        hidden_states: Tensor,
        token_mask: Tensor | None = None,
        tiles: Tiles | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """hidden_states [B, M, d] -> [B, M, d]; kwargs go to the attention."""
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        normed, hidden_states = self.post_attention_layernorm.of_sum(attended, hidden_states)
        routed: Tensor = self.mlp(normed, token_mask, tiles)
        return hidden_states + routed


class SteelPreTrainedModel(PreTrainedModel):
    """Facts by which Transformers loads, initialises, shards and checkpoints Steel."""

    config_class = SteelConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SteelDecoderLayer"]  # noqa: RUF012 (Transformers wants a list)
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": SteelDecoderLayer,
        "attentions": SteelAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Start every parameter: whatever is missed here is uninitialised memory after loading."""
        super()._init_weights(module)
        if isinstance(module, SoftMoE):
            # LeCun normal, as in Puigcerver et al. 2024 and the published code.
            if self.config.has_router:
                init.normal_(module.phi, mean=0.0, std=1 / math.sqrt(module.phi.shape[0]))
                init.ones_(module.scale)
            if module.gain is not None:
                init.constant_(module.gain, self.config.gain)
        elif isinstance(module, Experts):
            for weight, inputs in (
                (module.gate_in, self.config.hidden_size),
                (module.up_in, self.config.hidden_size),
                (module.gate_out, self.config.expert_intermediate_size),
                (module.up_out, self.config.expert_intermediate_size),
            ):
                fan_in = self.config.expert_init == "fan_in"
                std = 1 / math.sqrt(inputs) if fan_in else self.config.initializer_range
                init.normal_(weight, mean=0.0, std=std)


class SteelModel(SteelPreTrainedModel):
    """Embedding, layers and final norm; `forward` gives hidden states [B, M, d].

    Documents packed into one row are kept apart, in attention and routing, when their bounds are
    given (`cu_seq_lens_q`) or `position_ids` restart at 0 for each of them.
    """

    def __init__(self, config: SteelConfig) -> None:
        super().__init__(config)
        warn_if_leaking(config)
        kernels = choose(config.kernels)
        # No padding_idx: padding is <|endoftext|>, whose embedding must learn.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            SteelDecoderLayer(config, index, kernels) for index in range(config.num_hidden_layers)
        )
        self.norm = SteelRMSNorm(config.hidden_size, config.rms_norm_eps, kernels)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict[str, Any] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cu_seq_lens_q: Tensor | None = None,
        cu_seq_lens_k: Tensor | None = None,
        max_length_q: int | None = None,
        max_length_k: int | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """input_ids [B, M] or inputs_embeds [B, M, d]; attention_mask [B, past + M], 1 = real.

        cu_seq_lens_q int32 [N + 1]: bounds of N documents among the B M tokens, row after row; a
        row's start is always one. max_length_q: the longest document's length. (Transformers'
        names; those for keys must say the same.) Given bounds cost no wait for the device; bounds
        found in position_ids do.

        Raises ValueError for a cache with a leaking routing unless `decode_with_cache` is set, and
        for packed documents together with padding on the left or a filled cache.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if self.config.leaks and not self.config.decode_with_cache:
            if past_key_values is not None:
                raise ValueError(
                    f"routing={self.config.routing!r} computes another function with a cache than "
                    "it was trained for: pass use_cache=False, or set decode_with_cache=True"
                )
            use_cache = False
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)

        rows, length = inputs_embeds.shape[:2]
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        token_mask = None
        if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
            token_mask = attention_mask[:, -length:]
        documents = None
        if cu_seq_lens_q is not None:
            if past:
                raise ValueError(
                    "cu_seq_lens_q bounds whole documents, which cannot go on: no cache"
                )
            documents = documents_from_bounds(cu_seq_lens_q, max_length_q, rows, length)
            check_padding(token_mask)
        elif (
            position_ids is not None
            and length > 1
            and may_hold_documents(attention_mask, past_key_values)
        ):
            documents = documents_from_positions(position_ids.expand(rows, -1), token_mask)
        if position_ids is None:
            counted = (torch.arange(length, device=inputs_embeds.device) + past).unsqueeze(0)
            position_ids = counted if documents is None else documents.positions
        mask, bounds = mask_or_bounds(
            self.config, inputs_embeds, attention_mask, past_key_values, documents
        )
        tiles = tiles_of(documents) if documents is not None and self.config.leaks else None

        hidden_states = inputs_embeds
        # Layers get no positions: flash kernels would look into them for documents in every layer,
        # and wait for the device.
        angles = rope_angles(position_ids, self.config.head_dim, self.config.rope_theta)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                token_mask=token_mask,
                tiles=tiles,
                attention_mask=mask,
                position_embeddings=angles,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **bounds,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states),
            past_key_values=past_key_values if use_cache else None,
        )


class SteelForCausalLM(SteelPreTrainedModel, GenerationMixin):
    """Language model: `forward` gives logits [B, M, V] and, with labels, the loss."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012

    def __init__(self, config: SteelConfig) -> None:
        super().__init__(config)
        self.model = SteelModel(config)
        self.kernels = choose(config.kernels)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the mean cross entropy over targets that are not -100.

        labels [B, M]: as input_ids; shifted here (Transformers' convention).
        shift_labels [B, M]: the target of each position, shifted already (what the loader gives).
        num_items_in_batch: divide the summed loss by this instead of the number of targets here.

        Training never makes all logits: see model/train/loss.py.
        """
        if use_cache is None and self.training:
            use_cache = False
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        # 0 keeps all: slice(-0, None) is everything.
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None or shift_labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                shift_labels=shift_labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers; leaking routings recompute the prefix at every step."""
        if self.config.leaks and not self.config.decode_with_cache:
            kwargs["use_cache"] = False
        return super().generate(*args, **kwargs)

    @staticmethod
    def create_masks_for_generate(config: SteelConfig, **kwargs: Any) -> Any:
        """The masks that generation makes beforehand for a static cache."""
        return create_masks_for_generate(config=mask_config(config), **kwargs)


def register() -> None:
    """Make Transformers' Auto classes know Steel's models in this process (model/config.py: their
    config)."""
    AutoModel.register(SteelConfig, SteelModel, exist_ok=True)
    AutoModelForCausalLM.register(SteelConfig, SteelForCausalLM, exist_ok=True)


register()
