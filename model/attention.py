"""Attention implementations: the choice among them, and packed documents kept apart without a mask.

                     documents' bounds                     no bounds
    flash_attention_N   varlen kernel                      flash kernel
    varlen              torch's own varlen kernel          as sdpa
    flex_attention      block mask                         block mask
    by_document         sdpa, one document after the other as sdpa              (a CPU's)
    sdpa, eager         mask [B, 1, M, M]                  sdpa: none needed (is_causal)

`attn_implementation: auto` takes the first that this device, precision and installation support.
`varlen` (torch.nn.attention.varlen, torch 2.11 and newer) is registered with Transformers here, for
training any of its models: for those other than Steel it makes no mask, so padding is not masked.

Shapes: B = rows, M = tokens of a row, T = B M, H = query heads, D = head size, N = documents.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import create_causal_mask
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import import_utils

from common.errors import ConfigError
from model import cudnn_attention
from model.architecture import AttentionImplementation
from model.cudnn_attention import CUDNN
from model.documents import Documents

VARLEN = "varlen"
BY_DOCUMENT = "by_document"
"""On a CPU, of rows that hold many documents: T x T scores would be mostly masked."""

NAMES = get_args(AttentionImplementation)
"""Values of `attn_implementation`."""

HALF = (torch.bfloat16, torch.float16)

SUPPORT = {
    "sdpa": "_supports_sdpa",
    CUDNN: "_supports_sdpa",
    "flex_attention": "_supports_flex_attn",
    "flash_attention": "_supports_flash_attn",
    VARLEN: "_supports_attention_backend",
}
"""Implementation -> attribute by which a Transformers class states that it supports it."""
HEAD_SIZE_MULTIPLE = 8
"""Flash kernels need a head size that is a multiple of this."""


def _find_varlen() -> Callable[..., Any] | None:
    """torch's kernel if it has a scale and a window (2.11 and newer), else None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    wanted = {"scale", "window_size"}
    return varlen_attn if wanted <= inspect.signature(varlen_attn).parameters.keys() else None


varlen_attn = _find_varlen()

VARLEN_GROUPS_HEADS = (
    varlen_attn is not None and "enable_gqa" in inspect.signature(varlen_attn).parameters
)
"""True if it accepts fewer heads of keys than of queries (not in torch 2.11)."""


def choose_attention(
    requested: str,
    config: PreTrainedConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    separate_documents: bool,
    one_length: bool = True,
) -> str:
    """Choose the implementation to train a model of this config with; return Transformers' name.

    dtype: of the forward pass. separate_documents: true if rows pack documents that must not see
    each other. one_length: false if rows differ in length, for which `auto` leaves out cuDNN.
    Raises ConfigError for a request that is unknown or cannot run here, and as `check_causal`.
    """
    check_attention(requested)
    check_causal(config)
    if requested != "auto":
        reason = _unsupported_reason(requested, config, device, dtype)
        if reason:
            raise ConfigError(
                f"attn_implementation {requested!r} {reason}; use auto, which takes the best that "
                "this machine has"
            )
        return requested
    candidates = ["flash_attention_3", "flash_attention_4"]
    # Without bounds SDPA has flash and cuDNN kernels itself, and there is no mask to avoid.
    bounded = ["flash_attention_2", VARLEN, "flex_attention"]
    candidates += bounded if separate_documents else [CUDNN, "flash_attention_2"]
    return next(
        name
        for name in (*candidates, "sdpa", "eager")
        if (one_length or name != CUDNN) and not _unsupported_reason(name, config, device, dtype)
    )


def choose_for_documents(
    requested: str, config: PreTrainedConfig, *, device: torch.device, dtype: torch.dtype
) -> tuple[str, bool]:
    """Choose the implementation for rows that hold many short documents, as `choose_attention`.

    Returns its name, and true where it makes no mask of all tokens of a row by all others.
    """
    chosen = choose_attention(
        requested, config, device=device, dtype=dtype, separate_documents=True
    )
    if chosen == "sdpa" and requested == "auto" and device.type == "cpu":
        architecture = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        if architecture._supports_attention_backend:
            chosen = BY_DOCUMENT
    bounded = supports_document_bounds(chosen, device)
    return chosen, bounded or chosen == "flex_attention"


def check_causal(config: PreTrainedConfig) -> None:
    """Raise ConfigError for a config that has no causal language model in Transformers, or one
    whose code needs a package that is not installed."""
    try:
        known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
        if known:
            MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"model_type {config.model_type!r} cannot be loaded from Transformers ({reason})"
        ) from error
    if not known:
        raise ConfigError(
            f"model_type {config.model_type!r} has no causal language model in Transformers"
        )


