"""A tiny config of the same architecture: every kind of layer, a few numbers wide.

    {hidden_size: 4096, num_attention_heads: 32, num_key_value_heads: 8, num_hidden_layers: 61, …}
    ─▶ {hidden_size: 64, num_attention_heads: 4, num_key_value_heads: 1, num_hidden_layers: 8, …}

Fields are known by their names, since architectures share nothing else: numbers of heads are
divided by a power of two, widths of a head by another, all other widths by both, so that what must
divide or equal something else still does. Layers are cut after the first few, or after the first of
the rarest kind. Numbers of experts, and of those that a token chooses, stay as they are.
"""

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedConfig

MAX_LAYERS = 8
"""Layers that are kept, unless a kind of layer first comes later."""
MAX_VOCABULARY = 512
"""Rows of the embedding that are kept; tokens."""
MAX_WINDOW = 8
"""Window of local attention, and keys that sparse attention chooses, tokens: fewer than the
documents have that are tried."""
MIN_POSITIONS = 64
"""Longest sequence of a tiny model at least; tokens, more than are tried."""
MIN_HEADS = 4
MIN_HEAD_WIDTH = 16

LAYERS = re.compile(
    r"^(num_hidden_layers|n_layers?|num_layers|(num_)?(decoder|encoder)_layers|num_blocks)$"
)
HEADS = re.compile(
    r"(^|_)(heads|n_head|n_heads|n_groups|num_query_groups|num_attention_heads_per_layer)$"
    r"|_num_\w*heads$"
)
HEAD_WIDTH = re.compile(
    r"head_?(dim|size)$|^(d_head|d_kv|kv_channels|dim_head|rotary_dim|mamba_d_head|d_rel)$"
    r"|query_pre_attn_scalar"
)
WIDTH = re.compile(
    r"(hidden|intermediate|inter|ffn|mlp|feed_forward|embedding|input|output)_?\w*(size|dim)$"
    r"|^(d_model|n_embd|n_inner|d_ff|dff|dim_ff|d_inner|ffn_dim|embed_dim|emb_dim|lru_width)$"
    r"|^(embedding_size|hidden_size\w*|intermediate_size\w*|embedding_dim|mamba_d_ssm)$"
    r"|_ffn_dim$|lora_rank$|_proj_dim$|^(mamba_dt_rank|time_step_rank|laurel_rank|hc_lowrank)$"
)
WINDOW = re.compile(
    r"^(sliding_window|window_size|attention_window_size|local_attention|sliding_window_size"
    r"|attention_chunk_size|swa_window\w*|local_attention_window_len"
    r"|index_topk|index_block_size)$"
)
VOCABULARY = re.compile(r"vocab_size\w*$|_vocab$")
POSITIONS = re.compile(r"^(max_position_embeddings|n_positions|n_ctx|max_seq_len)$")
TOKEN = re.compile(r"token_ids?$|token_index$")
SECTION = re.compile(r"mrope_section$")


def tiny_config(
    config: PreTrainedConfig, *, shrink_widths: bool = True, multiple: int = 1
) -> PreTrainedConfig:
    """A copy of a config with few layers, a small vocabulary, short windows and narrow widths.

    multiple: what widths that are a multiple of it stay a multiple of; kernels ask for 16 bytes.
    The new config may be one that the architecture refuses: then its class raises, or its model.
    """
    values = copy.deepcopy(config.to_dict())
    heads, width = _divisors(values, multiple) if shrink_widths else (1, 1)
    _shrink(values, heads, width)
    values.pop("transformers_version", None)
    return type(config).from_dict(values)


def _shrink(values: dict[str, Any], heads: int, width: int) -> None:
    num_layers = next((values[k] for k in values if LAYERS.match(k) and _is_count(values[k])), None)
    keep = None if num_layers is None else _num_kept(values, num_layers)
    for key, value in values.items():
        if key == "per_layer_config" and isinstance(value, dict) and keep is not None:
            value = values[key] = {n: entry for n, entry in value.items() if int(n) < keep}
        if isinstance(value, dict) and key not in ("id2label", "label2id"):
            _shrink(value, heads, width)
        elif isinstance(value, list):
            if num_layers is not None and len(value) == num_layers:
                value = values[key] = value[:keep]
            values[key] = [_shrunk(key, item, heads, width) for item in value]
        elif LAYERS.match(key) and keep is not None and _is_count(value):
            values[key] = min(value, keep)
        elif key == "num_kv_shared_layers" and keep is not None and _is_count(value):
            values[key] = min(value, keep // 2)
        else:
            values[key] = _shrunk(key, value, heads, width)


def _shrunk(key: str, value: Any, heads: int, width: int) -> Any:
    if not _is_count(value):
        return value
    rules: list[tuple[re.Pattern[str], Callable[[int], int]]] = [
        (VOCABULARY, lambda n: min(n, MAX_VOCABULARY)),
        (TOKEN, lambda n: n if n < MAX_VOCABULARY else 1),
        (POSITIONS, lambda n: max(n, MIN_POSITIONS)),
        (WINDOW, lambda n: min(n, MAX_WINDOW)),
        (HEADS, lambda n: max(1, n // heads)),
        (HEAD_WIDTH, lambda n: max(1, n // width)),
        (SECTION, lambda n: max(1, n // width)),
        (WIDTH, lambda n: max(1, n // (heads * width))),
    ]
    return next((rule(value) for name, rule in rules if name.search(key)), value)


def _num_kept(values: dict[str, Any], num_layers: int) -> int:
    """Layers up to the first of each kind, as the lists with an entry per layer name them."""
    keep = min(num_layers, MAX_LAYERS)
    if values.get("per_layer_config"):  # exceptions by layer: the first is the last that is kept
        keep = min(num_layers, 1 + min(int(number) for number in values["per_layer_config"]))
    for value in values.values():
        if isinstance(value, list) and len(value) == num_layers:
            kinds = [str(entry) for entry in value]
            keep = max(keep, *(kinds.index(kind) + 1 for kind in kinds))
    return keep


def _divisors(values: dict[str, Any], multiple: int) -> tuple[int, int]:
    """Powers of two by which numbers of heads, and the width of a head, are divided."""
    found = dict(_numbers(values))
    counts = [n for key, number in found.items() if HEADS.search(key) for n in number]
    widths = [n for key, number in found.items() if WIDTH.search(key) for n in number]
    widths = [n for n in widths if multiple > 1 and n % multiple == 0]
    main = max(counts, default=1)
    heads = 1
    while (
        main // (2 * heads) >= MIN_HEADS
        and all(n % (2 * heads) == 0 or (2 * heads) % n == 0 for n in counts)
        and all(n % (2 * heads * multiple) == 0 for n in widths)
    ):
        heads *= 2
    sizes = [n for key, number in found.items() if HEAD_WIDTH.search(key) for n in number]
    hidden = next(
        (found[k][0] for k in ("hidden_size", "n_embd", "d_model", "emb_dim") if k in found), 0
    )
    if not sizes and hidden and hidden % main == 0:
        sizes.append(hidden // main)
    width = 1
    while (
        sizes
        and all(n % (16 * width) == 0 and n // (2 * width) >= MIN_HEAD_WIDTH for n in sizes)
        and hidden % (2 * width * heads) == 0
        and all(n % (2 * width * heads * multiple) == 0 for n in widths)
    ):
        width *= 2
    return heads, width


def _numbers(values: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, list):
            if value and all(_is_count(item) for item in value):
                yield key, value
        elif _is_count(value):
            yield key, [value]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
