"""A chat model whose next token depends on the last one alone, so that its answers are known."""

from collections.abc import Mapping
from pathlib import Path

import torch

from model import SteelForCausalLM
from tests.tiny_chat import byte_tokenizer, save_tiny_model

VOCABULARY = 264


def write_bigram_model(folder: Path, following: Mapping[str, str], **shape: int) -> Path:
    """A model that says `following[x]` after x, both tokens of the byte tokenizer.

    Embeddings are unit vectors, layers add nothing, and the head maps one to the next.
    """
    tokenizer = byte_tokenizer()
    save_tiny_model(
        folder,
        tokenizer,
        seed=0,
        routing="dense",
        vocab_size=VOCABULARY,
        hidden_size=VOCABULARY,
        expert_intermediate_size=8,
        **{"max_position_embeddings": 2048, **shape},
    )
    model = SteelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(VOCABULARY))
        model.lm_head.weight.zero_()
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        for last, following_one in following.items():
            pair = [tokenizer.encode(text)[0] for text in (following_one, last)]
            model.lm_head.weight[pair[0], pair[1]] = 1.0
    model.save_pretrained(folder)
    return folder
