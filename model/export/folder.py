"""Export of a model: a folder that others use without this project.

    OUT/   config.json  generation_config.json  model*.safetensors
           tokenizer.json  tokenizer_config.json  chat_template.jinja  tokenizer_digest.json
           configuration_steel.py  modeling_steel.py      form steel alone
           README.md  README.zh.md  croissant.json        cards, where `beside` makes them

Written beside OUT and renamed when it is whole; an OUT that holds something is left alone.
"""

import contextlib
import fcntl
import glob
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedModel, Qwen2ForCausalLM

from common.disk import require_free_space
from common.errors import ConfigError, DataError
from common.files import PARTIAL, settle, sync
from model.config import SteelConfig
from model.export import published, qwen2
from model.export.remote_code import AUTO_MAP, remote_code
from model.export.source import Source, open_source
from model.soft_moe import LeakWarning
from model.tokenizer.folder import check_model_folder, save_digest
from model.tokenizer.identity import PRUNED_FROM

Form = Literal["steel", "qwen2", "published", "transformers"]
"""steel: our names, with code. qwen2: a dense model. published: Steel-LLM's first release.
transformers: an architecture that Transformers has itself."""

Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES = get_args(Dtype)

MAX_SHARD = "5GB"
"""Size of a file of weights; a larger model is written as several, with an index."""

LEAKS = (
    "its routing ({}) lets a position see later tokens of its text: the likelihood of a whole text "
    "is no language model's, and generation computes the text anew for each token"
)
"""Remark about a routing over the whole sequence."""

OTHER_FILES = 64 * 1024**2
"""Bytes that everything but the weights takes at most: tokenizer, code, configs."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Result of `export_model`."""

    source: str
    output: str
    form: Form
    dtype: str
    parameters: int
    files: int
    """Files of weights."""
    code: bool
    """True if loading needs `trust_remote_code=True`: the code that lies beside the weights."""
    remark: str
    """A remark for the user; "" where there is none."""


def export_model(
    place: Path,
    out: Path,
    *,
    form: Form | None = None,
    dtype: Dtype | None = None,
    max_shard: str = MAX_SHARD,
    beside: Callable[[Exported], Mapping[str, str]] | None = None,
) -> Exported:
    """Export a checkpoint or a Transformers folder to `out`, whole or not at all.

    form: None takes qwen2 for a dense Steel model, steel for others of ours, transformers for the
    rest. dtype: None keeps that of the weights. max_shard: size of a file of weights, "5GB".
    beside: name -> text of further files, made from what was exported.

    Raises ConfigError for a target that holds something, and for a form that the model cannot have;
    DataError for a model that is damaged, incomplete or not finite, and for a full disk. Nothing is
    left behind then.
    """
    check_target(out, place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakWarning)  # said in the remark
        return _export(place, out, form, dtype, max_shard, beside)


def _export(
    place: Path,
    out: Path,
    form: Form | None,
    dtype: Dtype | None,
    max_shard: str,
    beside: Callable[[Exported], Mapping[str, str]] | None,
) -> Exported:
    source = open_source(place)
    chosen, remark = choose_form(source, form)
    itemsize = torch.float32.itemsize if dtype is None else getattr(torch, dtype).itemsize
    parameters = sum(tensor.numel() for tensor in source.network.parameters())
    require_free_space(
        out.parent, parameters * itemsize + OTHER_FILES, "the export", "give another folder to --to"
    )
    network, weights = source.read()
    if dtype is not None:
        weights = {name: _cast(name, w, getattr(torch, dtype)) for name, w in weights.items()}
    with _published_folder(out) as partial:
        _write_tokenizer(source, partial)
        if chosen == "qwen2" and (why := qwen2.tokenizer_obstacle(partial, source)):
            if form == "qwen2":
                raise ConfigError(f"{place} cannot be exported as qwen2: {why}")
            chosen, remark = "steel", f"not exported as qwen2: {why}"
        stored = _write_model(network, weights, chosen, max_shard, partial)
        check_model_folder(partial)
        done = Exported(
            source=str(place),
            output=str(out),
            form=chosen,
            dtype=str(stored).removeprefix("torch."),
            parameters=parameters,
            files=len(list(partial.glob("*.safetensors"))),
            code=chosen == "steel",
            remark=remark,
        )
        for name, text in (beside(done) if beside is not None else {}).items():
            (partial / name).write_text(text, encoding="utf-8")
    return done


