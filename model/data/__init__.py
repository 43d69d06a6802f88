"""Packed tokens and the order in which they are trained on.

shards.py          write and read token ids       manifest.py     what a folder of shards holds
held_out.py        documents kept from training   permutation.py  a shuffle without a list
shard_verifier.py  no damaged shard is read
epoch_index.py     epochs of sources as a list    order.py        sample number <-> block
append.py          data that join during a run    state.py        position of a training
dataset.py         samples as tensors             boundaries.py   starts of documents in them
loader.py          each step, read ahead          verify/         the order proved, shards inspected

Modules that make tensors are imported at their first use: a process that only writes or checks
shards starts without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from model.data.append import Append
from model.data.manifest import PackedManifest, ShardInfo
from model.data.order import SampleOrder
from model.data.shard_verifier import ShardVerifier
from model.data.shards import ShardWriter, dtype_for
from model.data.state import DataState

if TYPE_CHECKING:
    from model.data.dataset import MicroBatch, PackedDataset
    from model.data.loader import StepLoader

__all__ = [
    "Append",
    "DataState",
    "MicroBatch",
    "PackedDataset",
    "PackedManifest",
    "SampleOrder",
    "ShardInfo",
    "ShardVerifier",
    "ShardWriter",
    "StepLoader",
    "dtype_for",
]

_MODULE_OF = {"MicroBatch": "dataset", "PackedDataset": "dataset", "StepLoader": "loader"}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"model.data.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
