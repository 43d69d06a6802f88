"""Documents packed into one batch: their bounds, and sums over each of them without a loop.

    row 0   a a a b b c c c c      cu_seqlens 0 3 5 9 | 15 18
    row 1   d d d d d d e e e      bounds among the T = B M tokens; a row's start is always one

Soft routing over a sequence needs, for every document, weighted sums over its tokens. Documents
differ in length while matrix products need equal lengths, so tokens are laid out in tiles of t
places that belong to one document each (t = 4):

    a a a . │ b b . . │ c c c c │ d d d d │ d d . . │ e e e . │ . . . .

Each document has ceil(length / t) tiles; T // t + N tiles always suffice for N documents, so shapes
follow from shapes and the CPU never waits for the GPU. Moving tokens to tiles and back is a gather
in both directions, also in the backward pass, and tiles are summed in order: results are
reproducible bit by bit, which scattered additions on a GPU would not be.

Shapes: B = rows, M = tokens of a row, T = B M, N = documents, P = tiles, t = places of a tile.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

MAX_TILE = 64
"""Places of a tile, unless documents are so short that most would stay empty."""


class Tiles(NamedTuple):
    """Places of tokens in tiles. Tiles that no document needs count as document N."""

    token: Tensor
    """int64 [P, t]: the token at each place; 0 for an empty place."""
    filled: Tensor
    """bool [P, t]: true where a place holds a token."""
    place: Tensor
    """int64 [T]: each token's place among the P t."""
    document: Tensor
    """int64 [P]: each tile's document."""
    counts: Tensor
    """int64 [N + 1]: tiles of each document."""


class Documents(NamedTuple):
    """The documents of a batch."""

    cu_seqlens: Tensor
    """int32 [N + 1]: bounds among the T tokens."""
    max_seqlen: int
    """Upper bound of the documents' lengths, in tokens."""
    positions: Tensor
    """int64 [B, M]: each token's place in its document, from 0."""


def documents_from_bounds(
    cu_seqlens: Tensor, max_seqlen: int | None, rows: int, length: int
) -> Documents:
    """Documents from bounds [N + 1] among rows x length tokens, without waiting for the device."""
    cu_seqlens = cu_seqlens.to(torch.int32)
    tokens = torch.arange(rows * length, device=cu_seqlens.device, dtype=torch.int32)
    starts = cu_seqlens[_interval(cu_seqlens, tokens)]
    return Documents(
        cu_seqlens=cu_seqlens,
        max_seqlen=length if max_seqlen is None else max_seqlen,
        positions=(tokens - starts).long().view(rows, length),
    )


def documents_from_positions(
    position_ids: Tensor, attention_mask: Tensor | None
) -> Documents | None:
    """Documents from positions [B, M] that restart within rows; None if each row is one document.

    attention_mask [B, M]: 1 = real. Jumps of positions at or within padding start no document.
    Waits for the device. Raises ValueError for packed rows with padding other than on the right.
    """
    starts = position_ids.diff(dim=-1) != 1
    between_real = starts
    if attention_mask is not None:
        real = attention_mask.bool()
        between_real = starts & real[:, 1:] & real[:, :-1]
    if not between_real.any():
        return None
    check_padding(attention_mask)
    rows, length = position_ids.shape
    first = torch.ones_like(starts[:, :1])
    bounds = torch.cat([first, starts], dim=1).flatten().nonzero().flatten()
    cu_seqlens = torch.nn.functional.pad(bounds, (0, 1), value=rows * length)
    return documents_from_bounds(cu_seqlens, None, rows, length)


def check_padding(attention_mask: Tensor | None) -> None:
    """Raise ValueError if packed rows have padding before real tokens; attention_mask [B, M].

    Attention within documents uses no mask. No real token sees padding on the right.
    """
    if attention_mask is None:
        return
    real = attention_mask.bool()
    if not real[:, 0].all() or (real[:, 1:] & ~real[:, :-1]).any():
        raise ValueError(
            "rows hold several documents (position_ids restart, or bounds are given) while "
            "attention_mask hides tokens before real ones: pad packed rows on the right only"
        )


def may_hold_documents(attention_mask: Tensor | dict[str, Any] | None, cache: Cache | None) -> bool:
    """True if rows of such a call may hold several documents: in training and in prompts.

    False in decoding, and for calls with a mask that is not [B, M].
    """
    if cache is not None and (not isinstance(cache, DynamicCache) or cache.get_seq_length()):
        return False
    return attention_mask is None or (
        isinstance(attention_mask, Tensor) and attention_mask.ndim == 2
    )


def _interval(bounds: Tensor, numbers: Tensor) -> Tensor:
    """Index of the interval of ascending bounds [N + 1] that holds each number, int64."""
    return torch.searchsorted(bounds[1:].contiguous(), numbers, right=True)


