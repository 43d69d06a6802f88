"""Conversion of published Steel-LLM checkpoints: `steel import`.

    published (modeling_steel.py, softmoe_v3.py)                  this project
    model.layers.N.mlp.phi [d, n, p]                         ──▶  mlp.phi [d, n p]
    model.layers.N.mlp.experts.M.gate_up_proj [h, d]         ──▶  mlp.experts.gate_in [n h, d]
                                 up_proj [h, d]                               up_in
                                 gate_down_proj [d, h]^T                      gate_out
                                 down_proj [d, h]^T                           up_out
    all others                                                    the same name

Published: github.com/zhanshijinwat/Steel-LLM. Only safetensors are read, tensor by tensor; memory
holds one output file (2 GB). All names and shapes are compared before anything is written, and the
output appears complete or not at all.

Computed with `routing="reference_norm"` the result is the published function. In the other modes
experts are fed x instead of the unit-length x^ that they were trained on (for RMSNorm's output with
weights near 1 that is sqrt(d) times as long), so it is a start for further training, not a model.
"""

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.errors import ConfigError, DataError
from common.files import publish_folder, write_text
from model.architecture import Routing
from model.config import SteelConfig
from model.modeling_steel import SteelForCausalLM
from model.soft_moe import LeakWarning
from model.tokenizer.folder import load_folder_tokenizer, save_digest
from model.tokenizer.identity import TOKENIZER_FILES

MAX_FILE_BYTES = 2_000_000_000
"""Size of an output file, except where one tensor is larger."""

EXPERTS = {
    "gate_in": "gate_up_proj",
    "up_in": "up_proj",
    "gate_out": "gate_down_proj",
    "up_out": "down_proj",
}
"""Stacked weight here -> published weight of one expert."""

COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""Files copied unchanged if the source has them."""

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Types that weights may be stored in, by their names in safetensors."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Result of `import_published`."""

    source: str
    output: str
    routing: str
    exact: bool
    """True if the result computes the same function as the published model."""
    parameters: int
    tensors: int
    """Tensors read from the source."""
    files: int
    """Files of weights written."""
    dtype: str


def import_published(source: Path, output: Path, routing: Routing = "reference_norm") -> Imported:
    """Convert the folder of a published checkpoint to a Transformers folder of a Steel model.

    routing: of the new model; `reference_norm` computes the published function.

    Raises ConfigError when `output` exists or the routing has no router, DataError when the source
    is another architecture, holds pickled weights, lacks a tensor, has one that is not known, in
    another shape or with values that are not finite, or a tokenizer that cannot be loaded. Nothing
    is left behind then.
    """
    if routing in ("dense", "uniform"):
        missing = "experts" if routing == "dense" else "router"
        raise ConfigError(
            f"routing {routing!r} has no {missing} to import the weights to: choose reference_norm"
        )
    if output.exists():
        raise ConfigError(f"{output} exists: give a new folder, or remove it first")
    config = read_config(source, routing)
    stored = StoredTensors(source)
    plan = plan_tensors(config)
    _compare(stored, plan, config)
    config.dtype = stored.dtype
    config.architectures = [SteelForCausalLM.__name__]
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        num_files = _write(plan, stored, partial)
        config.save_pretrained(partial)
        for name in COPIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, partial / name)
        if any((partial / name).is_file() for name in TOKENIZER_FILES):
            save_digest(load_folder_tokenizer(partial), partial)
        publish_folder(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Imported(
        source=str(source),
        output=str(output),
        routing=routing,
        exact=routing == "reference_norm",
        parameters=config.num_parameters(),
        tensors=sum(len(parts) for parts in plan.values()),
        files=num_files,
        dtype=str(stored.dtype).removeprefix("torch."),
    )


# ── config ───────────────────────────────────────────────────────────────────────────────────────

EXPECTED = {
    "FFN_type": ("softmoe_v3", None),
    "mlp_type": ("senet", None),
    "hidden_act": ("silu", "silu"),
    "use_sliding_window": (False, False),
    "rope_scaling": (None, None),
}
"""Published field -> (the value that this model implements, the value if it is missing)."""

SAME = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "slots_per_expert",
    "rms_norm_eps",
    "rope_theta",
    "max_position_embeddings",
    "tie_word_embeddings",
)
"""Fields of the same name and meaning in the published config and ours."""

