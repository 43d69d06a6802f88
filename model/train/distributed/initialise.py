"""First weights, one module at a time: no process ever holds the whole model in fp32.

    meta model ─▶ for each unit (a layer, the embedding, the rest):
                    memory on the CPU ─▶ values ─▶ sharded over ranks, the whole unit forgotten

The values of a module follow from (seed, the module's name) alone, always drawn on the CPU: the
same start on any number of ranks and any device, although no rank sends weights to another. Peak
memory is one unit and this rank's shards. Weights of a folder are read tensor by tensor, likewise.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.errors import ConfigError, DataError

CPU = torch.device("cpu")


class RandomWeights:
    """The architecture's own initialisation, each module seeded by its name.

    draw_on: device that draws the values; the CPU's are the same on every machine. Where nobody
    will compare them (a measurement of speed), a GPU draws a billion of them in no time.
    """

    def __init__(self, model: PreTrainedModel, seed: int, *, draw_on: torch.device = CPU) -> None:
        self.seed = seed
        self.draw_on = draw_on
        self.names = {module: name for name, module in model.named_modules()}
        real = all(not parameter.is_meta for parameter in model.parameters())
        self.finished: set[nn.Module] = set(self.names) if real else set()
        # In a model made of models each initialises its own modules.
        self.owners: dict[nn.Module, PreTrainedModel] = {}
        for module in model.modules():  # outer ones first, so that the innermost model stays
            if isinstance(module, PreTrainedModel):
                self.owners.update(dict.fromkeys(module.modules(), module))

    @torch.no_grad()
    def fill(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        """Give those of these modules that have none yet their memory and values.

        modules: children before their parents, so that a parent may adjust its children.
        device: where each module goes once it has its values.

        Raises ConfigError when the architecture leaves a tensor without a value.
        """
        everything = list(modules)
        modules = [module for module in everything if module not in self.finished]
        self.finished.update(modules)
        filled = _materialise(modules, self.draw_on)
        for module in modules:
            self.load(module)
            torch.manual_seed(module_seed(self.seed, self.names[module]))
            self.owners[module]._init_weights(module)
        for module in modules:
            for name, tensor in filled.get(module, {}).items():
                if _is_unset(tensor):
                    raise ConfigError(
                        f"pretrain: {type(self.owners[module]).__name__} does not initialise "
                        f"{self.names[module]}.{name} (its _init_weights leaves it out)"
                    )
        _move(everything, device)

    def load(self, module: nn.Module) -> None:
        """Values that are not random."""


class FolderWeights(RandomWeights):
    """The tensors of a Transformers folder's safetensors; buffers that no folder holds are made.

    Raises DataError when the folder lacks a weight of the model or has it in another shape.
    """

    def __init__(self, model: PreTrainedModel, folder: Path) -> None:
        super().__init__(model, seed=0)
        self.folder = folder
        self.files = tensor_files(folder)
        # One of the names of a tied weight is enough.
        self.aliases: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self.aliases.setdefault(id(parameter), []).append(name)
        self.stored = {
            name: next((n for n in names if n in self.files), "")
            for names in self.aliases.values()
            for name in names
        }

    @property
    def missing(self) -> list[str]:
        """Weights of the model that the folder has under none of their names."""
        return sorted(name for name, stored in self.stored.items() if not stored)

    def load(self, module: nn.Module) -> None:
        prefix = f"{self.names[module]}." if self.names[module] else ""
        own = [
            *module.named_parameters(recurse=False),
            *(
                (name, b)
                for name, b in module.named_buffers(recurse=False)
                if prefix + name in self.files
            ),
        ]
        for name, tensor in own:
            if tensor.is_meta or getattr(tensor, "_is_hf_initialized", False):
                continue
            stored = self.stored.get(prefix + name, prefix + name)
            with safe_open(self.folder / self.files[stored], framework="pt", device="cpu") as file:
                values = file.get_tensor(stored)
            if values.shape != tensor.shape:
                raise DataError(
                    f"pretrain: {stored} in {self.folder} is {list(values.shape)}, its config.json "
                    f"says {list(tensor.shape)}"
                )
            tensor.copy_(values)
            tensor._is_hf_initialized = True  # type: ignore[attr-defined]  # `_init_weights` obeys


def module_seed(seed: int, name: str) -> int:
    """Seed of one module's random numbers."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def tensor_files(folder: Path) -> dict[str, str]:
    """Tensor name -> safetensors file of a Transformers folder. Raises DataError without one."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    if not single.is_file():
        raise DataError(f"pretrain: {folder} holds no model.safetensors(.index.json)")
    with safe_open(single, framework="pt") as file:
        return dict.fromkeys(file.keys(), single.name)


def children_first(module: nn.Module) -> list[nn.Module]:
    """A module and everything below it, each after its children."""
    inner = [found for child in module.children() for found in children_first(child)]
    return list(dict.fromkeys([*inner, module]))


def _materialise(
    modules: list[nn.Module], device: torch.device
) -> dict[nn.Module, dict[str, Tensor]]:
    """Replace meta tensors by real ones on `device`, marked as unset; which they are, by module.

    A tensor that stands in several modules (tied weights) stays one tensor.
    """
    real: dict[int, Tensor] = {}
    replaced: list[Tensor] = []  # keeps the ids in `real` valid
    filled: dict[nn.Module, dict[str, Tensor]] = {}
    for module in modules:
        for slots in (module._parameters, module._buffers):
            for name, tensor in slots.items():
                if tensor is None or not tensor.is_meta:
                    continue
                if id(tensor) not in real:
                    replaced.append(tensor)
                    fresh = _unset_like(tensor, device)
                    if isinstance(tensor, nn.Parameter):
                        fresh = nn.Parameter(fresh, requires_grad=tensor.requires_grad)
                    real[id(tensor)] = fresh
                slots[name] = filled.setdefault(module, {})[name] = real[id(tensor)]  # type: ignore[assignment]
    return filled


def _move(modules: list[nn.Module], device: torch.device) -> None:
    moved: dict[Tensor, Tensor] = {}
    for module in modules:
        for slots in (module._parameters, module._buffers):
            for name, tensor in slots.items():
                if tensor is None or tensor.device == device or tensor.is_meta:
                    continue
                if tensor not in moved:
                    there = tensor.to(device)
                    if isinstance(tensor, nn.Parameter):
                        there = nn.Parameter(there, requires_grad=tensor.requires_grad)
                    moved[tensor] = there
                slots[name] = moved[tensor]  # type: ignore[assignment]


def _unset_like(tensor: Tensor, device: torch.device) -> Tensor:
    """Allocate memory filled with a value that marks it as not initialised."""
    real = torch.empty_like(tensor, device=device)
    if real.is_floating_point():
        return real.fill_(torch.nan)
    if real.dtype != torch.bool:
        return real.fill_(torch.iinfo(real.dtype).min)
    return real


def _is_unset(tensor: Tensor) -> bool:
    if not tensor.numel():
        return False
    # The sum is NaN when one element is; a copy of a mask would cost a quarter of the weight.
    if tensor.is_floating_point():
        return bool(tensor.sum().isnan())
    if tensor.dtype != torch.bool:
        return bool((tensor == torch.iinfo(tensor.dtype).min).any())
    return False
