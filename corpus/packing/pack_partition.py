"""One partition of a cleaned file becomes its shards.

    batch of texts ──encoder──▶ ids, offsets ──<|endoftext|> after each──▶ ShardWriter

What comes out depends on the partition, the tokenizer and the job; an interrupted partition
goes on behind its last finished shard.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from corpus.packing.batches import batches
from corpus.packing.fast_encoder import FastEncoder
from corpus.partitions import Partition
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
    with ShardWriter(
        Path(job.folder),
        source=partition.source,
        name=shard_prefix(partition),
        dtype=job.dtype,
        shard_tokens=job.shard_tokens,
        cleaned_file=f"{partition.source}/{Path(partition.path).name}",
    ) as writer:
        for batch in batches(partition, writer.position):
            found = encoder.encode(batch.texts).with_end(job.end_of_text)
            writer.add_documents(found.ids, found.offsets, batch.positions)
            report(batch.end - partition.start)
    report(partition.size)
    return writer.shards