SAME_OPTIONAL = ("attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id")
"""Further ones, which a checkpoint may leave out."""

DEFAULTS = {"num_key_value_heads": None, "slots_per_expert": 1, "rope_theta": 10_000.0}
"""Defaults of the published config class for fields that a checkpoint may leave out."""


def read_config(source: Path, routing: Routing) -> SteelConfig:
    """Convert a published config. Raises DataError naming the field that cannot be converted."""
    path = source / "config.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{source} is no checkpoint of Steel-LLM: it has no config.json") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if raw.get("model_type") == SteelConfig.model_type and "routing" in raw:
        raise DataError(f"{source} is a model of ours already: there is nothing to import")
    for field, (wanted, missing) in EXPECTED.items():
        if (found := raw.get(field, missing)) != wanted:
            raise DataError(
                f"{path}: {field} is {found!r}, only {wanted!r} can be imported: it is what the "
                "published Steel-LLM was trained with"
            )

    def value(field: str) -> Any:
        found = raw.get(field, DEFAULTS.get(field))
        if found is None and field not in DEFAULTS:
            raise DataError(f"{path} has no field {field}: it is no config of Steel-LLM")
        return found

    width, ratio = value("intermediate_size"), value("mlp_div_ratio")
    return SteelConfig(
        **{field: value(field) for field in SAME},
        **{field: raw[field] for field in SAME_OPTIONAL if raw.get(field) is not None},
        num_experts=value("n_experts"),
        expert_intermediate_size=width // ratio,
        routing=routing,
    )


# ── tensors ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Part:
    """One published tensor that becomes a part of one of ours."""

    name: str
    shape: tuple[int, ...]
    transposed: bool = False


