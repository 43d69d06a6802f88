"""Sizes of a model before it is built: numbers that no machine can hold are refused by arithmetic.

Transformers' configs and models make lists of layers and tensors from whatever number they are
given: a thousand million layers fill the memory before anything looks at them.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import ConfigError, shown
from model.architecture import MAX_PARAMETERS

LIMITS = (
    (re.compile(r"(^|_)(num|n)_(\w+_)?(layers?|blocks)$|(^|_)layers$|^depth$"), 10**3),
    (re.compile(r"(^|_)(num|n|top)_(\w+_)?(experts?|heads?|groups?|slots?|k)(_per_tok)?$"), 10**5),
    (re.compile(r"(^|_)(hidden|intermediate|ffn|embd|inner|model|dim|size|rank)(_|$)"), 10**8),
    (re.compile(r""), 10**12),
)
"""(names of fields of a model's config, largest whole number that one of them may have). Each layer
takes time to make, even without memory."""

MAX_ENTRIES = 10**5
"""Entries of a list, or keys, in a model's config, all together."""

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
WIDTHS = ("hidden_size", "n_embd", "d_model", "dim")
INNER = ("intermediate_size", "moe_intermediate_size", "n_inner", "ffn_dim", "d_ff")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def check_sizes(model: Mapping[str, Any], place: str = "model") -> None:
    """Refuse a config of any architecture whose numbers no machine can hold.

    Raises ConfigError naming the field, or the number of parameters that the fields make.
    """
    for count, (key, value) in enumerate(_leaves(model, place), start=1):
        if count > MAX_ENTRIES:
            raise ConfigError(f"{place} has more than {MAX_ENTRIES:,} entries")
        if type(value) is not int:
            continue
        name = key.rpartition(".")[2]
        most = next(most for pattern, most in LIMITS if pattern.search(name))
        if abs(value) > most:
            raise ConfigError(f"{key} = {shown(value)}; it must be at most {most:,}")
    for part in (model, *(value for value in model.values() if isinstance(value, Mapping))):
        check_parameters(_least_parameters(part), place)


def check_parameters(number: int, place: str = "model") -> None:
    """Raise ConfigError for a number of parameters that no machine holds."""
    if number > MAX_PARAMETERS:
        raise ConfigError(
            f"{place}: it would have about {number / 1e12:,.0f} million million parameters, more "
            f"than any machine can train (at most {MAX_PARAMETERS / 1e12:,.0f}); make hidden_size, "
            "the number of layers or experts, or the vocabulary smaller"
        )


def _least_parameters(model: Mapping[str, Any]) -> int:
    """A rough count of weights: attention, feed-forward network and embedding."""
    layers, width, inner, experts = (
        next((model[n] for n in names if type(model.get(n)) is int and model[n] > 0), 0)
        for names in (LAYERS, WIDTHS, INNER, EXPERTS)
    )
    vocabulary = model.get("vocab_size")
    rows = vocabulary if type(vocabulary) is int else 0
    return int(layers * (2 * width * width + 2 * width * inner * max(experts, 1)) + rows * width)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _leaves(entry, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _leaves(entry, key)
    else:
        yield key, value
