"""Proof that an order loses, repeats and leaks nothing, whatever happens to the run.

`verify_order` trains a run without a model: it goes through the steps of a scenario (world sizes,
micro-batches, restarts through the JSON of the data state, appends in mid-run) rank by rank, and
compares what the ranks were given with the order of a run that was never interrupted, and with a
plain count of the blocks in the shards (coverage.py); documents that are held out are proved by
their digests (held_out.py). The shards' bytes are verified in shards.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from common.errors import ConfigError
from model.data.append import Append
from model.data.epoch_index import Blocks
from model.data.manifest import PackedManifest
from model.data.order import SampleOrder, rank_samples
from model.data.permutation import Ints
from model.data.state import DataState
from model.data.verify.coverage import Coverage
from model.data.verify.held_out import HeldOutReport, verify_held_out

Progress = Callable[[int, int], None]

EXHAUSTIVE_LIMIT = 20_000_000
"""Orders of more samples are proved by formula and by sampling."""

NUM_SAMPLED = 2_000_000
"""Samples looked at (about) in an order beyond the limit."""

NUM_LOOKED_UP = 1_000_000
"""Blocks whose sample is looked up in the order, at most."""

_CHUNK = 1 << 18


@dataclass(frozen=True, kw_only=True)
class OrderReport:
    """Findings of `verify_order`; `ok` if the order keeps what it promises."""

    num_samples: int
    """Training samples of the whole run, appends included."""
    num_steps: int
    """Full steps of the run."""
    global_batch_size: int
    """Samples a step."""
    sequence_length: int
    """Tokens a sample."""
    num_shards: int
    """Shards, appended ones included."""
    tokens_left_over: int
    """Tokens at the ends of shards, too few for a block: they are no target of any sample."""
    validation_fraction: float
    """Part of all digests whose documents are held out."""
    validation_samples_by_source: dict[str, int]
    """Blocks of held-out documents of each source; 0 where they are too short for one."""
    samples_by_source: dict[str, int]
    """Training samples of each source."""
    exhaustive: bool
    """If true, every sample was looked at; else `num_checked` of them and the formula."""
    num_checked: int
    """Samples looked at."""
    num_looked_up: int
    """Blocks whose sample was looked up in the order."""
    num_inverted: int
    """Numbers that were sent through a permutation and back."""
    num_lost: int
    """Blocks that should have been trained on and were not."""
    num_not_found: int
    """Blocks that are not where the order says they are."""
    num_repeated: int
    """Samples whose (source, epoch, block) had been seen before."""
    num_misplaced: int
    """Samples outside of their shard, off the stride, or beyond their source's epochs."""
    num_leaked: int
    """Samples in a shard of held-out documents, and validation samples that are not in one."""
    held_out: HeldOutReport
    """Findings about the documents."""
    num_differing: int
    """Samples that another world size, micro-batch, restart or append changed."""
    world_sizes: tuple[int, ...]
    """Number of ranks in each phase of the scenario."""
    micro_batches: tuple[int, ...]
    """Samples a forward pass in each phase."""
    restarts: tuple[int, ...]
    """Steps at which the run was restarted from its state."""
    appends: tuple[int, ...]
    """Steps at which data joined."""
    samples_appended: tuple[int, ...]
    """Samples that each append added."""
    state_bytes: int
    """Size of the data state at the end."""
    order_digest: str
    """MD5 over (shard content, epoch, start) of all checked samples, in order."""

    @property
    def ok(self) -> bool:
        """Nothing lost, repeated, misplaced, leaked or changed."""
        return not (
            self.num_lost
            or self.num_not_found
            or self.num_repeated
            or self.num_misplaced
            or self.num_leaked
            or self.held_out.num_leaked_documents
            or self.held_out.num_sources_off
            or self.num_differing
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"ok": self.ok}


@dataclass(frozen=True, kw_only=True)
class _Phase:
    """A stretch of steps on one set of ranks with one order."""

    begin: int
    end: int
    world_size: int
    micro_batch_size: int
    appends: tuple[Append, ...]
    restarted: bool


