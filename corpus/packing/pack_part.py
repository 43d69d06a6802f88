"""One part of a cleaned file becomes its shards.

    batch of texts ──encoder──▶ ids, offsets ──<|endoftext|> after each──▶ ShardWriter

What comes out depends on the part, the tokenizer and the job; an interrupted part goes on behind
its last finished shard.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from corpus.packing.fast_encoder import FastEncoder
from corpus.packing.parts import Part, batches
from model.data.manifest import DType, ShardInfo
from model.data.shards import ShardWriter
from model.tokenizer.encoder import Encoder, ReferenceEncoder


@dataclass(frozen=True, kw_only=True)
class PackJob:
    """What is the same for every part; plain values, so that it can be sent to a process."""

    backend: str
    """File with the `tokenizers` library's own account of the tokenizer."""
    fast: bool
    """Whether fastokens cuts, or the `tokenizers` library."""
    end: int
    """Id of <|endoftext|>."""
    dtype: DType
    """Type of an id on disk."""
    shard_tokens: int
    """A shard is closed once it holds this many."""
    folder: str
    """Where shards go."""

    def encoder(self) -> Encoder:
        """The encoder; loading it takes about a second."""
        backend = Tokenizer.from_file(self.backend)
        return FastEncoder(backend) if self.fast else ReferenceEncoder(backend)


def pack_part(
    job: PackJob, encoder: Encoder, part: Part, notice: Callable[[int], None]
) -> list[ShardInfo]:
    """Write the shards of a part, going on after those that are finished.

    Args:
        notice: told how many bytes of the part are behind it, after every batch.

    Raises:
        DataError: a line or a finished shard is damaged.
        DifferentIds: the fast encoder has failed a check.
    """
    with ShardWriter(
        Path(job.folder),
        source=part.source,
        name=part.name,
        dtype=job.dtype,
        shard_tokens=job.shard_tokens,
        cleaned_file=part.cleaned_file,
    ) as writer:
        for batch in batches(part, writer.position):
            found = encoder.encode(batch.texts).with_end(job.end)
            writer.add_documents(found.ids, found.offsets, batch.positions)
            notice(batch.end - part.start)
    notice(part.size)
    return writer.shards
