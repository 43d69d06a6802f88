"""Packed tokens and the order in which they are trained on.

shards.py       write and read token ids        manifest.py   what a folder of shards holds
permutation.py  a shuffle without a list        order.py      sample number -> block of tokens
journal.py      data appended during a run      state.py      how far training has come
loader.py       tensors for each step           verify.py     proofs about all of it
"""

from model.data.journal import Journal, JournalEntry
from model.data.loader import MicroBatch, PackedDataset, StepLoader
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
    "ShardInfo",
    "ShardWriter",
    "StepLoader",
    "dtype_for",
]
