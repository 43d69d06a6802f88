"""A checkpoint's weights as a Transformers folder: safetensors, config, tokenizer.

    checkpoints/step-00004000/   __*.distcp  model.json  tokenizer/  ──▶  OUT/   complete or absent

Read from the checkpoint's files, on the CPU, by one process: any checkpoint becomes a model on any
machine, whatever ranks wrote it. For use without this project: model/export/.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import model.modeling_steel as _registers_auto_classes  # noqa: F401
from common.errors import DataError
from model.tokenizer.folder import check_model_folder, save_digest
from model.train.checkpoint.folders import find_damage, read_marker
from model.train.checkpoint.reader import read_tensors
from model.train.checkpoint.staging import WEIGHTS

MODEL_FILE = "model.json"
"""File of a checkpoint: the Transformers config, and the dtype that the forward pass used."""
TOKENIZER_FOLDER = "tokenizer"
LANGUAGE_MODEL = "model."
"""Prefix of the language model within ModelWithLoss (model/train/loss.py)."""


@dataclass(frozen=True, kw_only=True)
class ExportJob:
    """An export in a process of its own: `python -m model.entry.export JOB.json`."""

    checkpoint: str
    """Folder of a complete checkpoint."""
    out: str
    """Folder to write."""


def model_files(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
) -> dict[str, str | bytes]:
    """Files that a checkpoint needs, besides its tensors, to become a Transformers folder."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    if "output_router_logits" in config:  # for training; who uses the model wants none of it
        config["output_router_logits"] = False
    about = {
        "dtype": str(dtype).removeprefix("torch."),
        "config": config,
        "generation": json.loads(model.generation_config.to_json_string()),
    }
    files: dict[str, str | bytes] = {MODEL_FILE: json.dumps(about, indent=1)}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        save_digest(tokenizer, Path(folder))
        for path in sorted(Path(folder).iterdir()):
            files[f"{TOKENIZER_FOLDER}/{path.name}"] = path.read_bytes()
    return files


def write_model(checkpoint: Path, folder: Path) -> None:
    """Make `folder` of a complete checkpoint, in the dtype that the forward pass computed in, so
    that the exported model is the trained one. Its parent must be there.

    Raises DataError when the checkpoint is incomplete, damaged or not a pretraining's.
    """
    network, weights = read_network(checkpoint)
    folder.mkdir()  # save_pretrained would make the parents, too
    network.save_pretrained(folder, state_dict=weights)
    copy_tokenizer(checkpoint, folder)
    check_model_folder(folder)


def describe_network(checkpoint: Path) -> tuple[PreTrainedModel, torch.dtype]:
    """The network of a complete checkpoint on the meta device, with its generation config, and the
    dtype that its forward pass computed in.

    Raises DataError when the checkpoint is incomplete or not a pretraining's.
    """
    if MODEL_FILE not in read_marker(checkpoint)["files"]:
        raise DataError(f"{checkpoint} is no checkpoint of a pretraining: it has no {MODEL_FILE}")
    about = json.loads((checkpoint / MODEL_FILE).read_text(encoding="utf-8"))
    dtype = getattr(torch, about["dtype"])
    config_class = type(AutoConfig.for_model(about["config"]["model_type"]))
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(
            config_class.from_dict(about["config"]), dtype=dtype
        )
    assert isinstance(network, PreTrainedModel)
    network.generation_config = GenerationConfig.from_dict(about["generation"])
    return network, dtype


def read_network(checkpoint: Path) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The network of a complete checkpoint on the meta device, and its weights, without those that
    are tied to another one, in the dtype that the forward pass computed in.

    Raises DataError when the checkpoint is incomplete, damaged or not a pretraining's.
    """
    network, dtype = describe_network(checkpoint)
    if damage := find_damage(checkpoint):
        raise DataError(f"checkpoint {checkpoint} is damaged: {damage}")
    return network, _weights(checkpoint, network, dtype)


def copy_tokenizer(checkpoint: Path, folder: Path) -> None:
    """Copy the files of a checkpoint's tokenizer into a folder."""
    for name in read_marker(checkpoint)["files"]:
        if name.startswith(f"{TOKENIZER_FOLDER}/"):
            shutil.copyfile(checkpoint / name, folder / Path(name).name)


def _weights(checkpoint: Path, network: PreTrainedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every weight whole, without those that are tied to another one."""
    tied = getattr(network, "all_tied_weights_keys", None) or {}
    weights = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in read_tensors(checkpoint, WEIGHTS + LANGUAGE_MODEL)
        if name not in tied
    }
    if missing := sorted(network.state_dict().keys() - weights.keys() - set(tied)):
        raise DataError(f"checkpoint {checkpoint} has no weight {missing[0]}")
    return weights
