"""The feed-forward part of a layer: experts behind soft routing, and the dense baseline.

    x ──▶ logits l = s <x^, phi^> ──▶ softmax over slots C ──────────────┐
     └──▶ expert k: h = silu(W1 x) * (W2 x);  silu(W3 h) * (W4 h) ──▶ g sum C E(x) ──▶ y

Shapes: B = rows, M = tokens of a row, T = B M, d = hidden size, n = experts, p = slots per expert,
h = expert width. x^ and phi^ are unit vectors; s is a learned scale, clamped to +-40 (except in
`reference_norm`, which computes what was published), so logits are bounded. Logits and softmax are
fp32 whatever the model computes in.

Modes (docs/FOOTGUNS.md: the effect of leaking in practice)
- `token`: C = softmax_j(l); y = g sum_j C_j E_floor(j/p)(x). Soft MoE of one token at a time
  (m = 1): causal, with the same function in training and decoding.
- `sequence`: section 3.1 of the paper. D = softmax of l over all M tokens, X~ = D^T X,
  Y~ = E(X~), y = g C Y~. Position i sees later tokens of its document.
- `reference_norm`: as the published code, whose experts are fed x^ instead of x.
- `uniform`: C = 1/n for each expert, y = g mean_k E_k(x), without phi and s: `token` with a router
  that decides nothing, the baseline that tells what routing adds.
- `dense`: one SwiGLU FFN with as many weights as the experts.

Checkpoint names: `mlp.experts.gate_in`, `up_in` (W1, W2), `gate_out`, `up_out` (W3, W4) are each
stacked over experts as one matrix [n h, d]. Row k h + i belongs to unit i of expert k: row i of its
W1 or W2, column i of its W3 or W4. Two axes and many rows, so that FSDP2 shards them evenly.
"""

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import SteelConfig
from model.documents import Tiles, from_tiles, softmax_by_document, spread, sum_tiles, to_tiles
from model.kernels import Kernels

MAX_LOGIT_SCALE = 40.0
"""Bound of |s|: exp(40) is far from overflow in fp32, and softmax is already one-hot."""


class LeakWarning(UserWarning):
    """Warning: the model being built lets a position see later tokens."""


class Experts(nn.Module):
    """n experts with SwiGLU in both layers (Table 1), stacked."""

    def __init__(self, config: SteelConfig, kernels: Kernels) -> None:
        super().__init__()
        self.num_experts = config.num_experts
        self.kernels = kernels
        shape = (config.num_experts * config.expert_intermediate_size, config.hidden_size)
        self.gate_in = nn.Parameter(torch.empty(shape))
        self.up_in = nn.Parameter(torch.empty(shape))
        self.gate_out = nn.Parameter(torch.empty(shape))
        self.up_out = nn.Parameter(torch.empty(shape))

    @property
    def num_stacked_matrices(self) -> int:
        """Matrices that lie below each other in each weight: what works on a matrix as a whole
        takes each expert's by itself (model/train/optim/parameters.py)."""
        return self.num_experts

    def stacked(self, weight: Tensor) -> Tensor:
        """[n h, d] -> [n, h, d]"""
        return weight.view(self.num_experts, -1, weight.shape[-1])

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """With weights [T, n]: the weighted sum of all experts for each token, x [T, d] -> [T, d].
        Without: each expert applied to its own slots, x [n, S, d] -> [n, S, d].
        """
        if weights is None:
            return self.second_layers_of_slots(self.first_layers_of_slots(x))
        return self.second_layers(self.first_layers(x), weights)

    # Each of these four may be replaced by one with merged operands (model/merged_products.py).

    def first_layers(self, x: Tensor) -> Tensor:
        """[T, d] -> [T, n h], the first layers of all experts by two matrix products."""
        return self.kernels.swiglu(
            self.first_layer(x, self.gate_in), self.first_layer(x, self.up_in)
        )

    def second_layers(self, hidden: Tensor, weights: Tensor) -> Tensor:
        """[T, n h] -> [T, d], the weighted sum of the experts' second layers."""
        return self.kernels.combine(
            hidden, self.stacked(self.gate_out), self.stacked(self.up_out), weights
        )

    def first_layer(self, x: Tensor, weight: Tensor) -> Tensor:
        """x [T, d], W1 or W2 of all experts [n h, d] -> [T, n h]; `precision: fp8` replaces it."""
        return functional.linear(x, weight)

    def first_layers_of_slots(self, slots: Tensor) -> Tensor:
        """[n, S, d] -> [n, S, h]"""
        return self.kernels.swiglu(
            torch.bmm(slots, self.stacked(self.gate_in).transpose(1, 2)),
            torch.bmm(slots, self.stacked(self.up_in).transpose(1, 2)),
        )

    def second_layers_of_slots(self, hidden: Tensor) -> Tensor:
        """[n, S, h] -> [n, S, d]"""
        return self.kernels.swiglu(
            torch.bmm(hidden, self.stacked(self.gate_out)),
            torch.bmm(hidden, self.stacked(self.up_out)),
        )


