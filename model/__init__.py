"""The Steel language model: torch and Transformers only, importable on a bare GPU machine.

    config, modeling_steel, soft_moe,   the architecture     kernels/   fused operations
      attention, documents                                   data/      shards, order, loader
    convert                             published weights    train/     the trainer
    tokenizer/                          text to ids          entry/     programs for torchrun

`from model import SteelForCausalLM` (or `import model.modeling_steel`) registers Steel with
Transformers' Auto classes, so that `AutoModelForCausalLM.from_pretrained(folder)` works without
remote code. Importing the package alone does not load torch: a process that needs only the shards
or the tokenizer starts three seconds sooner.
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