def verify_order(
    manifest: PackedManifest,
    *,
    sequence_length: int,
    global_batch_size: int,
    seed: int = 0,
    weights: Mapping[str, float] | None = None,
    appends: Sequence[Append] = (),
    ranks: Sequence[int] = (1,),
    micro_batches: Sequence[int] = (),
    restarts: Sequence[int] = (),
    more: Sequence[tuple[PackedManifest, int]] = (),
    limit: int = EXHAUSTIVE_LIMIT,
    progress: Progress | None = None,
) -> OrderReport:
    """Walk through a run and prove its order.

    Args:
        manifest, sequence_length, seed, weights: as of SampleOrder.
        global_batch_size: samples a step; a multiple of each number of ranks times its micro-batch.
        appends: data that joined the run already.
        ranks: world size at the start and after each restart; the last one stays.
        micro_batches: samples a forward pass, of each entry of `ranks`; absent: a rank's share.
        restarts: steps (ascending) at which the run stops and resumes from its JSON.
        more: (manifest, step) in order of steps; joins at sample step * global_batch_size.
        limit: look at every sample of orders up to this size; see EXHAUSTIVE_LIMIT.
        progress: called with (samples done, samples in all).

    Raises:
        ConfigError: a scenario that cannot be run.
        DataError: an append that is refused (content twice, beyond the end, other tokenizer, less
            held out), or an index that is damaged.
    """
    micro_batches = _check_scenario(global_batch_size, ranks, micro_batches, restarts)
    arguments: dict[str, Any] = {
        "sequence_length": sequence_length,
        "seed": seed,
        "weights": weights,
    }
    whole = SampleOrder(manifest, **arguments, appends=appends)
    for new, step in more:
        _check_step("data cannot be appended", step, whole, global_batch_size)
        number = len(whole.appends)
        append = Append(at=step * global_batch_size, manifest=new, seed=seed + 1 + number)
        whole = SampleOrder(manifest, **arguments, appends=(*whole.appends, append))
    for step in restarts:
        _check_step("the run cannot be restarted", step, whole, global_batch_size)
    total, num_steps = whole.num_samples, whole.num_samples // global_batch_size
    coverage = Coverage(whole, exhaustive=total <= limit)
    stride = 1 if coverage.exhaustive else max(1, total // min(limit, NUM_SAMPLED))
    digest = hashlib.md5(usedforsecurity=False)
    differing = checked = 0
    phases = _phases(whole.appends, global_batch_size, num_steps, ranks, micro_batches, restarts)
    for steps, found in _walk(manifest, arguments, phases, global_batch_size, stride):
        numbers = rank_samples(
            steps, global_batch_size=global_batch_size, rank=0, world_size=1
        ).ravel()
        expected = whole.locate_many(numbers)
        differing += int(np.count_nonzero(np.any(np.stack(found) != np.stack(expected), axis=0)))
        coverage.add(found)
        digest.update(coverage.content(found))
        checked += numbers.size
        if progress:
            progress(int(numbers[-1]) + 1, total)
    # A remainder smaller than a step is in the order too, though no step reaches it.
    rest = np.arange(num_steps * global_batch_size, total, dtype=np.int64)
    found = whole.locate_many(rest)
    coverage.add(found)
    digest.update(coverage.content(found))
    num_inverted = sum(map(coverage.check_inverse, whole.permutations))
    num_looked_up = coverage.look_up(NUM_LOOKED_UP)
    coverage.close()
    return OrderReport(
        num_samples=total,
        num_steps=num_steps,
        global_batch_size=global_batch_size,
        sequence_length=sequence_length,
        num_shards=len(whole.shards),
        tokens_left_over=sum((s.num_tokens - 1) % sequence_length for s in whole.shards),
        validation_fraction=manifest.validation_fraction,
        validation_samples_by_source=whole.validation_samples_by_source(),
        samples_by_source=whole.samples_by_source(),
        exhaustive=coverage.exhaustive,
        num_checked=checked + rest.size,
        num_looked_up=num_looked_up,
        num_inverted=num_inverted,
        num_lost=coverage.num_lost,
        num_not_found=coverage.num_not_found,
        num_repeated=coverage.num_repeated,
        num_misplaced=coverage.num_misplaced,
        num_leaked=coverage.num_leaked,
        held_out=verify_held_out(whole),
        num_differing=differing,
        world_sizes=tuple(ranks),
        micro_batches=tuple(micro_batches),
        restarts=tuple(restarts),
        appends=tuple(append.at // global_batch_size for append in whole.appends),
        samples_appended=whole.samples_appended,
        state_bytes=len(DataState.of(whole, total).to_json().encode()),
        order_digest=digest.hexdigest(),
    )


def _check_step(what: str, step: int, order: SampleOrder, global_batch_size: int) -> None:
    if not 0 <= step <= order.num_samples // global_batch_size:
        raise ConfigError(
            f"{what} at step {step}: {order.num_samples} samples make "
            f"{order.num_samples // global_batch_size} steps of {global_batch_size}"
        )


def _check_scenario(
    global_batch_size: int,
    ranks: Sequence[int],
    micro_batches: Sequence[int],
    restarts: Sequence[int],
) -> list[int]:
    """The micro-batch of each phase. Raises ConfigError for what no trainer could run."""
    if list(restarts) != sorted(restarts) or len(ranks) > len(restarts) + 1 or not ranks:
        raise ConfigError(
            f"ranks {list(ranks)} with restarts {list(restarts)}: give ascending steps, one for "
            "each change of the world size"
        )
    for world_size in ranks:
        if world_size < 1 or global_batch_size % world_size:
            raise ConfigError(
                f"global_batch_size {global_batch_size} is no multiple of {world_size} ranks"
            )
    sizes = list(micro_batches) or [global_batch_size // world_size for world_size in ranks]
    if len(sizes) != len(ranks):
        raise ConfigError(f"micro-batches {sizes} for ranks {list(ranks)}: give as many of each")
    for world_size, size in zip(ranks, sizes, strict=True):
        if size < 1 or global_batch_size % (world_size * size):
            raise ConfigError(
                f"global_batch_size {global_batch_size} is no multiple of {world_size} ranks x "
                f"micro-batch {size}"
            )
    return sizes


def _phases(
    appends: tuple[Append, ...],
    global_batch_size: int,
    num_steps: int,
    ranks: Sequence[int],
    micro_batches: Sequence[int],
    restarts: Sequence[int],
) -> list[_Phase]:
    """The scenario cut where ranks or data change."""
    joined = [append.at // global_batch_size for append in appends]
    for append in appends:
        if append.at % global_batch_size:
            raise ConfigError(
                f"data were appended at sample {append.at}, which is no multiple of "
                f"global_batch_size = {global_batch_size}: give the run's own --global-batch-size"
            )
    ends = sorted({0, num_steps, *(s for s in [*restarts, *joined] if s < num_steps)})
    phases = []
    for begin, end in pairwise(ends):
        number = min(sum(step <= begin for step in restarts), len(ranks) - 1)
        known = sum(step <= begin for step in joined)
        phases.append(
            _Phase(
                begin=begin,
                end=end,
                world_size=ranks[number],
                micro_batch_size=micro_batches[number],
                appends=appends[:known],
                restarted=begin in restarts,
            )
        )
    return phases


def _walk(
    manifest: PackedManifest,
    arguments: dict[str, Any],
    phases: list[_Phase],
    global_batch_size: int,
    stride: int,
) -> Iterator[tuple[Ints, Blocks]]:
    """A chunk of steps at a time: their numbers, and what all ranks were given in them."""
    order = SampleOrder(manifest, **arguments)
    size = max(1, _CHUNK // global_batch_size)
    for phase in phases:
        if phase.restarted:  # all that survives is the text of the state, and the appends
            text = DataState.of(order, phase.begin * global_batch_size).to_json()
            order = DataState.from_json(text).order(manifest, phase.appends)
        if len(phase.appends) != len(order.appends):
            order = SampleOrder(manifest, **arguments, appends=phase.appends)
        for first in range(phase.begin, phase.end, size * stride):
            steps = np.arange(first, min(first + size, phase.end), dtype=np.int64)
            yield steps, _consumed(order, steps, global_batch_size, phase)


def _consumed(order: SampleOrder, steps: Ints, global_batch_size: int, phase: _Phase) -> Blocks:
    """Blocks given to the ranks, micro-batch after micro-batch, in the order of their samples."""
    width = global_batch_size // phase.world_size
    out = np.empty((4, len(steps), phase.world_size, width), dtype=np.int64)
    for rank in range(phase.world_size):
        share = rank_samples(
            steps, global_batch_size=global_batch_size, rank=rank, world_size=phase.world_size
        )
        for begin in range(0, width, phase.micro_batch_size):
            micro = share[:, begin : begin + phase.micro_batch_size]
            given = np.stack(order.locate_many(micro.ravel()))
            out[:, :, rank, begin : begin + phase.micro_batch_size] = given.reshape(4, *micro.shape)
    return Blocks(*out.reshape(4, -1))
