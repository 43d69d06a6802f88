"""Memory of one GPU while it trains our architecture, by part.

    between steps   weights 4 N / W · optimizer 8 N / W (Muon: 4)       fp32, over W ranks
    in a step       gathered weights · gradients                        of all layers, or of two
                    activations                                         kept for the backward pass
                    loss                                                a chunk of logits, gradients
    always          CUDA, NCCL, cuBLAS, what the allocator cannot use

The peak is where the backward pass begins: everything above is there at once. Activations are
counted tensor by tensor as autograd keeps them; tests compare them with what it really keeps, for
every routing, eager and fused. `torch.compile` may keep less.

Letters: N = parameters, T = tokens of a micro-batch, d = hidden size, V = vocabulary, n = experts,
h = expert width, S = slots of a layer, e = bytes of a number in the forward pass.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Literal

from model.architecture import MergedProduct, SteelArchitecture
from model.cost.parts import hidden_weights, num_slots, parameters_of, widths

FP32 = 4
LOGITS_BUDGET = 5 * 2**28
"""Upper bound of the bytes of a chunk's logits: 1.25 GiB, 4,352 tokens of 151,936 bf16 logits."""
SMALL_MODEL_PARAMETERS = 50_000_000
"""Parameters below which one all-gather and one reduce-scatter a step are cheaper than a pair for
each layer: such a model is one unit of FSDP2."""
RUNTIME = 2 * 2**30
"""Bytes that CUDA, NCCL and cuBLAS take and the allocator cannot use: an assumption."""
HEAD_MULTIPLE = 8
"""Flash kernels want heads of a multiple of this width."""

Recomputation = Literal["none", "selective", "full"]
Loss = Literal["fused", "chunked", "eager"]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one GPU at the peak of a step."""

    weights: float
    """This rank's shard of the fp32 weights."""
    gradients: float
    """This rank's shard of the fp32 gradients, and with several micro-batches a step the sums of
    all gradients that are not reduced yet."""
    optimizer: float
    """This rank's shard of AdamW's two moments, and of Muon's one of the matrices that it has."""
    gathered: float
    """Weights of other ranks' shards in the precision of the forward pass."""
    activations: float
    """Tensors of a micro-batch that the forward pass keeps for the backward pass."""
    loss: float
    """A chunk of logits, and the gradients that the loss makes with them."""
    runtime: float
    """Libraries and what the allocator cannot use; assumed."""

    @property
    def total(self) -> float:
        """All parts."""
        return float(sum(asdict(self).values()))


def memory_of(
    architecture: SteelArchitecture,
    *,
    micro_batch_size: int,
    sequence_length: int,
    width: int = 1,
    accumulation: int = 1,
    reshard: bool = False,
    recomputation: Recomputation = "none",
    element: int = 2,
    fused: bool = True,
    loss: Loss = "fused",
    gpu: bool = True,
    documents: bool = True,
    optimizer: str = "adamw",
    merged: Collection[MergedProduct] = (),
) -> Memory:
    """Memory of one rank.

    Args:
        architecture: a completed one.
        micro_batch_size: samples of a forward pass.
        sequence_length: tokens of a sample.
        width: ranks that share one copy of the weights (FSDP2).
        accumulation: micro-batches of a step.
        reshard: True frees gathered weights after a layer (`parallel.reshard_after_forward`).
        recomputation: `activation_checkpointing`.
        element: bytes of a number in the forward pass: 2 for bf16, 4 for fp32.
        fused: True for the Triton kernels, False for eager operations.
        loss: implementation of the cross entropy.
        gpu: False counts as on a CPU: without runtime, attention copies its output.
        documents: True where positions restart within rows.
        optimizer: `pretrain.optimizer`.
        merged: `merged_products`.
    """
    parameters = parameters_of(architecture).total
    tokens = micro_batch_size * sequence_length
    plain = width == 1 and element == FP32
    unreduced = 0 if plain or accumulation == 1 else FP32 * parameters
    activations = activation_bytes(
        architecture,
        rows=micro_batch_size,
        length=sequence_length,
        recomputation=recomputation,
        element=element,
        fused=fused,
        gpu=gpu,
        documents=documents,
        merged=merged,
    )
    return Memory(
        weights=FP32 * parameters / width,
        gradients=FP32 * parameters / width + unreduced,
        optimizer=moments(optimizer, parameters, hidden_weights(architecture)) * FP32 / width,
        gathered=0 if plain else element * _gathered(architecture, reshard),
        activations=activations,
        loss=loss_bytes(architecture, tokens, element=element, loss=loss),
        runtime=RUNTIME if gpu else 0,
    )


