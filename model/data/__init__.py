"""Packed tokens and the order in which they are trained on.

shards.py       write and read token ids        manifest.py   what a folder of shards holds
permutation.py  a shuffle without a list        order.py      sample number -> block of tokens
journal.py      data appended during a run      state.py      how far training has come
dataset.py      samples as tensors              documents.py  where documents begin in them
loader.py       each step, read ahead           integrity.py  no damaged shard is read
verify.py       proofs about all of it          ledger.py     what they are held against
"""

from model.data.dataset import MicroBatch, PackedDataset
from model.data.integrity import ShardGuard
from model.data.journal import Journal, JournalEntry
from model.data.loader import StepLoader
from model.data.manifest import PackedManifest, ShardInfo
from model.data.order import Block, SampleOrder
from model.data.shards import ShardWriter, dtype_for
from model.data.state import DataState

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
