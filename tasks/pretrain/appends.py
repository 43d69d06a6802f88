"""Data that a configuration appends to a pretraining, and the journal in the stage's manifest.

    pretrain.append: [{packed, at_step, …}] ──▶ RUN/requests/ ──trainer──▶ journal ──▶ manifest

They take the same way as `steel append`: requested, journalled by the run, applied at a step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from common.config import Config
from common.errors import ConfigError, StageError, shown
from common.files import digest_of
from common.paths import display
from common.ranges import Epochs, Seed, Steps
from model.data import PackedManifest
from model.data.manifest import find_manifest
from model.train.run.client import RunClient
from model.train.run.journal import AppendEntry
from model.train.run.length import LengthPolicy
from model.train.run.plan import RunPlan
from tasks.core.stage import StageRun
from tasks.core.store import find_packed


@dataclass(frozen=True, kw_only=True)
class AppendConfig(Config):
    """Packed data that join a pretraining while it runs."""

    RENAMED: ClassVar[Mapping[str, str]] = {"horizon": "steps"}

    packed: str
    """Finished folder or key of a `pack` stage, a folder of shards, or its manifest.json."""
    at_step: Steps | None = None
    """Completed steps at which they join; none: when the run starts or goes on the next time."""
    weights: dict[str, Epochs] = field(default_factory=dict)
    """Epochs per source of the new data, fractions allowed; 1 where not named."""
    seed: Seed | None = None
    """Seed of the order from there on; none: the run's own."""
    steps: LengthPolicy = "keep"
    """keep: the number of steps stays, and the new data mix into those that are left; extend: the
    steps that the new samples make come on top."""


def problems(appends: Sequence[AppendConfig]) -> Iterator[ConfigError]:
    """Yield an error where the same data are named twice."""
    if len({append.packed for append in appends}) < len(appends):
        yield ConfigError("append names the same data twice")


def request(run: StageRun, client: RunClient, appends: Sequence[AppendConfig]) -> None:
    """Request everything that the run has not appended yet. Raises ConfigError or DataError."""
    for append in appends:
        result = client.append(
            find_packed(_store(run.folder), append.packed),
            at_step=append.at_step,
            weights=append.weights or None,
            seed=append.seed,
            steps=append.steps,
        )
        run.log.info("append %s: %s", append.packed, result.status)


def note(run: StageRun, plan: RunPlan, refused: dict[str, str], unread: list[str]) -> None:
    """Write the run's journal and its refused and late requests into the manifest and MLflow."""
    for name in unread:
        run.log.warning("request %s came too late: training was over", name)
    rows = journal_rows(plan)
    run.note(journal=rows, requests_refused=refused, requests_too_late=unread)
    if not rows:
        return
    content = [{**entry.to_dict(), "request": None} for entry in plan.entries]
    appended = [row for row in rows if row["kind"] == "append"]
    run.note(revision=digest_of(content)[:8])
    run.count(appends=len(appended), total_steps=plan.length.total_steps)
    run.track.tags(
        {
            "appends": ", ".join(f"{r['manifest']}@{r['step']} ({r['steps']})" for r in appended),
            "length": ", ".join(f"{row['total_steps']} at {row['step']}" for row in rows),
        }
    )
    run.table(
        "journal", rows, "Data appended and changes of the length while the model was trained"
    )


def journal_rows(plan: RunPlan) -> list[dict[str, Any]]:
    """The journal for the manifest; of appended data also their place and size."""
    rows = []
    for entry in plan.entries:
        row = entry.to_dict()
        if isinstance(entry, AppendEntry):
            manifest = entry.data.manifest
            assert manifest.folder is not None
            row |= {"folder": display(manifest.folder), "tokens": manifest.num_tokens}
        rows.append(row)
    return rows


def check_data(appends: Sequence[AppendConfig], store: Path) -> None:
    """Refuse packed data that are not there, and weights of sources that they do not have.

    Raises DataError or ConfigError, before anything runs.
    """
    for number, append in enumerate(appends):
        sources = _manifest(append, store).sources
        for name in sorted(append.weights.keys() - set(sources)):
            raise ConfigError(
                f"pretrain.append.{number}.weights: {shown(name)} is no source of the packed data "
                f"{append.packed}; there are {', '.join(sources)}"
            )


def check_trained(run: StageRun, appends: Sequence[AppendConfig]) -> None:
    """Refuse to finish a run that a configured append did not join.

    Raises:
        StageError: says why it did not.
    """
    for append in _missing(appends, _store(run.folder), run.notes["journal"]):
        refused = run.notes["requests_refused"]
        why = "; ".join(refused.values()) or "the run ended before its step"
        raise StageError(
            f"pretrain.append: {append.packed} did not join the run ({why}). Take it out of the "
            "configuration, or make the run longer (`steel reschedule`, or steps: extend) and "
            "start again"
        )


def check_finished(
    appends: Sequence[AppendConfig], stage_folder: Path, manifest: Mapping[str, Any]
) -> None:
    """Refuse a finished run that lacks a configured append, or that data joined in another way.

    Its model is what later stages were made from, so it is not trained on; and to leave the data
    out silently would be worse.

    Raises:
        ConfigError: names the data and the remedies.
    """
    joined = {row["manifest"]: row for row in _appended(manifest["notes"].get("journal", []))}
    folder = display(stage_folder)
    for append in appends:
        row = joined.get(_digest(append, _store(stage_folder)))
        if row is None:
            raise ConfigError(
                f"pretrain.append: the data {append.packed} are not in the finished pretraining "
                f"{folder}. Take them out of the configuration to use that model; start a new run "
                f"from it (pretrain.model: {folder}/model); or remove that folder to "
                "train anew"
            )
        for name, wanted, found in _differences(append, row):
            raise ConfigError(
                f"pretrain.append: the data {append.packed} joined the finished pretraining "
                f"{folder} with {name} = {found!r}, not {wanted!r}. Set it back to use that model, "
                "or remove that folder to train anew"
            )


def _differences(append: AppendConfig, row: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(field, wanted, found) where a joined append is not as the configuration says."""
    pairs = {
        "at_step": (append.at_step, row["step"]),
        "weights": (append.weights or None, row["weights"]),
        "seed": (append.seed, row["seed"]),
        "steps": ("extend" if append.steps == "extend" else None, row["steps"]),
    }
    for name, (wanted, found) in pairs.items():
        if wanted is not None and wanted != found:
            yield name, wanted, found


def _missing(
    appends: Sequence[AppendConfig], store: Path, journal: Sequence[Mapping[str, Any]]
) -> Iterator[AppendConfig]:
    joined = {row["manifest"] for row in _appended(journal)}
    return (append for append in appends if _digest(append, store) not in joined)


def _appended(journal: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (row for row in journal if row["kind"] == "append")


def _digest(append: AppendConfig, store: Path) -> str:
    return _manifest(append, store).digest


def _manifest(append: AppendConfig, store: Path) -> PackedManifest:
    return PackedManifest.read(find_manifest(find_packed(store, append.packed)))


def _store(stage_folder: Path) -> Path:
    return stage_folder.parents[1]
