"""Places of single samples, for comparisons; and documents that are written one by one."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model.data import SampleOrder, ShardWriter


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


def add_document(writer: ShardWriter, ids: Sequence[int], *, position: int = 0) -> None:
    """Write one document, its end included."""
    array: npt.NDArray[np.integer[Any]] = np.asarray(ids)
    writer.add_documents(array, np.asarray([0, array.size]), [position])
