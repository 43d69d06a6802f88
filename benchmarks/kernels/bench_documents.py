"""Packed documents kept apart: attention without a mask, and soft routing in tiles.

python -m benchmarks.kernels.bench_documents [--json out.json]

Attention is called as the model calls it (Transformers' interface, model/attention.py); the peer is
sdpa with the mask that documents need. TFLOP/s count pairs of tokens of one document only, so the
limit is the speed of the matrix products. Routing over a sequence is compared with a loop over
documents.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from benchmarks.kernels._comparison import Case, run
from benchmarks.kernels._timing import Setup
from common.errors import ConfigError
from model import SteelConfig
from model.attention import VARLEN, choose_attention, document_bound_arguments
from model.documents import Documents, documents_from_bounds, tiles_of
from model.kernels import choose
from model.soft_moe import SoftMoE

HEAD, PADDED = 56, 64
MEAN_DOCUMENT = 600.0
"""Tokens; lengths are drawn from an exponential distribution."""

NAMES = (VARLEN, "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")


def draw(setup: Setup) -> Documents:
    """Documents of 8 rows of 2,048 tokens, cut at the ends of rows as the loader does."""
    rows, length = (2, 64) if setup.tiny else (8, 2048)
    mean = 15.0 if setup.tiny else MEAN_DOCUMENT
    gaps = torch.empty(rows * length).exponential_(1 / mean).ceil().long().cumsum(0)
    bounds = {*range(0, rows * length + 1, length), *gaps[gaps < rows * length].tolist()}
    cu_seqlens = torch.tensor(sorted(bounds), dtype=torch.int32)
    longest = int(cu_seqlens.diff().max())
    return documents_from_bounds(cu_seqlens.to(setup.device), longest, rows, length)


def cases(setup: Setup) -> list[Case]:
    """Attention, and routing with its experts (Table 1)."""
    documents = draw(setup)
    return [attention(setup, documents), routing(setup, documents)]


def attention(setup: Setup, documents: Documents) -> Case:
    """Query, key, value [B, heads, M, d] -> [B, M, heads, d]."""
    (rows, length), heads = documents.positions.shape, 2 if setup.tiny else 32
    config = SteelConfig(hidden_size=heads * HEAD, num_attention_heads=heads)
    candidates: dict[str, Any] = {"sdpa + mask": attend("sdpa", HEAD, documents, config)}
    for name in NAMES:
        try:
            choose_attention(
                name, config, device=setup.device, dtype=setup.dtype, separate_documents=True
            )
        except ConfigError as error:
            candidates[name] = str(error)
            continue
        candidates[name] = attend(name, HEAD, documents, config)
        candidates[f"{name} padded"] = attend(name, PADDED, documents, config)

    def make() -> tuple[Tensor, ...]:
        inputs = (setup.random(rows, length, heads, HEAD, learns=False) for _ in range(3))
        return tuple(x.transpose(1, 2).requires_grad_() for x in inputs)

    lengths = documents.cu_seqlens.diff().double()
    pairs = int((lengths * (lengths + 1) / 2).sum())
    return Case(
        name="attention, documents",
        operation="attention",
        candidates=candidates,
        make=make,
        forward_flops=2 * 2 * pairs * heads * HEAD,
    )


def attend(
    name: str, width: int, documents: Documents, config: SteelConfig
) -> Callable[..., Tensor]:
    """One implementation, with heads padded to `width`."""
    module = SimpleNamespace(
        config=config, is_causal=True, num_key_value_groups=1, training=True, layer_idx=0
    )
    same = documents_equal(documents)
    mask: Any = None
    arguments: dict[str, Any] = {}
    if name == "flex_attention":
        mask = block_mask(documents)
    elif name == "sdpa":
        mask = same & torch.ones_like(same[0, 0]).tril()
    else:
        arguments = document_bound_arguments(documents.cu_seqlens, documents.max_seqlen)

    def call(*inputs: Tensor) -> Tensor:
        config._attn_implementation_internal = name
        function = sdpa_attention_forward if name == "sdpa" else ALL_ATTENTION_FUNCTIONS[name]
        filled = (functional.pad(x, (0, width - HEAD)) if width > HEAD else x for x in inputs)
        output: Tensor = function(module, *filled, mask, scaling=HEAD**-0.5, **arguments)[0]
        return output[..., :HEAD]

    return call


def documents_equal(documents: Documents) -> Tensor:
    """[B, 1, M, M]: true if two tokens are of one document."""
    owner = (documents.positions == 0).cumsum(dim=1)
    return (owner[:, None, :, None] == owner[:, None, None, :]).clone()


def block_mask(documents: Documents) -> Any:
    """Block mask of flex attention: causal, within documents."""
    from torch.nn.attention.flex_attention import create_block_mask

    owner = (documents.positions == 0).cumsum(dim=1)

    def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (owner[row, query] == owner[row, key]) & (query >= key)

    rows, length = owner.shape
    return create_block_mask(seen, rows, None, length, length, device=owner.device.type)


def routing(setup: Setup, documents: Documents) -> Case:
    """One Soft MoE layer in `sequence` mode, [B, M, d] -> [B, M, d]."""
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "expert_intermediate_size": 8,
    }
    config = SteelConfig(routing="sequence", **(shape if setup.tiny else {}))
    layer = SoftMoE(config, choose("eager"))
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=config.hidden_size**-0.5)
    layer.to(setup.device, setup.dtype)
    tiles = tiles_of(documents)
    lengths = documents.cu_seqlens.diff().tolist()

    def one_by_one(x: Tensor) -> Tensor:
        parts = torch.split(x.flatten(0, 1), lengths)
        return torch.cat([layer(part[None])[0] for part in parts]).view_as(x)

    rows, length = documents.positions.shape
    return Case(
        name="routing, documents",
        operation="routing",
        candidates={"loop": one_by_one, "tiles": lambda x: layer(x, None, tiles)},
        make=lambda: (setup.random(rows, length, config.hidden_size),),
    )


if __name__ == "__main__":
    run(__doc__.split("\n")[0], cases, module="benchmarks.kernels.bench_documents")