def moments(optimizer: str, total: int, hidden: int) -> int:
    """Elements of an optimizer's state: two for each of `total` parameters, but one for each of the
    `hidden` ones that Muon updates."""
    return 2 * total - (hidden if optimizer == "muon" else 0)


def _gathered(architecture: SteelArchitecture, reshard: bool) -> int:
    """Parameters that are gathered at once: all, or the embeddings and two layers of them."""
    parts = parameters_of(architecture)
    if not reshard or parts.total < SMALL_MODEL_PARAMETERS:
        return parts.total
    outside = parts.embedding + parts.head + architecture.hidden_size
    return outside + 2 * (parts.total - outside) // architecture.num_hidden_layers


def activation_bytes(
    architecture: SteelArchitecture,
    *,
    rows: int,
    length: int,
    recomputation: Recomputation = "none",
    element: int = 2,
    fused: bool = True,
    gpu: bool = True,
    documents: bool = True,
    merged: Collection[MergedProduct] = (),
) -> float:
    """Bytes that the model's body keeps for its backward pass, of rows x length tokens.

    Routing over the sequence is counted with rows of one document.
    """
    tokens, d = rows * length, architecture.hidden_size
    assert architecture.head_dim is not None
    of_layer = tokens * _layer(architecture, element, fused, gpu, length, merged)
    of_layer += _keys(architecture, element) + element * _merged_weights(architecture, merged)
    positions = tokens if documents else length
    shared = 8 * tokens + FP32 * architecture.head_dim * positions
    shared += tokens * ((element if fused else FP32 + element) * d + FP32)  # the last norm
    layers = architecture.num_hidden_layers
    if recomputation == "none":
        return shared + layers * of_layer
    kept = element * d if recomputation == "full" else _products(architecture, element)
    return shared + layers * tokens * kept + of_layer


def _layer(
    a: SteelArchitecture,
    e: int,
    fused: bool,
    gpu: bool,
    length: int,
    merged: Collection[MergedProduct],
) -> float:
    """Bytes that a layer keeps for each token."""
    d = a.hidden_size
    # x and its norm; eager keeps x in fp32 and the norm before and after the weight.
    norm = 2 * e * d + FP32 if fused else (FP32 + 2 * e) * d + FP32
    attention = _attention(a, e, gpu, "qkv" in merged)
    return 2 * norm + attention + _ffn(a, e, fused, length, "ffn_out" in merged)


