"""Verification of packed shards: every byte, and that documents, index and ids fit each other.

token file ── MD5, ids in range, as many ends of documents as documents
index      ── MD5, ascending, the token before each start ends a document, and the digest of each
              document is one of the shard's split
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from common.errors import DataError
from common.files import hashing_threads
from model.data.held_out import is_held_out
from model.data.manifest import PackedManifest, ShardInfo
from model.data.shards import check_shard, map_starts, open_digests, open_tokens

_CHUNK_TOKENS = 1 << 22


def verify_shards(
    manifest: PackedManifest,
    *,
    shards: Sequence[ShardInfo] | None = None,
    hashes: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Find every fault of every shard.

    Args:
        manifest: as read from a folder.
        shards: only these of it.
        hashes: compare the MD5s, too; else it was done before.
        progress: called with (bytes done, bytes in all).

    Returns:
        One message a damaged shard; empty when all is well.
    """
    assert manifest.folder is not None, "a manifest that was read knows its folder"
    every = manifest.shards if shards is None else tuple(shards)

    def fault(shard: ShardInfo) -> str:
        assert manifest.folder is not None
        try:
            if hashes:
                check_shard(manifest.folder, shard)
            check_documents(manifest, shard)
        except DataError as error:
            return str(error)
        return ""

    faults = []
    done, total = 0, sum(shard.num_bytes for shard in every)
    with ThreadPoolExecutor(hashing_threads()) as pool:
        for shard, found in zip(every, pool.map(fault, every), strict=True):
            faults += [found] if found else []
            done += shard.num_bytes
            if progress:
                progress(done, total)
    return faults


def check_documents(manifest: PackedManifest, shard: ShardInfo) -> None:
    """Refuse an index or ids that do not fit. Raises DataError naming the shard."""
    assert manifest.folder is not None
    tokens = open_tokens(manifest.folder, shard)
    starts = map_starts(manifest.folder, shard)
    ascending = starts[0] == 0 and bool(np.all(np.diff(starts) > 0)) and starts[-1] < tokens.size
    ends = np.append(starts[1:], tokens.size) - 1
    if not ascending or not bool(np.all(tokens[ends] == manifest.end_of_document)):
        raise DataError(
            f"index of shard {shard.name!r}: documents do not end where it says they do, with id "
            f"{manifest.end_of_document}. Pack again"
        )
    held_out = is_held_out(open_digests(manifest.folder, shard), manifest.validation_fraction)
    wrong = np.flatnonzero(held_out != (shard.split == "validation"))
    if wrong.size:
        raise DataError(
            f"shard {shard.name!r} is of the split {shard.split!r}, but {wrong.size} of its "
            f"documents (the first is number {wrong[0]}) belong to the other one at "
            f"validation_fraction {manifest.validation_fraction}. Pack again"
        )
    largest = num_ends = 0
    for begin in range(0, tokens.size, _CHUNK_TOKENS):
        chunk = tokens[begin : begin + _CHUNK_TOKENS]
        largest = max(largest, int(chunk.max()))
        num_ends += int(np.count_nonzero(chunk == manifest.end_of_document))
    if largest >= manifest.vocab_size:
        raise DataError(
            f"shard {shard.name!r} holds id {largest}, beyond a vocabulary of "
            f"{manifest.vocab_size}. Pack again with the right tokenizer"
        )
    if num_ends != shard.num_documents:
        raise DataError(
            f"shard {shard.name!r} holds the end of a document (id {manifest.end_of_document}) "
            f"{num_ends} times, but {shard.num_documents} documents. Pack again"
        )
