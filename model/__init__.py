"""The Steel language model: torch and Transformers only, importable on a bare GPU machine.

    config.py, modeling_steel.py, soft_moe.py    the model        kernels/   fused operations
    tokenizer.py, chat_template.jinja            text to ids      data/      shards, order, loader
    train/                                       the trainer      entry/     what torchrun starts

Importing this package registers Steel with Transformers' Auto classes, so that
`AutoModelForCausalLM.from_pretrained(folder)` works without remote code.
"""

from model.config import SteelConfig
from model.modeling_steel import SteelForCausalLM, SteelModel, register

register()

__all__ = ["SteelConfig", "SteelForCausalLM", "SteelModel"]