def _attention(a: SteelArchitecture, e: int, gpu: bool, merged_qkv: bool) -> float:
    """Queries, keys, values, output and log-sums of a flash kernel."""
    assert a.head_dim is not None
    q, kv = widths(a)
    padded = a.head_dim
    if isinstance(a.pad_head_dim, int):
        padded = max(padded, a.pad_head_dim)
    elif a.pad_head_dim == "auto" and gpu:
        padded = -(-padded // HEAD_MULTIPLE) * HEAD_MULTIPLE
    kept = e * (2 * q + 2 * kv) * padded / a.head_dim + FP32 * a.num_attention_heads
    if merged_qkv and padded == a.head_dim:
        kept += e * (q + kv)  # values are a part of one product, and hold the rest of it
    copied = padded > a.head_dim or not gpu  # the output, for the projection
    return kept + (e * q if copied else 0)


def _ffn(a: SteelArchitecture, e: int, fused: bool, length: int, merged_out: bool) -> float:
    d, n, slots = a.hidden_size, a.num_experts, num_slots(a)
    if a.routing == "dense":
        return (3 if fused else 4) * e * a.dense_intermediate_size
    inner = n * a.expert_intermediate_size
    # Eager: weights of experts multiply the input of W4; where W3 and W4 are one, what comes out.
    products = (3 * inner + 2 * n * d) if fused else (4 * inner + 3 * n * d)
    products += 0 if fused else n * d if merged_out else inner
    if a.routing == "uniform":
        return e * (products + (n if e < FP32 and not fused else 0))
    if a.routing == "token":
        summed = FP32 * n if a.slots_per_expert > 1 else 0
        if fused:
            return e * products + 2 * FP32 * slots + FP32 + summed
        weights = e * n if e < FP32 else summed
        wide = FP32 * d if e < FP32 else 0
        return wide + 2 * FP32 + 2 * FP32 * slots + weights + e * products
    # Logits, weights over slots and over tokens, lengths; experts see slots of each row.
    routed = 2 * FP32 + 2 * FP32 * slots + e * slots
    routed += (FP32 * d + FP32 * slots + e * slots) if e < FP32 else 0
    if a.routing == "reference_norm":
        routed += e * d + e
    fed, half = slots * d, a.slots_per_expert * inner
    by_slot = fed + (3 if fused else 4) * half + (3 if fused else 4) * fed
    return routed + e * by_slot / length


def _merged_weights(a: SteelArchitecture, merged: Collection[MergedProduct]) -> int:
    """Weights of a layer that are put side by side: copies that the backward pass needs."""
    d, (q, kv) = a.hidden_size, widths(a)
    dense = a.routing == "dense"
    inner = a.dense_intermediate_size if dense else a.num_experts * a.expert_intermediate_size
    number = d * (q + 2 * kv) if "qkv" in merged else 0
    number += 2 * d * inner if "ffn_in" in merged else 0
    return number + (2 * d * inner if "ffn_out" in merged and not dense else 0)


def _keys(a: SteelArchitecture, e: int) -> float:
    """Bytes that the router keeps once a layer: copies of its keys in fp32."""
    if not a.has_router:
        return 0
    copies = 3 if e < FP32 else 2
    return FP32 * (copies * a.hidden_size + 2) * num_slots(a)


def _products(a: SteelArchitecture, e: int) -> float:
    """Bytes of a token that selective recomputation keeps: a layer's input, what its matrix
    products and attention give."""
    d, (q, kv) = a.hidden_size, widths(a)
    attention = e * (2 * q + 2 * kv + d) + FP32 * a.num_attention_heads
    if a.routing == "dense":
        ffn = e * (2 * a.dense_intermediate_size + d)
    elif a.routing in ("token", "uniform"):
        ffn = e * 2 * a.num_experts * (a.expert_intermediate_size + d)
    else:
        ffn = FP32 * num_slots(a) + e * d
    return e * d + attention + ffn


def loss_bytes(architecture: SteelArchitecture, tokens: int, *, element: int, loss: Loss) -> float:
    """Bytes of the loss of a micro-batch at its peak."""
    v, d = architecture.vocab_size, architecture.hidden_size
    if loss == "eager":  # logits, in fp32 too, their softmax and its gradient
        return tokens * v * (2 * FP32 + element)
    number = element if loss == "fused" else FP32
    row = v * (number + (element if number != element else 0))
    rows = chunk_rows(tokens, row)
    gradients = element * (v + tokens) * d
    sums = FP32 * v * d if number != element else 0
    # Forward: a chunk and the gradients; backward: those times the incoming one.
    return max(rows * row + gradients + sums, 2 * gradients)


def chunk_rows(num_tokens: int, row_bytes: int, budget: int = LOGITS_BUDGET) -> int:
    """Tokens of a chunk of logits: the fewest chunks that fit into the budget, of equal size.

    Multiples of 256, where a chunk has that many, fill the tiles of a matrix product.
    """
    most = max(1, budget // row_bytes)
    if most >= 256:
        most -= most % 256
    num_chunks = max(1, -(-num_tokens // most))
    rows = max(1, -(-num_tokens // num_chunks))
    return min(most, -(-rows // 256) * 256)