def choose_form(source: Source, form: Form | None) -> tuple[Form, str]:
    """The form to export a model in, and a remark about it. Raises ConfigError for one that it
    cannot have."""
    config = source.network.config
    ours = isinstance(config, SteelConfig)
    why = {
        "steel": "" if ours else f"it is a {config.model_type} model",
        "qwen2": qwen2.obstacle(config),
        "published": published.obstacle(config),
        "transformers": "Transformers has no code for it" if ours else "",
    }
    if form is not None:
        if why[form]:
            can = ", ".join(name for name, reason in why.items() if not reason)
            raise ConfigError(
                f"{source.place} cannot be exported as {form}: {why[form]}; it can be as {can}"
            )
        remark = "put the published code beside it" if form == "published" else ""
        return form, remark
    if not ours:
        return "transformers", ""
    if not why["qwen2"]:
        return "qwen2", ""
    if config.routing == "dense":
        return "steel", f"not exported as qwen2: {why['qwen2']}"
    return "steel", LEAKS.format(config.routing) if config.leaks else ""


def check_target(out: Path, place: Path) -> None:
    """Refuse a target that holds something, is no folder, or lies inside the model or around it.

    Raises ConfigError.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: give a new folder, or remove it first")
    if os.path.lexists(out) and not out.is_dir():
        raise ConfigError(f"{out} is a file or a broken link: give a folder that is not there yet")
    target, model = out.resolve(), place.resolve()
    if target.is_relative_to(model) or model.is_relative_to(target):
        raise ConfigError(f"{out} lies inside the model {place}, or around it: give another folder")


@contextlib.contextmanager
def _published_folder(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends well, and vanishes when it does not.

    What exports to the same place left when they were killed is removed; those that run are not
    touched: each holds a lock, which the kernel releases when its process dies.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f".{glob.escape(out.name)}.*{PARTIAL}"):
            with _lock(left) as locked:
                # One that is empty may be a moment old, and not locked yet.
                if locked and any(left.iterdir()):
                    shutil.rmtree(left, ignore_errors=True)
        place = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=PARTIAL))
    except OSError as error:
        raise ConfigError(f"{out} cannot be made: {error.strerror}; give another folder") from error
    try:
        with _lock(place):
            partial = place / out.name
            partial.mkdir()  # with the permissions that a new folder has; mkdtemp's are the owner's
            yield partial
            settle(partial)
            try:
                partial.rename(out)  # onto nothing, or onto an empty folder
            except OSError as error:
                raise ConfigError(f"{out} was made by somebody else meanwhile: {error}") from error
            sync(out.parent)
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Hold a folder's lock; False where another process does, or the file system has none."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        locked = False
    else:
        locked = True
    try:
        yield locked
    finally:
        os.close(descriptor)


def _write_tokenizer(source: Source, folder: Path) -> None:
    source.tokenizer.save_pretrained(folder)
    save_digest(source.tokenizer, folder)
    if (source.tokenizer_folder / PRUNED_FROM).is_file():
        shutil.copyfile(source.tokenizer_folder / PRUNED_FROM, folder / PRUNED_FROM)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # As versions of Transformers before 5 write it, which this one reads as well: inference engines
    # are slow to follow.
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    extra = config.pop("extra_special_tokens", None)
    if isinstance(extra, list):
        config["additional_special_tokens"] = extra
    elif extra is not None:
        config["extra_special_tokens"] = extra
    for name in ("backend", "is_local", "local_files_only"):  # of this process
        config.pop(name, None)
    _write_json(path, config)


def _write_model(
    network: PreTrainedModel, weights: dict[str, Tensor], form: Form, max_shard: str, folder: Path
) -> torch.dtype:
    """Write weights, configs and code; returns the dtype of the weights."""
    floats = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    dtype = next(iter(floats)) if len(floats) == 1 else torch.float32
    config, generation = network.config, network.generation_config
    changes: dict[str, Any] = {}
    if form == "published":
        assert isinstance(config, SteelConfig)
        made = published.published_weights(config, weights)
        save_torch_state_dict(made, folder, max_shard_size=max_shard, safe_serialization=True)
        _write_json(folder / "config.json", published.published_config(config, dtype))
        if generation is not None:
            generation.save_pretrained(folder)
        return dtype
    if form == "qwen2":
        assert isinstance(config, SteelConfig)
        with torch.device("meta"):
            network = Qwen2ForCausalLM(qwen2.as_qwen2(config))
        network.generation_config = generation
        # Where versions of Transformers before 5, and engines of that time, look for it.
        changes = {"rope_theta": config.rope_theta}
    elif form == "steel":
        changes = {"auto_map": AUTO_MAP, "kernels": "auto"}
        for name, text in remote_code().items():
            (folder / name).write_text(text, encoding="utf-8")
    network.config.dtype = dtype
    network.save_pretrained(folder, state_dict=weights, max_shard_size=max_shard)
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    written.pop("attn_implementation", None)  # the choice of the machine that trained it
    name = str(dtype).removeprefix("torch.")
    _write_json(path, {**written, **changes, "dtype": name, "torch_dtype": name})
    return dtype


def _cast(name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    if not weight.is_floating_point():
        return weight
    cast = weight.to(dtype)
    if not cast.isfinite().all():
        raise DataError(
            f"{name} has values up to {weight.abs().max():.3g}, which {dtype} does not hold: "
            "export as bfloat16 or float32"
        )
    return cast


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")
