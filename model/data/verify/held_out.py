"""Proof that held-out documents are held out: from the digest of every document of every shard.

    shards to train on   no digest below the run's fraction, nor below that of their own packing
    held-out shards      every digest below the fraction of their packing
    share                distinct documents held out of each source, beside what chance allows

The blocks are coverage.py's: none to train on lies in a shard of held-out documents, so no sample
shows a token of a document whose digest is below.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import DataError
from model.data.held_out import Digests, is_held_out
from model.data.manifest import PackedManifest, ShardInfo
from model.data.order import SampleOrder
from model.data.shards import open_digests

STANDARD_DEVIATIONS = 4
"""Distance of a source's share from the fraction that is still called chance, in those of a
binomial distribution; and EXTRA_DOCUMENTS more: a few documents are not normally distributed."""
EXTRA_DOCUMENTS = 3

DISTINCT_LIMIT = 20_000_000
"""Documents of a source up to which copies are counted once."""


@dataclass(frozen=True, kw_only=True)
class HeldOutReport:
    """Findings about the documents of an order."""

    num_documents: int
    """Documents whose digest was looked at, appended ones included."""
    num_without_shards: int
    """Packings whose documents could not be looked at: no shard lies beside their manifest."""
    num_held_out: int
    """Those in shards of held-out documents."""
    num_leaked_documents: int
    """Documents on the wrong side."""
    num_sources_off: int
    """Sources whose share lies outside of the tolerance."""
    shares: list[dict[str, Any]]
    """Of each source of each packing: its documents and tokens, and the shares held out."""


def verify_held_out(order: SampleOrder) -> HeldOutReport:
    """Look at the digest of every document, appended ones included.

    Raises DataError where a shard's index is missing or damaged.
    """
    packings = [order.manifest, *(append.manifest for append in order.appends)]
    there = [manifest for manifest in packings if _has_shards(manifest)]
    looked = held_out = leaked = 0
    shares = []
    for number, manifest in enumerate(packings):
        if manifest not in there:
            continue
        fraction = max(order.manifest.validation_fraction, manifest.validation_fraction)
        for source in manifest.sources:
            parts: dict[str, list[Digests]] = {"train": [], "validation": []}
            for shard in (shard for shard in manifest.shards if shard.source == source):
                digests = read_digests(manifest, shard)
                below = is_held_out(
                    digests, fraction if shard.split == "train" else manifest.validation_fraction
                )
                wrong = below if shard.split == "train" else ~below
                leaked += int(np.count_nonzero(wrong))
                parts[shard.split].append(digests)
            training, validation = (_distinct(parts[split]) for split in ("train", "validation"))
            looked += sum(digests.size for part in parts.values() for digests in part)
            held_out += sum(digests.size for digests in parts["validation"])
            share = _share(manifest, source, training, validation)
            shares.append({"append": number - 1 if number else None, **share})
    return HeldOutReport(
        num_documents=looked,
        num_without_shards=len(packings) - len(there),
        num_held_out=held_out,
        num_leaked_documents=leaked,
        num_sources_off=sum(not share["within"] for share in shares),
        shares=shares,
    )


def read_digests(manifest: PackedManifest, shard: ShardInfo) -> Digests:
    """Digests of a shard's documents, its index compared with its checksum. Raises DataError."""
    assert manifest.folder is not None
    digests = open_digests(manifest.folder, shard)
    index = (manifest.folder / shard.index_name).read_bytes()
    if hashlib.md5(index, usedforsecurity=False).hexdigest() != shard.index_md5:
        raise DataError(
            f"the index of shard {shard.name!r} in {manifest.folder} is not the one that was "
            "packed (MD5): restore it or pack again"
        )
    return digests


def _has_shards(manifest: PackedManifest) -> bool:
    """True where at least one index lies beside the manifest: data on paper have none."""
    folder: Path | None = manifest.folder
    return folder is not None and any((folder / s.index_name).is_file() for s in manifest.shards)


def _distinct(parts: list[Digests]) -> int:
    """Number of different documents, or of all beyond DISTINCT_LIMIT."""
    number = sum(part.size for part in parts)
    if not 0 < number <= DISTINCT_LIMIT:
        return number
    ordered = np.sort(np.concatenate(parts))
    return 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def _share(manifest: PackedManifest, source: str, training: int, validation: int) -> dict[str, Any]:
    """Row of a source: distinct documents to train on and held out, and tokens."""
    fraction, number = manifest.validation_fraction, training + validation
    deviation = math.sqrt(number * fraction * (1 - fraction))
    tolerance = (STANDARD_DEVIATIONS * deviation + EXTRA_DOCUMENTS) / number
    tokens = manifest.tokens_by_source()[source]
    held_out_tokens = manifest.tokens_by_source("validation")[source]
    share = validation / number
    return {
        "source": source,
        "documents": number,
        "documents_held_out": validation,
        "share_of_documents": share,
        "fraction": fraction,
        "tolerance": tolerance,
        "within": abs(share - fraction) <= tolerance and (fraction > 0 or not validation),
        "tokens": tokens,
        "tokens_held_out": held_out_tokens,
        "share_of_tokens": held_out_tokens / tokens,
    }
