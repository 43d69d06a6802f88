"""`steel verify-order`: the order of packed shards, of a run, or of a simulation, proved.

    packed shards ─┐
    a run's folder ┼─▶ Subject ──scenario──▶ model/data/verify ──▶ figures ──tell──▶ sentences
    a simulation  ─┘

A run's folder says itself what it trains on: its job, its append journal, and its checkpoints.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.config import from_json
from common.errors import ConfigError, DataError
from common.paths import display, resolve
from model.data import DataState, PackedManifest, SampleOrder
from model.data.verify.order import verify_order as prove
from model.data.verify.simulate import simulated
from model.train.checkpoint.progress import Progress
from model.train.checkpoint.reader import complete_checkpoints, read_documents
from model.train.config import PretrainJob
from model.train.run.plan import Changes
from model.train.run.client import manifest_file
from model.train.run.folder import CHECKPOINTS_FOLDER, DATA_STATE_FILE, JOB_FILE, PROGRESS_FILE
from tasks.core.store import finished_stages

RANKS = (1, 2, 4, 8)
"""World sizes that are tried where none are asked for."""

SEQUENCE_LENGTH = 2048
SMALLEST_BATCH = 8
SIMULATED_BATCH = 512
"""Of the paper, section 5."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides an order, as far as somebody said it; None: the run's own, or the default."""

    sequence_length: int | None = None
    global_batch_size: int | None = None
    seed: int | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    validation_fraction: float | None = None


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What happens to the run while its order is walked through."""

    ranks: Sequence[int] = ()
    """World size at the start and after each restart; none: 1, 2, 4 and 8 where they divide."""
    micro_batches: Sequence[int] = ()
    """Samples a forward pass, for each entry of `ranks`; none: a rank's whole share."""
    restarts: Sequence[int] = ()
    """Steps; none, but several world sizes: at even stretches."""
    appends: Sequence[str] = ()
    """Each `DATA@STEP`: packed shards, or a number of simulated blocks."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whose order is to be proved."""

    name: str
    manifest: PackedManifest
    order: dict[str, Any]
    """Keywords of SampleOrder but for the manifest."""
    global_batch_size: int
    micro_batch_size: int = 1
    run: dict[str, Any] | None = None
    """How far a run has come."""


