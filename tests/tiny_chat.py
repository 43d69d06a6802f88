"""A chat model of some thousand parameters, whose tokens are bytes, and conversations for it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from model import SteelConfig, SteelForCausalLM
from model.tokenizer.qwen import chat_template

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and the three special ones: 259 ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIAL[0], pad_token=SPECIAL[0]
    )
    fast.chat_template = chat_template()
    return fast


def save_tiny_model(
    folder: Path, tokenizer: PreTrainedTokenizerFast, *, seed: int, **shape: Any
) -> Path:
    """A Transformers folder with a tokenizer and random weights of two layers and two experts."""
    torch.manual_seed(seed)
    config = SteelConfig(
        num_hidden_layers=2,
        num_attention_heads=2,
        num_experts=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape,
    )
    SteelForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_model(folder: Path, *, seed: int = 0) -> Path:
    """A Transformers folder with random weights and the byte tokenizer."""
    return save_tiny_model(
        folder,
        byte_tokenizer(),
        seed=seed,
        vocab_size=264,
        hidden_size=16,
        expert_intermediate_size=8,
        max_position_embeddings=512,
    )


def conversations(count: int) -> list[dict[str, Any]]:
    """Different short conversations, every third with two exchanges, some with a system turn."""
    found = []
    for n in range(count):
        messages = [] if n % 4 else [{"role": "system", "content": f"规则 {n}"}]
        messages += [
            {"role": "user", "content": f"{n} 加 {n} 是几？"},
            {"role": "assistant", "content": f"{2 * n}" * (1 + n % 3)},
        ]
        if n % 3 == 0:
            messages += [
                {"role": "user", "content": "sure?"},
                {"role": "assistant", "content": f"yes, {2 * n}"},
            ]
        found.append({"messages": messages, "set": "sums", "language": "zh", "style": ""})
    return found


def pairs(count: int) -> list[dict[str, Any]]:
    """Different preference pairs."""
    return [
        {
            "prompt": [{"role": "user", "content": f"{n} 加 {n} 是几？"}],
            "chosen": [{"role": "assistant", "content": f"是 {2 * n}。"}],
            "rejected": [{"role": "assistant", "content": "don't know"}],
            "set": "sums",
            "language": "zh",
        }
        for n in range(count)
    ]


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path
