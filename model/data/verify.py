"""Proofs about packed data: that nothing is lost, repeated, leaked or damaged.

`verify_order` trains a run without a model: it goes through the steps of a scenario (world sizes,
restarts through the JSON of the data state, appends in mid-run) rank by rank, and compares what the
ranks were given with the order of a run that was never interrupted, and with a plain count of the
blocks in the shards. `verify_shards` compares every byte with the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from model.data.journal import Journal
from model.data.ledger import Ledger, rows
from model.data.loader import rank_samples
from model.data.manifest import PackedManifest, ShardInfo
from model.data.order import Blocks, SampleOrder
from model.data.permutation import Ints
from model.data.shards import check_shard, open_tokens, read_document_starts
from model.data.state import DataState
from model.errors import ConfigError, DataError

Progress = Callable[[int, int], None]

EXHAUSTIVE_LIMIT = 20_000_000
"""Orders of more samples are proved by formula and by sampling."""

NUM_SAMPLED = 2_000_000
"""Samples looked at (about) in an order beyond the limit."""

_CHUNK = 1 << 18


@dataclass(frozen=True, kw_only=True)
class OrderReport:
    """What `verify_order` found. `ok` says whether the order holds what it promises."""

    num_samples: int
    """Training samples of the whole run, appends included."""
    num_steps: int
    """Full steps of the run."""
    num_validation_samples: int
    """Blocks held out."""
    samples_by_source: dict[str, int]
    """Training samples of each source."""
    exhaustive: bool
    """Whether every sample was looked at; else `num_checked` of them and the formula."""
    num_checked: int
    """Samples looked at."""
    num_lost: int
    """Blocks that should have been trained on and were not."""
    num_repeated: int
    """Samples whose (source, epoch, block) had been seen before."""
    num_misplaced: int
    """Samples outside of their shard, off the stride, or beyond their source's epochs."""
    num_leaked: int
    """Validation blocks that were trained on."""
    num_differing: int
    """Samples that another world size, a restart or an append changed."""
    world_sizes: tuple[int, ...]
    """Number of ranks in each phase of the scenario."""
    restarts: tuple[int, ...]
    """Steps at which the run was restarted from its state."""
    appends: tuple[int, ...]
    """Steps at which data joined."""
    state_bytes: int
    """Size of the data state at the end."""
    order_digest: str
    """MD5 over (shard content, epoch, start) of all checked samples, in order."""

    @property
    def ok(self) -> bool:
        """Nothing lost, repeated, misplaced, leaked or changed."""
        return not (
            self.num_lost
            or self.num_repeated
            or self.num_misplaced
            or self.num_leaked
            or self.num_differing
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"ok": self.ok}