def verify_order(
    where: Path | None,
    *,
    simulate: str | None = None,
    settings: Settings | None = None,
    scenario: Scenario | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Prove an order; see model/data/verify/order.py for what is proved.

    Args:
        where: a store (its newest packed corpus), a folder of `pack` or of shards, a manifest.json,
            or the folder of a pretraining, finished or not.
        simulate: instead, a number of blocks such as 500M.
        progress: called with (samples done, samples in all).

    Raises:
        ConfigError, DataError: there is nothing to prove there, or the scenario makes no sense.
    """
    settings, scenario = settings or Settings(), scenario or Scenario()
    started = time.perf_counter()
    subject = _subject(where, simulate, settings, scenario)
    appends = [_append(text, subject) for text in scenario.appends]
    ranks = list(scenario.ranks) or [
        n for n in RANKS if subject.global_batch_size % (n * subject.micro_batch_size) == 0
    ]
    report = prove(
        subject.manifest,
        **subject.order,
        global_batch_size=subject.global_batch_size,
        ranks=ranks,
        micro_batches=scenario.micro_batches,
        restarts=scenario.restarts or _stretches(subject, len(ranks)),
        append=appends,
        progress=progress,
    )
    return {
        "subject": subject.name,
        "run": subject.run,
        "seconds": round(time.perf_counter() - started, 2),
        **report.to_dict(),
    }


def _subject(
    where: Path | None, simulate: str | None, settings: Settings, scenario: Scenario
) -> Subject:
    if (where is None) == (simulate is None):
        raise ConfigError("verify-order: give either packed data or a run, or --simulate")
    if where is not None and (run := resolve(where) / JOB_FILE).is_file():
        return _run_subject(run.parent, settings)
    length = settings.sequence_length or SEQUENCE_LENGTH
    if simulate is not None:
        number = _number(simulate)
        manifest, name = simulated(number, sequence_length=length), f"{number:,} simulated blocks"
    else:
        assert where is not None
        file = _manifest(resolve(where))
        manifest, name = PackedManifest.read(file), display(file.parent)
    together = math.lcm(*scenario.ranks) or 1
    smallest = SIMULATED_BATCH if simulate is not None else SMALLEST_BATCH
    return Subject(
        name=name,
        manifest=manifest,
        order={
            "sequence_length": length,
            "seed": settings.seed or 0,
            "weights": settings.weights,
            "validation_fraction": settings.validation_fraction or 0.0,
        },
        global_batch_size=settings.global_batch_size or together * -(-smallest // together),
    )


def _run_subject(folder: Path, settings: Settings) -> Subject:
    """A pretraining, as its job, journal and checkpoints have it."""
    if settings != Settings():
        raise ConfigError(
            f"{display(folder)} is a pretraining and has settings of its own: leave out sequence "
            "length, batch, seed, weights and validation fraction, or name its packed data"
        )
    job = from_json(PretrainJob, folder / JOB_FILE)
    base = PackedManifest.read(Path(job.packed) / "shards")
    changes = Changes.read(folder, job.settings, base)
    order = changes.order
    saved = complete_checkpoints(folder / CHECKPOINTS_FOLDER)
    run: dict[str, Any] = {"checkpoint": None, "samples_consumed": 0, "samples_skipped": 0}
    if saved:
        names = (DATA_STATE_FILE, PROGRESS_FILE)
        documents = read_documents(saved[-1], names)
        state = DataState.from_json(documents[DATA_STATE_FILE])
        state.check_order(order)
        position, _ = Progress.from_json(documents[PROGRESS_FILE])
        run = {
            "checkpoint": saved[-1].name,
            "samples_consumed": state.samples_consumed,
            "samples_skipped": (position.batch - position.step) * job.settings.global_batch_size,
        }
    return Subject(
        name=f"pretraining {display(folder)}",
        manifest=base,
        order={
            "sequence_length": order.sequence_length,
            "seed": order.seed,
            "weights": order.weights,
            "validation_fraction": order.validation_fraction,
            "journal": order.journal,
        },
        global_batch_size=job.settings.global_batch_size,
        micro_batch_size=job.settings.micro_batch_size,
        run=run,
    )


def _stretches(subject: Subject, number: int) -> list[int]:
    """Steps that cut the run (without what the scenario appends) into even parts."""
    if number == 1:
        return []
    steps = SampleOrder(subject.manifest, **subject.order).num_samples // subject.global_batch_size
    return [steps * i // number for i in range(1, number)]


def _append(text: str, subject: Subject) -> tuple[PackedManifest, int]:
    data, at, step = text.rpartition("@")
    if not (at and data and step.isdigit()):
        raise ConfigError(
            f"--append {text!r} must look like MANIFEST@STEP or, for example, 50M@900"
        )
    if re.fullmatch(r"[\d_.]+[A-Za-z]?", data) and not resolve(data).exists():
        base, length = subject.manifest, subject.order["sequence_length"]
        new = replace(
            simulated(_number(data), sequence_length=length, name=f"simulated-at-{step}"),
            vocab_size=base.vocab_size,
            end_of_document=base.end_of_document,
            tokenizer_md5=base.tokenizer_md5,
        )
    else:
        new = PackedManifest.read(manifest_file(resolve(data)))
    return new, int(step)


def _number(text: str) -> int:
    """500M, 1.5B, 20k or 1_000 as a whole number. Raises ConfigError."""
    found = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?)([a-zA-Z]?)", text)
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise ConfigError(f"{text!r} is no number of blocks; write for example 500M")
    return round(float(found[1].replace("_", "")) * unit)


def _manifest(where: Path) -> Path:
    if not where.is_dir() or list(where.glob("*.bin")) or (where / "shards").is_dir():
        return manifest_file(where)
    packed = [result for result in finished_stages(where) if result.stage == "pack"]
    if not packed:
        raise DataError(f"nothing is packed in {display(where)}; run `steel run … --stages data`")
    return packed[-1].folder / "shards" / PackedManifest.FILE_NAME


def tell(report: dict[str, Any]) -> Iterator[str]:
    """A report in lines for a terminal: what was looked at, and one sentence for each property."""
    r = report
    yield (
        f"{r['subject']}: {len(r['samples_by_source'])} sources in {r['num_shards']:,} shards, "
        f"{r['num_samples']:,} samples of {r['sequence_length']:,} tokens, "
        f"{r['num_steps']:,} steps of {r['global_batch_size']:,}"
    )
    yield f"  {r['tokens_left_over']:,} tokens at the ends of shards are too few for a sample"
    if run := r["run"]:
        skipped = run["samples_skipped"]
        yield (
            f"  {run['checkpoint'] or 'no checkpoint yet'}: {run['samples_consumed']:,} samples "
            "consumed"
            + (f" ({skipped:,} of them in batches that health skipped)" if skipped else "")
            + f", {r['num_samples'] - run['samples_consumed']:,} still unseen"
        )
    yield "  " + ", ".join(_scenario(r))
    yield ""
    looked = "all" if r["exhaustive"] else f"{r['num_checked']:,} of {r['num_samples']:,}"
    for wrong, sentence in _properties(r, looked):
        yield f"  {'FAILED' if wrong else 'ok':6} {sentence}" + (
            f" Wrong: {wrong:,}." if wrong else ""
        )
    yield ""
    yield f"  data state {r['state_bytes']:,} bytes, digest of the order {r['order_digest']}"
    result = "the order holds" if r["ok"] else "THE ORDER DOES NOT HOLD"
    yield f"  {result} ({r['seconds']} s)"


def _scenario(r: dict[str, Any]) -> Iterator[str]:
    sizes = list(zip(r["world_sizes"], r["micro_batches"], strict=True))
    yield f"{sizes[0][0]} rank(s) with micro-batches of {sizes[0][1]} from step 0"
    events = [
        (step, f"restart at step {step:,}" + (_on(sizes[i + 1]) if i + 1 < len(sizes) else ""))
        for i, step in enumerate(r["restarts"])
    ]
    events += [
        (step, f"{number:,} samples appended at step {step:,}")
        for step, number in zip(r["appends"], r["samples_appended"], strict=True)
    ]
    for _, text in sorted(events):
        yield text


def _on(size: tuple[int, int]) -> str:
    return f" on {size[0]} with {size[1]}"


def _properties(r: dict[str, Any], looked: str) -> Iterator[tuple[int, str]]:
    """(number of faults, what was checked and how) of each property."""
    total = f"{r['num_samples']:,}"
    promised = f"the shards and weights promise {total} (source, epoch, block)"
    if r["exhaustive"]:
        lost = f"Nothing is lost: {promised}, and every one was given out."
        repeated = f"Nothing is repeated: {total} samples were looked at, no two are the same."
    else:
        lost = f"Nothing is lost: {promised}, as many as there are samples, and"
        repeated = (
            f"nothing is repeated: the order is one-to-one. {r['num_checked']:,} samples all along "
            f"it differ; {r['num_inverted']:,} numbers came back through its permutations."
        )
    yield r["num_lost"], lost
    yield r["num_repeated"], repeated
    found = (
        f"Every block comes when the order says: {r['num_looked_up']:,} were drawn from the "
        "shards, the order named the sample of each, and that sample is the block."
    )
    yield r["num_not_found"], found
    inside = (
        f"Every sample ({looked}) lies inside of its shard, begins at a multiple of "
        f"{r['sequence_length']:,} tokens, and within its source's epochs."
    )
    yield r["num_misplaced"], inside
    held_out = (
        f"Validation is never trained on: {r['num_validation_samples']:,} blocks are held out, and "
        f"no sample ({looked}) is one of them."
    )
    yield r["num_leaked"], held_out if r["num_validation_samples"] else "No validation is held out."
    same = (
        f"Ranks, micro-batches, restarts and appends change nothing: what the ranks were given in "
        f"each step ({looked} samples) is what one rank is given that is never interrupted."
    )
    yield r["num_differing"], same
