"""Packed tokens and the order in which they are trained on.

shards.py       write and read token ids        manifest.py   what a folder of shards holds
permutation.py  a shuffle without a list        slots.py      what there is to be trained on
order.py        sample number <-> block         journal.py    data appended during a run
state.py        how far training has come       contents.py   what a run's data were like
dataset.py      samples as tensors              documents.py  where documents begin in them
loader.py       each step, read ahead           integrity.py  no damaged shard is read
verify.py       the order proved                ledger.py     what it is held against
verify_shards.py  every byte looked at          simulate.py   data on paper, of any size

What makes tensors is imported when it is asked for: who only writes or checks shards, such as a
packing process, starts without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from model.data.epoch_index import Block
from model.data.shard_verifier import ShardGuard
from model.data.append import Journal, JournalEntry
from model.data.manifest import PackedManifest, ShardInfo
from model.data.order import SampleOrder
from model.data.shards import ShardWriter, dtype_for
from model.data.state import DataState

if TYPE_CHECKING:
    from model.data.dataset import MicroBatch, PackedDataset
    from model.data.loader import StepLoader

__all__ = [
    "Block",
    "DataState",
    "Journal",
    "JournalEntry",
    "MicroBatch",
    "PackedDataset",
    "PackedManifest",
    "SampleOrder",
    "ShardGuard",
    "ShardInfo",
    "ShardWriter",
    "StepLoader",
    "dtype_for",
]

_MODULE_OF = {"MicroBatch": "dataset", "PackedDataset": "dataset", "StepLoader": "loader"}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"model.data.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