def verify_order(
    manifest: PackedManifest,
    *,
    sequence_length: int,
    global_batch: int,
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
    validation_fraction: float = 0.0,
    ranks: Sequence[int] = (1,),
    restarts: Sequence[int] = (),
    append: Sequence[tuple[PackedManifest, int]] = (),
    limit: int = EXHAUSTIVE_LIMIT,
    progress: Progress | None = None,
) -> OrderReport:
    """Walk through a run and prove its order.

    Args:
        manifest, sequence_length, seed, weights, validation_fraction: as of SampleOrder.
        global_batch: samples a step; a multiple of every number of ranks.
        ranks: world size at the start and after each restart; the last one stays.
        restarts: steps (ascending) at which the run stops and resumes from its JSON.
        append: (manifest, step) in order of steps; joins at sample step * global_batch.
        limit: look at every sample of orders up to this size; see EXHAUSTIVE_LIMIT.
        progress: called with (samples done, samples in all).

    Raises:
        ConfigError: a scenario that cannot be run.
        DataError: an append that is refused (content twice, beyond the end, other tokenizer).
    """
    for world_size in ranks:
        if world_size < 1 or global_batch % world_size:
            raise ConfigError(f"global_batch {global_batch} is no multiple of {world_size} ranks")
    if list(restarts) != sorted(restarts) or len(ranks) > len(restarts) + 1 or not ranks:
        raise ConfigError(
            f"ranks {list(ranks)} with restarts {list(restarts)}: give ascending steps, one for "
            "each change of the world size"
        )
    journal, journals = Journal(), [(0, Journal())]
    for number, (new, step) in enumerate(append):
        journal = journal.append(manifest, new, at=step * global_batch, seed=seed + 1 + number)
        journals.append((step, journal))
    arguments: dict[str, Any] = {
        "sequence_length": sequence_length,
        "seed": seed,
        "weights": weights,
        "validation_fraction": validation_fraction,
    }
    whole = SampleOrder(manifest, **arguments, journal=journal)
    total, num_steps = whole.num_samples, whole.num_samples // global_batch
    ledger = Ledger(whole, exhaustive=total <= limit)
    stride = 1 if ledger.exhaustive else max(1, total // min(limit, NUM_SAMPLED))
    digest = hashlib.md5(usedforsecurity=False)
    differing = checked = 0
    walk = _walk(manifest, arguments, journals, list(ranks), list(restarts), global_batch,
                 num_steps, stride)  # fmt: skip
    for steps, found in walk:
        numbers = rank_samples(steps, global_batch=global_batch, rank=0, world_size=1).ravel()
        expected = whole.locate_many(numbers)
        differing += int(np.count_nonzero(np.any(rows(found) != rows(expected), axis=0)))
        ledger.add(found)
        digest.update(ledger.content(found))
        checked += numbers.size
        if progress:
            progress(int(numbers[-1]) + 1, total)
    # A remainder smaller than a step is in the order too, though no step reaches it.
    rest = np.arange(num_steps * global_batch, total, dtype=np.int64)
    found = whole.locate_many(rest)
    ledger.add(found)
    digest.update(ledger.content(found))
    for permutation in whole.permutations:
        ledger.check_inverse(permutation)
    ledger.close()
    return OrderReport(
        num_samples=total,
        num_steps=num_steps,
        num_validation_samples=whole.num_validation_samples,
        samples_by_source=whole.samples_by_source(),
        exhaustive=ledger.exhaustive,
        num_checked=checked + rest.size,
        num_lost=ledger.num_lost,
        num_repeated=ledger.num_repeated,
        num_misplaced=ledger.num_misplaced,
        num_leaked=ledger.num_leaked,
        num_differing=differing,
        world_sizes=tuple(ranks),
        restarts=tuple(restarts),
        appends=tuple(step for _, step in append),
        state_bytes=len(DataState.of(whole, total).to_json()),
        order_digest=digest.hexdigest(),
    )


def _walk(
    manifest: PackedManifest,
    arguments: dict[str, Any],
    journals: list[tuple[int, Journal]],
    ranks: list[int],
    restarts: list[int],
    global_batch: int,
    num_steps: int,
    stride: int,
) -> Iterator[tuple[Ints, Blocks]]:
    """A chunk of steps at a time: their numbers, and what all ranks were given in them."""
    order = SampleOrder(manifest, **arguments)
    ends = sorted({0, num_steps, *restarts, *(step for step, _ in journals)})
    for begin, end in pairwise(ends):
        if begin >= num_steps:
            break
        journal = [j for step, j in journals if step <= begin][-1]
        if begin in restarts:  # all that survives is the text of the state
            text = DataState.of(order, begin * global_batch).to_json()
            order = DataState.from_json(text).order(manifest, journal)
        if journal.entries != order.journal.entries:
            order = SampleOrder(manifest, **arguments, journal=journal)
        world_size = ranks[min(sum(r <= begin for r in restarts), len(ranks) - 1)]
        size = max(1, _CHUNK // global_batch)
        for first in range(begin, min(end, num_steps), size * stride):
            steps = np.arange(first, min(first + size, end, num_steps), dtype=np.int64)
            shares = [
                rank_samples(steps, global_batch=global_batch, rank=r, world_size=world_size)
                for r in range(world_size)
            ]
            given = [order.locate_many(share.ravel()) for share in shares]
            # ranks x [4, steps * G / W] -> [4, steps, ranks, G / W]: the order of consumption.
            width = global_batch // world_size
            columns = np.stack([rows(g).reshape(4, len(steps), width) for g in given], axis=2)
            yield steps, Blocks(*columns.reshape(4, -1))


def verify_shards(manifest: PackedManifest, *, progress: Progress | None = None) -> list[str]:
    """Every fault of every shard: bytes against MD5, index against ends of documents, id range.

    Args:
        manifest: as read from a folder.
        progress: called with (bytes done, bytes in all).

    Returns:
        One message a damaged shard; empty when all is well.
    """
    assert manifest.folder is not None, "a manifest that was read knows its folder"
    faults = []
    done, total = 0, sum(shard.num_bytes for shard in manifest.shards)
    for shard in manifest.shards:
        try:
            check_shard(manifest.folder, shard)
            _check_documents(manifest, shard)
        except DataError as error:
            faults.append(str(error))
        done += shard.num_bytes
        if progress:
            progress(done, total)
    return faults


def _check_documents(manifest: PackedManifest, shard: ShardInfo) -> None:
    assert manifest.folder is not None
    tokens = open_tokens(manifest.folder, shard)
    starts = read_document_starts(manifest.folder, shard).astype(np.int64)
    ascending = starts[0] == 0 and bool(np.all(np.diff(starts) > 0)) and starts[-1] < tokens.size
    ends = np.append(starts[1:], tokens.size) - 1
    if not ascending or not bool(np.all(tokens[ends] == manifest.end_of_document)):
        raise DataError(
            f"index of shard {shard.name!r}: documents do not end where it says they do, with id "
            f"{manifest.end_of_document}. Pack again"
        )
    if int(tokens.max()) >= manifest.vocab_size:
        raise DataError(
            f"shard {shard.name!r} holds id {int(tokens.max())}, beyond a vocabulary of "
            f"{manifest.vocab_size}. Pack again with the right tokenizer"
        )
