"""A model to export: a checkpoint of a training, or a Transformers folder."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from common.errors import DataError
from model.load import load_causal_lm, load_config
from model.tokenizer.folder import check_model_folder, load_folder_tokenizer
from model.train.checkpoint.export import TOKENIZER_FOLDER, describe_network, read_network
from model.train.checkpoint.folders import MARKER


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model that is read: what is known before its weights are."""

    place: Path
    """Checkpoint or Transformers folder."""
    network: PreTrainedModel
    """On the meta device: its config, names, shapes."""
    tokenizer: PreTrainedTokenizerBase
    tokenizer_folder: Path

    def read(self) -> tuple[PreTrainedModel, dict[str, Tensor]]:
        """The network with its generation config, and every weight on the CPU, without those that
        are tied to another one.

        Raises DataError for a damaged checkpoint, weights that are missing or not finite.
        """
        if is_checkpoint(self.place):
            network, weights = read_network(self.place)
        else:
            network = load_causal_lm(self.place, "auto", torch.device("cpu"))
            tied = getattr(network, "all_tied_weights_keys", None) or {}
            weights = {k: v for k, v in network.state_dict().items() if k not in tied}
        for name, weight in weights.items():
            if not weight.isfinite().all():
                raise DataError(
                    f"{self.place}: {name} has values that are not finite: the training diverged, "
                    "or the file is damaged. Export an earlier checkpoint"
                )
        return network, weights


def is_checkpoint(folder: Path) -> bool:
    """True for a checkpoint that a training of ours wrote in torch's distributed format."""
    return (folder / MARKER).is_file() and (folder / TOKENIZER_FOLDER).is_dir()


def open_source(place: Path) -> Source:
    """Look at a model without reading its weights.

    Raises ConfigError and DataError where there is none, or its parts do not fit one another.
    """
    if is_checkpoint(place):
        network, _ = describe_network(place)
        folder = place / TOKENIZER_FOLDER
        tokenizer = load_folder_tokenizer(folder)
    else:
        config = load_config(place)
        folder, tokenizer = place, load_folder_tokenizer(place)
        check_model_folder(place, tokenizer)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config)
    return Source(place=place, network=network, tokenizer=tokenizer, tokenizer_folder=folder)
