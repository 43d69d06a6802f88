"""Places of single samples, for comparisons; and documents that are written one by one."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model.data import SampleOrder, ShardInfo, ShardWriter
from model.data.held_out import Digests, Split, document_digests, is_held_out


class Block(NamedTuple):
    """Place of one sample."""

    source: str
    epoch: int
    shard: int
    start: int


def locate_all(
    order: SampleOrder, samples: npt.ArrayLike, *, validation: bool = False
) -> list[Block]:
    """Places of some samples."""
    found = order.locate_many(samples, validation=validation)
    rows = zip(*(column.tolist() for column in found), strict=True)
    return [Block(order.sources[source], *rest) for source, *rest in rows]


def locate(order: SampleOrder, sample: int, *, validation: bool = False) -> Block:
    """Place of one sample."""
    (block,) = locate_all(order, [sample], validation=validation)
    return block


def digest_of_ids(ids: Sequence[int]) -> Digests:
    """Digest of a document whose text is its ids, [1]."""
    return document_digests([" ".join(map(str, ids))])


def add_document(
    writer: ShardWriter, ids: Sequence[int], *, position: int = 0, digests: Digests | None = None
) -> None:
    """Write one document, its end included."""
    array: npt.NDArray[np.integer[Any]] = np.asarray(ids)
    writer.add_documents(
        array,
        np.asarray([0, array.size]),
        [position],
        digest_of_ids(ids) if digests is None else digests,
    )


def write_documents(
    folder: Path,
    source: str,
    documents: Iterable[Sequence[int]],
    *,
    shard_tokens: int,
    validation_fraction: float = 0.0,
    end: int = 0,
) -> list[ShardInfo]:
    """Write documents, each followed by its end, into the shards of their splits."""
    shards: list[ShardInfo] = []
    known = [[*ids, end] for ids in documents]
    splits: tuple[Split, Split] = ("train", "validation")
    for split in splits:
        with ShardWriter(
            folder, source=source, dtype="uint16", shard_tokens=shard_tokens, split=split
        ) as writer:
            for number, ids in enumerate(known):
                held_out = is_held_out(digest_of_ids(ids), validation_fraction)[0]
                if held_out == (split == "validation"):
                    add_document(writer, ids, position=number + 1)
        shards += writer.shards
    return shards
