"""A package `flash_attn` that computes on a CPU, and a program that trains through it.

The package stands on the import path as the real one does: a folder and its metadata, which is all
that Transformers looks at. Its entry for documents splits at the bounds and asks torch's attention
for each; it writes down what it was called with.
"""

import copy
import json
from pathlib import Path
from typing import Any

ATTENTION = '''
"""Stand-in for flash-attn 2: the same names and arguments, on any device."""

import itertools

import torch
from torch.nn import functional

__version__ = "2.8.3"
calls = []


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False,
                    window_size=(-1, -1), softcap=0.0, deterministic=False):
    """q, k, v [B, M, heads, D] -> [B, M, heads, D]"""
    calls.append({"entry": "whole", "rows": q.shape[0], "longest": q.shape[1]})
    assert causal and not dropout_p and q.shape[-1] % 8 == 0
    return _attend(q, k, v, softmax_scale)


def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
                           dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
                           softcap=0.0, deterministic=False):
    """q, k, v [T, heads, D], bounds int32 [N + 1] -> [T, heads, D]"""
    assert cu_seqlens_q.dtype == torch.int32 and torch.equal(cu_seqlens_q, cu_seqlens_k)
    assert isinstance(max_seqlen_q, int) and max_seqlen_q == max_seqlen_k
    assert causal and not dropout_p and q.shape[-1] % 8 == 0
    bounds = cu_seqlens_q.tolist()
    calls.append({"entry": "documents", "bounds": bounds, "longest": max_seqlen_q})
    parts = [
        _attend(q[None, a:b], k[None, a:b], v[None, a:b], softmax_scale)[0]
        for a, b in itertools.pairwise(bounds)
    ]
    return torch.cat(parts)


def flash_attn_with_kvcache(*args, **kwargs):
    raise AssertionError("training has no cache")


def _attend(q, k, v, scale):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out.transpose(1, 2)
'''
PADDING = """
def pad_input(*args):
    raise AssertionError("there is no padding")


unpad_input = pad_input
"""


def write_package(folder: Path) -> Path:
    """Write the package below a folder, which is then to be put on the import path."""
    (folder / "flash_attn").mkdir(parents=True)
    (folder / "flash_attn" / "__init__.py").write_text(ATTENTION, encoding="utf-8")
    (folder / "flash_attn" / "bert_padding.py").write_text(PADDING, encoding="utf-8")
    about = folder / "flash_attn-2.8.3.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: flash-attn\nVersion: 2.8.3\n")
    (about / "top_level.txt").write_text("flash_attn\n")
    return folder


CAPABILITIES = ((8, 0), (9, 0))


def main() -> dict[str, Any]:
    """Choose an attention as GPUs of these capabilities would, and train a step with it here.

    Returns for each architecture the choices, the largest differences of loss and gradients from
    sdpa with a mask, and what the package was called with.
    """
    import torch

    # What a GPU would answer, asked once; Transformers' look at the package is its own.
    there = torch.cuda.is_available
    torch.cuda.is_available = lambda: True
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import import_utils

    assert import_utils.is_torch_cuda_available() and import_utils.is_flash_attn_2_available()
    torch.cuda.is_available = there

    import model.modeling_steel as _registers_auto_classes  # noqa: F401
    from model.attention import choose_attention

    torch.backends.cudnn.is_available = lambda: True  # type: ignore[assignment]
    found: dict[str, Any] = {"chosen": {}, "steps": {}}
    shapes: dict[str, dict[str, Any]] = {
        "steel": {"head_dim": 6, "expert_intermediate_size": 8, "num_experts": 3},
        "qwen2": {"intermediate_size": 32},
        "llama": {"intermediate_size": 32},
    }
    for kind, changes in shapes.items():
        config = AutoConfig.for_model(
            kind,
            vocab_size=61,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            **changes,
        )
        where = {"device": torch.device("cuda"), "dtype": torch.bfloat16}
        found["chosen"][kind] = []
        for capability in CAPABILITIES:
            torch.cuda.get_device_capability = lambda *_, found=capability: found  # type: ignore
            found["chosen"][kind] += [
                choose_attention(
                    "auto", config, separate_documents=documents, one_length=one, **where
                )
                for documents, one in ((True, True), (False, True), (False, False))
            ]
        torch.manual_seed(0)
        models = {
            name: AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=name)
            for name in ("sdpa", "flash_attention_2")
        }
        models["flash_attention_2"].load_state_dict(models["sdpa"].state_dict())
        found["steps"][kind] = [_step(models, documents=documents) for documents in (True, False)]
    found["race"] = _race()
    return found


def _race() -> dict[str, Any]:
    """The benchmark of documents: differences of its row from sdpa with a mask, and its calls."""
    import flash_attn
    import torch

    from benchmarks.kernels._timing import Setup
    from benchmarks.kernels.bench_documents import HEAD, PADDED, attend, draw
    from model import SteelConfig

    documents = draw(Setup(device=torch.device("cpu"), compiled=False, seconds=0.1))
    config = SteelConfig(hidden_size=2 * HEAD, num_attention_heads=2)
    rows, length = documents.positions.shape
    inputs = [torch.randn(rows, length, 2, HEAD).bfloat16().transpose(1, 2) for _ in range(3)]
    expected = attend("sdpa", HEAD, documents, config)(*inputs)
    flash_attn.calls.clear()
    widths = (HEAD, PADDED)
    outputs = [attend("flash_attention_2", w, documents, config)(*inputs) for w in widths]
    return {
        "differences": [float((output - expected).abs().max()) for output in outputs],
        "calls": list(flash_attn.calls),
        "bounds": documents.cu_seqlens.tolist(),
    }


def _step(models: dict[str, Any], *, documents: bool) -> dict[str, Any]:
    """The trainer's loss and gradients of both, [2, 16] tokens in five documents."""
    import flash_attn
    import torch

    from model.train.loss import ModelWithLoss

    tokens = torch.randint(2, 61, (2, 17), generator=torch.Generator().manual_seed(1))
    arguments: dict[str, Any] = {}
    if documents:
        arguments = {
            "position_ids": torch.cat([torch.arange(n) for n in (5, 11, 1, 3, 12)]).view(2, 16),
            "cu_seqlens": torch.tensor([0, 5, 16, 17, 20, 32], dtype=torch.int32),
            "max_seqlen": 12,
        }
    flash_attn.calls.clear()
    results = {}
    for name, network in models.items():
        network.zero_grad()
        total = ModelWithLoss(network.train())(tokens[:, :-1], tokens[:, 1:], **arguments).total
        total.backward()
        results[name] = [total.detach(), *(p.grad.clone() for p in network.parameters())]
    differences = [
        float((one - other).abs().max())
        for one, other in zip(results["sdpa"], results["flash_attention_2"], strict=True)
    ]
    return {"differences": differences, "calls": list(flash_attn.calls)}


if __name__ == "__main__":
    print(json.dumps(main()))
