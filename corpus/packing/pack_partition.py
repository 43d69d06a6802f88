"""One partition of a cleaned file becomes its shards.

    batch of texts ──encoder──▶ ids, offsets ──<|endoftext|> after each──▶ ShardWriter: train
         └─ digest of each text: held out? ─────────────────────────────▶ ShardWriter: validation

What comes out depends on the partition, the tokenizer and the job. In an interrupted partition each
of the two goes on behind its own last finished shard; texts that are in one are not encoded again.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from corpus.packing.batches import Batch, batches
from corpus.packing.fast_encoder import FastEncoder
from corpus.partitions import Partition
from model.data.held_out import Split, document_digests, is_held_out
from model.data.manifest import DType, ShardInfo
from model.data.shards import ShardWriter
from model.tokenizer.encoder import Encoder, ReferenceEncoder


@dataclass(frozen=True, kw_only=True)
class PackJob:
    """Everything that is the same for all partitions, in plain values for a worker's job file."""

    tokenizer: str
    """The tokenizer as a file of the `tokenizers` library."""
    fast: bool
    """If true, fastokens encodes, else the `tokenizers` library."""
    end_of_text: int
    """Id of <|endoftext|>."""
    dtype: DType
    """Type of an id on disk."""
    shard_tokens: int
    """A shard is closed once it holds this many."""
    validation_fraction: float
    """Part of all documents that is held out; [0, 0.5]."""
    folder: str
    """Folder for the shards."""

    def encoder(self) -> Encoder:
        """The encoder; loading it takes about a second."""
        backend = Tokenizer.from_file(self.tokenizer)
        return FastEncoder(backend) if self.fast else ReferenceEncoder(backend)


def shard_prefix(partition: Partition) -> str:
    """First part of its shards' names: `<source>-<stem>`, or with `-p<number>` where it is cut."""
    # No stem of a file begins with a p.
    whole = f"{partition.source}-{Path(partition.path).stem}"
    return whole if partition.count == 1 else f"{whole}-p{partition.number:04d}"


def pack_partition(
    job: PackJob, encoder: Encoder, partition: Partition, report: Callable[[int], None]
) -> list[ShardInfo]:
    """Write the shards of a partition, going on after those that are finished.

    Args:
        report: called with the number of its bytes that are done, after every batch.

    Raises:
        DataError: a line or a finished shard is damaged.
        TokenMismatchError: the fast encoder has failed a check.
    """
    splits: Sequence[Split] = ("train", "validation") if job.validation_fraction else ("train",)
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                ShardWriter(
                    Path(job.folder),
                    source=partition.source,
                    name=shard_prefix(partition),
                    dtype=job.dtype,
                    shard_tokens=job.shard_tokens,
                    split=split,
                    cleaned_file=f"{partition.source}/{Path(partition.path).name}",
                )
            )
            for split in splits
        ]
        begin = min(writer.position for writer in writers)
        for batch in batches(partition, begin):
            _add(job, encoder, batch, writers)
            report(batch.end - partition.start)
    report(partition.size)
    return [shard for writer in writers for shard in writer.shards]


def _add(job: PackJob, encoder: Encoder, batch: Batch, writers: Sequence[ShardWriter]) -> None:
    """Give each writer the documents of a batch that are of its split and not in its shards yet."""
    digests = document_digests(batch.texts)
    held_out = is_held_out(digests, job.validation_fraction)
    ends = np.asarray(batch.positions, dtype=np.int64)
    chosen: list[npt.NDArray[Any]] = [
        np.flatnonzero((held_out == (writer.split == "validation")) & (ends > writer.position))
        for writer in writers
    ]
    texts = [batch.texts[i] for rows in chosen for i in rows.tolist()]
    if not texts:
        return
    found = encoder.encode(texts).with_end(job.end_of_text)
    first = 0
    for writer, rows in zip(writers, chosen, strict=True):
        offsets = found.offsets[first : first + rows.size + 1]
        ids = found.ids[offsets[0] : offsets[-1]]
        if rows.size:
            writer.add_documents(ids, offsets - offsets[0], ends[rows].tolist(), digests[rows])
        first += rows.size
