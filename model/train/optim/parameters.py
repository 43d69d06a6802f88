"""The trained parameters of a model by what an optimizer does with them.

    hidden    weights that multiply hidden states: of linear layers and of experts
    others    further weights of two axes or more: embeddings, head, routers, convolutions
    vectors   norm weights, biases, scales

A hidden weight is one matrix, or several of equal shape that lie below each other in its rows:
Steel's stacked experts [n h, d] are n matrices [h, d], those of Transformers [n, a, b] are n
matrices [a, b]. In memory, the k-th matrix of a weight is the k-th of its equal parts.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from model.fp8 import routes

Parameters = list[nn.Parameter]

HEAD = re.compile(r"(^|\.)lm_head$")
"""Place of a linear layer whose outputs are no hidden states but choices of tokens."""


@dataclass(frozen=True, kw_only=True)
class TrainedParameters:
    """Every parameter that is trained, once, each kind in the model's order."""

    hidden: dict[nn.Parameter, int]
    """Hidden weight -> number of matrices in it."""
    others: Parameters
    """Further weights of two axes or more."""
    vectors: Parameters
    """Parameters of one axis."""

    @property
    def matrices(self) -> Parameters:
        """All of two axes or more."""
        return [*self.hidden, *self.others]


def trained_parameters(module: nn.Module) -> TrainedParameters:
    """Tell the trained parameters of a module apart.

    Pulling a norm weight or a scale to zero is no regulariser, so vectors are by themselves.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    hidden = {p: number for p, number in _hidden(module) if p.requires_grad}
    return TrainedParameters(
        hidden=hidden,
        others=[p for p in trained if p.ndim >= 2 and p not in hidden],
        vectors=[p for p in trained if p.ndim < 2],
    )


def num_hidden(module: nn.Module) -> int:
    """Elements of all hidden weights of a module, trained or not; also on the meta device."""
    return sum(p.numel() for p in dict(_hidden(module)))


def _hidden(module: nn.Module) -> Iterator[tuple[nn.Parameter, int]]:
    """Yield hidden weights with their numbers of matrices."""
    ends = {id(p) for p in _embeddings_and_head(module)}
    for name, part in module.named_modules():
        for own in part.parameters(recurse=False):
            number = 0 if id(own) in ends else _num_matrices(name, part, own)
            if number:
                yield own, number


def _num_matrices(name: str, part: nn.Module, parameter: nn.Parameter) -> int:
    """Matrices in a parameter of the module at this place; 0 for no hidden weight.

    What isn't known to be one is none: AdamW trains anything.
    """
    number = 0
    if parameter.ndim == 2 and isinstance(part, nn.Linear | Conv1D):
        number = 0 if routes(name) or HEAD.search(name) else 1
    elif parameter.ndim == 2:
        number = getattr(part, "num_stacked_matrices", 0)
    elif parameter.ndim == 3 and type(part).__name__.endswith("Experts"):  # Transformers' naming
        number = parameter.shape[0]
    if not number:
        return 0
    rows = parameter.shape[-2] // (number if parameter.ndim == 2 else 1)
    return number if min(rows, parameter.shape[-1]) > 1 else 0


def _embeddings_and_head(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the weights of the first and the last matrix of the language models in a module."""
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            yield from part.parameters()
        if isinstance(part, PreTrainedModel):
            head = part.get_output_embeddings()
            if isinstance(head, nn.Module):
                yield from head.parameters()