def tiles_of(documents: Documents) -> Tiles:
    """The layout of documents in tiles."""
    bounds = documents.cu_seqlens.long()
    num_tokens, num_documents = documents.positions.numel(), len(bounds) - 1
    # Room for at most three times the tokens, however short the documents.
    mean = max(1, num_tokens // num_documents)
    size = min(MAX_TILE, 1 << (mean - 1).bit_length())
    num_tiles = num_tokens // size + num_documents
    counts = (bounds.diff() + size - 1) // size
    first_tile = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    tokens = torch.arange(num_tokens, device=bounds.device)
    owner = _interval(bounds, tokens)
    place = first_tile[owner] * size + documents.positions.flatten()
    token = torch.zeros(num_tiles * size, dtype=torch.int64, device=bounds.device)
    filled = torch.zeros(num_tiles * size, dtype=torch.bool, device=bounds.device)
    return Tiles(
        token=token.scatter(0, place, tokens).view(num_tiles, size),
        filled=filled.scatter(0, place, torch.ones_like(tokens, dtype=torch.bool)).view(
            num_tiles, size
        ),
        place=place,
        document=_interval(first_tile, torch.arange(num_tiles, device=bounds.device)),
        counts=torch.cat([counts, num_tiles - first_tile[-1:]]),
    )


def to_tiles(x: Tensor, tiles: Tiles) -> Tensor:
    """x [T, …] -> [P, t, …], 0 at empty places."""
    moved: Tensor = _ToTiles.apply(x, tiles.token, tiles.filled, tiles.place)  # type: ignore[no-untyped-call]
    return moved


def from_tiles(x: Tensor, tiles: Tiles) -> Tensor:
    """x [P, t, …] -> [T, …]"""
    moved: Tensor = _FromTiles.apply(x, tiles.token, tiles.filled, tiles.place)  # type: ignore[no-untyped-call]
    return moved


def sum_tiles(x: Tensor, tiles: Tiles) -> Tensor:
    """x [P, …] -> [N + 1, …]: the sum over each document's tiles, in fp32 (or wider)."""
    summed: Tensor = _SumTiles.apply(x, tiles.document, tiles.counts)  # type: ignore[no-untyped-call]
    return summed


def spread(x: Tensor, tiles: Tiles) -> Tensor:
    """x [N + 1, …] -> [P, …]: the value of its document for each tile."""
    copied: Tensor = _Spread.apply(x, tiles.document, tiles.counts)  # type: ignore[no-untyped-call]
    return copied


def softmax_by_document(logits: Tensor, tiles: Tiles) -> Tensor:
    """Softmax over the tokens of each document: tiled logits [P, t, S] -> [P, t, S].

    0 at empty places.
    """
    outside = ~tiles.filled.unsqueeze(-1)
    with torch.no_grad():
        lowest = torch.finfo(logits.dtype).min
        by_tile = logits.masked_fill(outside, lowest).amax(dim=1)
        largest = by_tile.new_full((len(tiles.counts), by_tile.shape[-1]), lowest)
        index = tiles.document.unsqueeze(-1).expand_as(by_tile)
        largest = largest.scatter_reduce(0, index, by_tile, "amax")[tiles.document].unsqueeze(1)
    powers = (logits - largest).masked_fill(outside, lowest).exp()
    # At least 1 for real documents: the largest power is exp(0).
    total = sum_tiles(powers.sum(dim=1), tiles).clamp_min(0.5)
    return powers / spread(total, tiles).unsqueeze(1)


def _gather_to_tiles(x: Tensor, token: Tensor, filled: Tensor) -> Tensor:
    return x[token] * filled.view(*filled.shape, *[1] * (x.ndim - 1))


def _sum(x: Tensor, counts: Tensor) -> Tensor:
    wide = x if x.dtype == torch.float64 else x.float()
    # unsafe: its checks would wait for the device.
    return torch.segment_reduce(wide.contiguous(), "sum", lengths=counts, axis=0, unsafe=True)


class _ToTiles(torch.autograd.Function):
    """`to_tiles`; its gradient is `_FromTiles`: a gather, since every token has one place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, filled: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return _gather_to_tiles(x, token, filled)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (place,) = ctx.saved_tensors
        return grad_outputs[0].flatten(0, 1)[place], None, None, None


class _FromTiles(torch.autograd.Function):
    """`from_tiles`; its gradient is `_ToTiles`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, filled: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(token, filled)
        return x.flatten(0, 1)[place]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        token, filled = ctx.saved_tensors
        return _gather_to_tiles(grad_outputs[0], token, filled), None, None, None


class _SumTiles(torch.autograd.Function):
    """`sum_tiles`; its gradient is `_Spread`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, document: Tensor, counts: Tensor) -> Tensor:
        ctx.save_for_backward(document)
        ctx.dtype = x.dtype
        return _sum(x, counts)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (document,) = ctx.saved_tensors
        return grad_outputs[0][document].to(ctx.dtype), None, None


class _Spread(torch.autograd.Function):
    """`spread`; its gradient is `_SumTiles`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, document: Tensor, counts: Tensor) -> Tensor:
        ctx.save_for_backward(counts)
        ctx.dtype = x.dtype
        return x[document]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (counts,) = ctx.saved_tensors
        return _sum(grad_outputs[0], counts).to(ctx.dtype), None, None