class SoftMoE(nn.Module):
    """Routed FFN. `forward(x [B, M, d], token_mask [B, M] | None, tiles | None) -> [B, M, d]`.

    token_mask marks real tokens; padding takes no part in the sequence modes' dispatch. tiles: the
    rows' documents, each of which then has slots of its own, as if it were a row; without it every
    row is one document. In `token` and `uniform` mode neither has an effect.
    """

    own_weights_in_fp32 = True
    """Routing is fp32 in a model that computes in bf16: what shards it gathers `phi` and `scale`,
    unlike the experts' weights, as they are (model/train/distributed/context.py)."""

    def __init__(self, config: SteelConfig, kernels: Kernels) -> None:
        super().__init__()
        assert config.routing != "dense"
        self.routing = config.routing
        self.kernels = kernels
        self.num_experts = config.num_experts
        self.slots_per_expert = config.slots_per_expert
        self.num_slots = config.num_experts * config.slots_per_expert
        self.constant_gain = config.gain
        if config.has_router:
            self.phi = nn.Parameter(torch.empty(config.hidden_size, self.num_slots))
            # One element, not none: FSDP2 cannot shard a scalar.
            self.scale = nn.Parameter(torch.empty(1))
        self.gain = nn.Parameter(torch.empty(1)) if config.learn_gain else None
        self.experts = Experts(config, kernels)
        self.sums: Tensor | None = None
        """Float64 [n + 2] where somebody watches (model/routing_statistics.py): all tokens' sums of
        the entropy of their weights in nats, of the weights by expert, and of ones."""
        self.fixed_weights: Tensor | None = None
        """Fp32 [n], in `token` mode: every token's weights in place of its own."""

    def keys(self) -> Tensor:
        """Keys that tokens of unit length are compared with: s phi^, fp32 [n p, d]."""
        phi = functional.normalize(self.phi.float(), dim=0)
        scale = self.scale.float()
        if self.routing != "reference_norm":
            scale = scale.clamp(-MAX_LOGIT_SCALE, MAX_LOGIT_SCALE)
        return (phi * scale).t()

    def logits(self, x: Tensor) -> Tensor:
        """x [..., d] -> [..., n p] in fp32, each within +-|scale|."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            x = x.float()
            # Dividing the products instead of x spares a unit-length copy of x.
            length = x.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            logits: Tensor = (x @ self.keys().t()) / length
            return logits

    def forward(
        self, x: Tensor, token_mask: Tensor | None = None, tiles: Tiles | None = None
    ) -> Tensor:
        each_token = self.routing in ("token", "uniform")
        y = self._token(x) if each_token else self._sequence(x, token_mask, tiles)
        gain = self.constant_gain if self.gain is None else self.gain.to(y.dtype)
        return y if isinstance(gain, float) and gain == 1.0 else y * gain

    def _token(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        weights = self._weights(flat)
        self._note(weights)
        return _in_rows(self.experts(flat, weights), x)

    def _weights(self, x: Tensor) -> Tensor:
        """Weights of experts by token: x [T, d] -> fp32 [T, n]."""
        if self.routing == "uniform":
            even = x.new_full((1, self.num_experts), 1 / self.num_experts, dtype=torch.float32)
            return even.expand(len(x), -1)
        if self.fixed_weights is not None:
            return self.fixed_weights.expand(len(x), -1)
        combine = self.kernels.route(x, self.keys())  # [T, n p]
        if self.slots_per_expert > 1:
            combine = combine.view(-1, self.num_experts, self.slots_per_expert).sum(dim=-1)
        return combine

    def _note(self, weights: Tensor) -> None:
        """Add weights of experts or of slots, [..., n] or [..., n p], to `sums` where somebody
        watches."""
        if self.sums is None:
            return
        by_token = weights.detach().flatten(0, -2)
        by_token = by_token.view(len(by_token), self.num_experts, -1).sum(dim=-1)
        by_expert = by_token.sum(dim=0)
        entropy = torch.special.entr(by_token).sum().view(1)
        self.sums.add_(torch.cat([entropy, by_expert, by_expert.new_full((1,), len(by_token))]))

    def _sequence(self, x: Tensor, token_mask: Tensor | None, tiles: Tiles | None) -> Tensor:
        logits = self.logits(x)  # [B, M, n p]
        combine = logits.softmax(dim=-1)
        self._note(combine)
        combine = combine.to(x.dtype)
        if token_mask is not None:
            # The lowest number, not -inf: a row of padding alone must not become NaN.
            padding = ~token_mask.to(torch.bool).unsqueeze(-1)
            logits = logits.masked_fill(padding, torch.finfo(logits.dtype).min)
        fed = functional.normalize(x, dim=-1) if self.routing == "reference_norm" else x
        if tiles is None:
            dispatch = logits.softmax(dim=1).to(x.dtype)
            slots = torch.bmm(dispatch.transpose(1, 2), fed)  # [B, n p, d]
            return torch.bmm(combine, self._experts_on(slots))
        dispatch = softmax_by_document(to_tiles(logits.flatten(0, 1), tiles), tiles).to(x.dtype)
        by_tile = torch.bmm(dispatch.transpose(1, 2), to_tiles(fed.flatten(0, 1), tiles))
        slots = sum_tiles(by_tile, tiles).to(by_tile.dtype)  # [N + 1, n p, d]
        outputs = spread(self._experts_on(slots), tiles)  # [P, n p, d]
        mixed = torch.bmm(to_tiles(combine.flatten(0, 1), tiles), outputs)
        return _in_rows(from_tiles(mixed, tiles), x)

    def _experts_on(self, slots: Tensor) -> Tensor:
        """Each expert applied to its slots of every document: slots [N, n p, d] -> [N, n p, d]."""
        documents, _, width = slots.shape
        by_expert = slots.view(documents, self.num_experts, -1, width).transpose(0, 1)
        outputs: Tensor = self.experts(by_expert.reshape(self.num_experts, -1, width))
        outputs = outputs.view(self.num_experts, documents, -1, width).transpose(0, 1)
        return outputs.reshape(documents, self.num_slots, width)


def _in_rows(y: Tensor, x: Tensor) -> Tensor:
    """y [T, d], which nobody else holds, in the shape of x [B, M, d].

    To autograd it is no view, as a matrix product's own result is none: FSDP2 warns of a unit that
    returns one, because an in-place operation on it would lose the unit's backward hook.
    """
    rows: Tensor = torch.ops.aten._unsafe_view.default(y, x.shape)
    return rows


class DenseFFN(nn.Module):
    """One SwiGLU FFN with as many weights as the experts: the baseline for routing."""

    def __init__(self, config: SteelConfig, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels
        width = config.dense_intermediate_size
        self.gate_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(
        self, x: Tensor, token_mask: Tensor | None = None, tiles: Tiles | None = None
    ) -> Tensor:
        """x [..., d] -> [..., d]; mask and documents have no effect."""
        output: Tensor = self.down_proj(self.inner(x))
        return output

    def inner(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., width]; may be replaced as the layers of Experts."""
        return self.kernels.swiglu(self.gate_proj(x), self.up_proj(x))


def build_ffn(config: SteelConfig, kernels: Kernels) -> SoftMoE | DenseFFN:
    """The FFN that `config.routing` names."""
    return DenseFFN(config, kernels) if config.routing == "dense" else SoftMoE(config, kernels)


def warn_if_leaking(config: SteelConfig) -> None:
    """Emit LeakWarning for the sequence modes; called once per model built."""
    if config.leaks:
        warnings.warn(
            f"routing={config.routing!r} lets every position see later tokens of its document: the "
            "training loss is not a language model's loss. Judge it by validation/causal_loss, and "
            "use routing='token' for a causal model.",
            LeakWarning,
            stacklevel=3,
        )