def plan_tensors(config: SteelConfig) -> dict[str, list[Part]]:
    """Tensors of the new model, in order, each with the published ones stacked in it by rows."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakWarning)  # built on the meta device for the names only
        model = SteelForCausalLM(config)
    tied = model.all_tied_weights_keys
    plan: dict[str, list[Part]] = {}
    d, n, p = config.hidden_size, config.num_experts, config.slots_per_expert
    width = config.expert_intermediate_size
    for name, tensor in model.state_dict().items():
        layer, _, inside = name.partition(".mlp.")
        if name in tied:
            continue
        if inside == "phi":
            plan[name] = [Part(name=name, shape=(d, n, p))]
        elif inside.startswith("experts."):
            own = inside.removeprefix("experts.")
            out = own.endswith("_out")
            plan[name] = [
                Part(
                    name=f"{layer}.mlp.experts.{expert}.{EXPERTS[own]}.weight",
                    shape=(d, width) if out else (width, d),
                    transposed=out,
                )
                for expert in range(n)
            ]
        else:
            plan[name] = [Part(name=name, shape=tuple(tensor.shape))]
    return plan


class StoredTensors:
    """The tensors of a folder's safetensors, by name, read one at a time.

    Raises DataError when there are none, or the index names a file or tensor that is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        dtypes: set[str] = set()
        for name in self._find():
            try:
                with safe_open(folder / name, framework="pt") as file:
                    for key in file.keys():  # noqa: SIM118 (it is no dict)
                        part = file.get_slice(key)
                        self.files[key] = name
                        self.shapes[key] = tuple(part.get_shape())
                        dtypes.add(part.get_dtype())
            except (SafetensorError, OSError) as error:
                raise DataError(f"{folder / name} cannot be read: {error}") from error
        if unknown := sorted(dtypes - DTYPES.keys()):
            raise DataError(
                f"{folder} holds weights as {unknown[0]}; {', '.join(DTYPES)} can be imported"
            )
        widest = max((DTYPES[d] for d in dtypes), key=lambda d: d.itemsize, default=torch.float32)
        self.dtype: torch.dtype = torch.float32 if len(dtypes) > 1 else widest
        """Type of all tensors; if they differ, fp32, which holds each of them exactly."""

    def _find(self) -> list[str]:
        index, single = self.folder / "model.safetensors.index.json", "model.safetensors"
        if index.is_file():
            try:
                names = sorted(
                    set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
                )
            except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
                raise DataError(f"{index} is no index of safetensors: {error!r}") from error
            for name in names:
                if Path(name).name != name or not (self.folder / name).is_file():
                    raise DataError(f"{index} names {name}, which is not in {self.folder}")
            return names
        if (self.folder / single).is_file():
            return [single]
        if pickled := sorted(self.folder.glob("*.bin")) + sorted(self.folder.glob("*.pt*")):
            raise DataError(
                f"{self.folder} has only pickled weights ({pickled[0].name}), which run code when "
                "they are opened. Where you trust their source, turn them into safetensors there "
                "(from_pretrained, then save_pretrained, with the published code), and import those"
            )
        raise DataError(f"{self.folder} has no model.safetensors: is the download complete?")

    def read(self, name: str) -> Tensor:
        """Read a tensor, in the folder's dtype. Raises DataError when a value is not finite."""
        with safe_open(self.folder / self.files[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name).to(self.dtype)
        if not tensor.isfinite().all():
            raise DataError(f"{self.folder}: {name} has values that are not finite: it is damaged")
        return tensor


def _compare(stored: StoredTensors, plan: Mapping[str, list[Part]], config: SteelConfig) -> None:
    """Raise DataError for the first tensors that are missing, unknown or of another shape."""
    parts = {part.name: part for own in plan.values() for part in own}
    if config.tie_word_embeddings:
        parts.setdefault("lm_head.weight", parts["model.embed_tokens.weight"])
    missing = [name for name in parts if name not in stored.shapes and name != "lm_head.weight"]
    if not config.tie_word_embeddings and "lm_head.weight" not in stored.shapes:
        missing.append("lm_head.weight")
    # Older versions of Transformers stored the rotary frequencies; they follow from the config.
    unknown = [
        name
        for name in stored.shapes
        if name not in parts and not name.endswith("rotary_emb.inv_freq")
    ]
    for names, what in ((missing, "lacks"), (unknown, "holds, and no Steel-LLM has,")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise DataError(f"{stored.folder} {what} {', '.join(names[:3])}{more}")
    for name, part in parts.items():
        if name in stored.shapes and stored.shapes[name] != part.shape:
            raise DataError(
                f"{stored.folder}: {name} is {list(stored.shapes[name])}, config.json says "
                f"{list(part.shape)}"
            )


def _assemble(parts: list[Part], stored: StoredTensors) -> Tensor:
    """Stack published parts to a tensor of the new model; three axes (phi) become two."""
    tensors = []
    for part in parts:
        tensor = stored.read(part.name)
        tensors.append(
            tensor.t() if part.transposed else tensor.flatten(1) if tensor.ndim > 2 else tensor
        )
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0].contiguous()


def _write(plan: Mapping[str, list[Part]], stored: StoredTensors, folder: Path) -> int:
    """Write all tensors, file after file; returns the number of files."""
    groups = list(_groups(plan, stored.dtype.itemsize))
    where: dict[str, str] = {}
    total = 0
    for number, names in enumerate(groups, start=1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        if len(groups) == 1:
            file = "model.safetensors"
        tensors = {name: _assemble(plan[name], stored) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(names, file))
        total += sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
    if len(groups) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=1))
    return len(groups)


def _groups(plan: Mapping[str, list[Part]], itemsize: int) -> Iterator[list[str]]:
    """Names of tensors that fit into a file together, in order."""
    group: list[str] = []
    size = 0
    for name, parts in plan.items():
        bytes_ = itemsize * sum(torch.Size(part.shape).numel() for part in parts)
        if group and size + bytes_ > MAX_FILE_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += bytes_
    yield group