def check_runnable(config: PreTrainedConfig, device: torch.device) -> None:
    """Raise ConfigError if a model was loaded with an attention that cannot run on `device`.

    On a CPU flex attention would run, and give NaN as soon as there is a gradient.
    """
    name = getattr(config, "_attn_implementation", None)
    if device.type == "cpu" and name is not None and ("flex" in name or "flash" in name):
        raise ConfigError(
            f"the model asks for attention {name!r}, which needs a GPU: remove "
            "attn_implementation from its config.json (a CPU has sdpa and eager)"
        )


def check_attention(requested: str) -> None:
    """Raise ConfigError for an unknown name."""
    if requested not in NAMES:
        raise ConfigError(f"attn_implementation is {requested!r}: choose one of {', '.join(NAMES)}")


def _unsupported_reason(
    name: str, config: PreTrainedConfig, device: torch.device, dtype: torch.dtype
) -> str | None:
    """Reason why an implementation cannot run, or None."""
    if name == "eager":
        return None
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if not getattr(architecture, SUPPORT[name.rstrip("_234")]):
        return f"is not supported by {architecture.__name__}"
    if getattr(config, "attn_logit_softcapping", None) and name in ("sdpa", CUDNN, VARLEN):
        return "has no soft capping of attention scores (attn_logit_softcapping)"
    if name == "sdpa":
        return None
    if device.type != "cuda":
        return "needs a GPU (a CPU has eager and sdpa)"
    dropout = getattr(config, "attention_dropout", 0.0)
    if dropout and name in ("flex_attention", VARLEN, "flash_attention_4"):
        return f"has no dropout (attention_dropout is {dropout})"
    return None if name == "flex_attention" else _flash_unsupported_reason(name, device, dtype)


