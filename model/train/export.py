"""A run's weights as a Transformers folder: safetensors, config, tokenizer; complete or absent."""

import shutil
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model.train.files import publish_folder
from model.train.parallel import Parallel


def export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    ranks: Parallel,
    *,
    dtype: torch.dtype,
) -> None:
    """Write `folder`; called by all ranks, which gather one weight after the other.

    `dtype` is what the forward pass computed in, so that the exported model is the trained one.
    """
    tensors = _gather(model, ranks, dtype)
    if ranks.is_main:
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial, state_dict=tensors)
        # save_pretrained notes the dtype of the fp32 weights that the optimizer works on.
        model.config.dtype = dtype
        model.config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        publish_folder(partial, folder)
    ranks.barrier()


def _gather(model: PreTrainedModel, ranks: Parallel, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every weight whole, on the CPU of rank 0; empty on the others."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    whole: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue  # stored under the other name
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if ranks.is_main:
            floating = full.is_floating_point()
            whole[name] = full.detach().to("cpu", dtype if floating else full.dtype).contiguous()
    return whole
