"""The Steel language model: torch and Transformers only, importable on a bare GPU machine.

    config.py, modeling_steel.py, soft_moe.py    the model        kernels/   fused operations
    tokenizer.py, chat_template.jinja            text to ids      data/      shards, order, loader
    train/                                       the trainer      entry/     what torchrun starts

`from model import SteelForCausalLM` (or `import model.modeling_steel`) registers Steel with
Transformers' Auto classes, so that `AutoModelForCausalLM.from_pretrained(folder)` works without
remote code. Importing the package alone does not load torch: who only wants its errors or its
shards, such as a cleaning process, starts three seconds sooner.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.config import SteelConfig
    from model.modeling_steel import SteelForCausalLM, SteelModel

__all__ = ["SteelConfig", "SteelForCausalLM", "SteelModel"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from model import modeling_steel

        return getattr(modeling_steel, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