def _flash_unsupported_reason(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Reason why a kernel of FlashAttention's family cannot run on a GPU, or None."""
    if dtype not in HALF:
        return f"computes in bf16 or fp16, not {str(dtype).removeprefix('torch.')} (`precision`)"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f"needs compute capability 8.0 or newer, this GPU has {capability}"
    if name == CUDNN:
        return cudnn_attention.unsupported_reason(capability)
    if name == VARLEN:
        return None if varlen_attn else f"is not in torch {torch.__version__} (2.11 and newer)"
    version = name[-1]
    if version == "3" and capability[0] != 9:
        return f"is for Hopper (compute capability 9.x), this GPU has {capability}"
    if version == "4" and capability[0] < 9:
        return f"is for Hopper and Blackwell, this GPU has {capability}"
    installed = getattr(import_utils, f"is_flash_attn_{version}_available", None)
    if installed is None or not installed():
        package = {"2": "flash-attn", "3": "flash_attn_3", "4": "flash-attn-4"}[version]
        return f"is not installed (package {package})"
    return None


def supports_document_bounds(implementation: str | None, device: torch.device) -> bool:
    """True if its kernel keeps documents apart by their bounds, without a mask."""
    if implementation == VARLEN:
        return has_varlen(device)
    if implementation == BY_DOCUMENT:
        return device.type == "cpu"
    return implementation is not None and "flash" in implementation


def has_varlen(device: torch.device) -> bool:
    """True if torch's varlen kernel runs on `device`."""
    return varlen_attn is not None and device.type == "cuda"


def document_bound_arguments(cu_seqlens: Tensor, max_seqlen: int) -> dict[str, Any]:
    """Keyword arguments of Transformers for documents' bounds int32 [N + 1] and largest length."""
    return {
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": max_seqlen,
        "max_length_k": max_seqlen,
    }


def mask_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config from which Transformers makes the mask: for our own, that of sdpa, their fallback.

    Transformers makes no mask for implementations that it does not know.
    """
    if config._attn_implementation not in (VARLEN, BY_DOCUMENT, CUDNN):
        return config
    with_sdpa = copy.copy(config)
    with_sdpa._attn_implementation_internal = "sdpa"
    return with_sdpa


def mask_or_bounds(
    config: PreTrainedConfig,
    inputs_embeds: Tensor,
    attention_mask: Tensor | dict[str, Any] | None,
    past_key_values: Cache | None,
    documents: Documents | None,
) -> tuple[Any, dict[str, Any]]:
    """The mask, or the bounds for the kernel, that keep attention causal and within documents.

    inputs_embeds [B, M, d], attention_mask [B, past + M]: as in a model of Transformers.
    """
    if isinstance(attention_mask, dict):  # a static cache comes with a mask for each layer type
        return attention_mask["full_attention"], {}
    if documents is not None:
        if supports_document_bounds(config._attn_implementation, inputs_embeds.device):
            return None, document_bound_arguments(documents.cu_seqlens, documents.max_seqlen)
        # Transformers looks for packed documents only without a mask and without a cache.
        attention_mask = past_key_values = None
    mask = create_causal_mask(
        config=mask_config(config),
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        past_key_values=past_key_values,
        # Reading positions waits for the device: only if rows may hold several documents.
        position_ids=None if documents is None else documents.positions,
    )
    return mask, {}


def padded_head_size(head_size: int, choice: str | int, implementation: str | None) -> int:
    """Width that heads are padded to with zeros before attention, according to `pad_head_dim`.

    `auto`: a multiple of 8 for flash kernels; other implementations accept any width.
    """
    if isinstance(choice, int):
        return max(head_size, choice)
    flash = implementation in (VARLEN, CUDNN) or "flash" in (implementation or "")
    if choice == "auto" and flash:
        return -(-head_size // HEAD_SIZE_MULTIPLE) * HEAD_SIZE_MULTIPLE
    return head_size


def varlen_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention by torch.nn.attention.varlen, with Transformers' signature.

    query [B, H, M, D], key and value [B, key-value heads, M, D] -> [B, M, H, D]. Without bounds it
    is sdpa. sliding_window: tokens that a query sees, itself included.
    Raises ValueError for options that the kernel does not have.
    """
    if cu_seq_lens_q is None or not has_varlen(query.device):
        if sliding_window is not None and attention_mask is None and key.shape[2] > sliding_window:
            raise ValueError("varlen attention without bounds has no sliding window: use sdpa")
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
        return output, None
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ValueError(f"varlen attention has no {name}: use flash_attention_2 or eager")
    if dropout:
        raise ValueError(f"varlen attention has no dropout, but dropout is {dropout}: use sdpa")
    query, key, value = (_half(tensor) for tensor in (query, key, value))
    rows, heads, length, width = query.shape
    options = {}
    if key.shape[1] != heads:
        if VARLEN_GROUPS_HEADS:
            options["enable_gqa"] = True
        else:
            key, value = (repeat_kv(x, heads // x.shape[1]) for x in (key, value))
    window = (-1, 0) if sliding_window is None else (sliding_window - 1, 0)
    assert varlen_attn is not None
    output = varlen_attn(
        *(tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value)),
        cu_seq_lens_q,
        cu_seq_lens_q if cu_seq_lens_k is None else cu_seq_lens_k,
        max_length_q,
        max_length_k,
        scale=scaling,
        window_size=window,
        **options,
    )
    return output.view(rows, length, heads, width), None


def _half(tensor: Tensor) -> Tensor:
    """`tensor` in bf16 or fp16: its own type, or autocast's. Raises ValueError if neither is."""
    if tensor.dtype in HALF:
        return tensor
    if torch.is_autocast_enabled(tensor.device.type):
        return tensor.to(torch.get_autocast_dtype(tensor.device.type))
    raise ValueError(
        f"varlen attention computes in bf16 or fp16, not {tensor.dtype}: load the model in bf16, "
        "or use sdpa"
    )


def attention_by_document(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention by sdpa, document by document, with Transformers' signature.

    query [B, H, M, D], key and value [B, key-value heads, M, D] -> [B, M, H, D]. Without bounds it
    is sdpa. The loop is over the host's memory: it is for a CPU.
    """
    names = ("cu_seq_lens_k", "max_length_q", "max_length_k")
    options = {name: value for name, value in kwargs.items() if name not in names}
    if cu_seq_lens_q is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **options
        )
        return output, None
    rows, heads, length, _ = query.shape
    query, key, value = (
        x.transpose(1, 2).flatten(0, 1).transpose(0, 1).unsqueeze(0) for x in (query, key, value)
    )
    lengths = cu_seq_lens_q.diff().tolist()
    parts = (torch.split(x, lengths, dim=2) for x in (query, key, value))
    outputs = []
    for q, k, v in zip(*parts, strict=True):
        mask = None
        if sliding_window is not None and q.shape[2] > sliding_window:
            ones = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device)
            mask = (ones.tril() & ones.triu(1 - sliding_window))[None, None]
        output, _ = sdpa_attention_forward(module, q, k, v, mask, dropout, scaling, **options)
        outputs.append(output)
    return torch.cat(outputs, dim=1).view(rows, length, heads, -1), None


AttentionInterface.register(VARLEN, varlen_attention_forward)
AttentionInterface.register(BY_DOCUMENT, attention_by_document)
