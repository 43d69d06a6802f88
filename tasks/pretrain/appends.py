"""Data that a configuration appends to a pretraining, and what became of requests to it.

    pretrain.append: [{packed, at_step, …}] ──ask──▶ RUN/requests/ ──trainer──▶ journal ──▶ manifest

They take the same way as `steel append`: asked for, journalled by the run, applied at a step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.errors import ConfigError, StageError
from common.files import digest_of
from common.paths import display
from model.data import PackedManifest
from model.train.run import client as asking
from model.train.run.plan import Changes
from model.train.run.client import RunState
from tasks.core.requests import packed_data
from tasks.core.stage import StageResult, StageRun


@dataclass(frozen=True, kw_only=True)
class AppendConfig:
    """Packed data that join a pretraining while it runs."""

    packed: str
    """Finished folder or key of a `pack` stage, a folder of shards, or its manifest.json."""
    at_step: int | None = None
    """Completed steps at which they join; none: when the run starts or goes on the next time."""
    weights: dict[str, float] = field(default_factory=dict)
    """Epochs per source of the new data, fractions allowed; 1 where not named."""
    seed: int | None = None
    """Seed of the order from there on; none: the run's own."""
    horizon: Literal["keep", "extend"] = "keep"
    """keep: the number of steps stays, and the new data mix into those that are left; extend: the
    steps that the new samples make come on top."""


def check(appends: Sequence[AppendConfig]) -> None:
    """Refuse values that no run could take. Raises ConfigError."""
    for append in appends:
        where = f"pretrain.append ({append.packed})"
        if append.at_step is not None and append.at_step < 0:
            raise ConfigError(f"{where}: at_step = {append.at_step}; give 0 or more, or leave it")
        for source, epochs in append.weights.items():
            if not 0 <= epochs < float("inf"):
                raise ConfigError(f"{where}: weights.{source} = {epochs} epochs; give 0 or more")
    if len({append.packed for append in appends}) < len(appends):
        raise ConfigError("pretrain.append names the same data twice")


def ask(run: StageRun, state: RunState, appends: Sequence[AppendConfig]) -> None:
    """Ask the run for what it has not appended yet. Raises ConfigError or DataError."""
    for append in appends:
        answer = asking.append(
            state,
            packed_data(_store(run.folder), append.packed),
            at_step=append.at_step,
            weights=append.weights or None,
            seed=append.seed,
            horizon=append.horizon,
        )
        run.log.info("append %s: %s", append.packed, answer.status)


def note(run: StageRun, changes: Changes, refused: dict[str, str], unread: list[str]) -> None:
    """Write into the manifest and MLflow what joined the run, and where its end moved."""
    for name in unread:
        run.log.warning("request %s came too late: training was over", name)
    rows = journal_rows(changes)
    horizon = changes.horizon.to_dict()
    run.note(journal=rows, horizon=horizon, requests_refused=refused, requests_too_late=unread)
    if not changes.horizon.changes:
        return
    run.note(revision=digest_of([changes.journal.to_list(), horizon])[:8])
    run.count(appends=len(rows), total_steps=changes.horizon.total_steps)
    run.track.tags(
        {
            "appends": ", ".join(f"{r['manifest']}@{r['step']} ({r['horizon']})" for r in rows),
            "horizon": ", ".join(f"{c.total_steps} at {c.step}" for c in changes.horizon.changes),
        }
    )
    run.table("appends", rows, "Data appended while the model was trained")


def journal_rows(changes: Changes) -> list[dict[str, Any]]:
    """Each append: what, when, how."""
    by_manifest = {change.manifest: change for change in changes.horizon.changes}
    rows = []
    for entry in changes.journal.entries:
        manifest, change = changes.journal.manifests[entry.manifest], by_manifest[entry.manifest]
        assert manifest.folder is not None
        rows.append(
            {
                "manifest": entry.manifest,
                "folder": display(manifest.folder),
                "step": change.step,
                "sample": entry.at,
                "seed": entry.seed,
                "weights": dict(entry.weights),
                "tokens": manifest.num_tokens,
                "horizon": change.policy,
                "total_steps": change.total_steps,
            }
        )
    return rows


def check_data(appends: Sequence[AppendConfig], store: Path) -> None:
    """Refuse packed data that are not there, before anything runs. Raises DataError."""
    for append in appends:
        _digest(append, store)


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
            "configuration, or make the run longer (`steel horizon`, or horizon: extend) and start "
            "again"
        )


def check_finished(appends: Sequence[AppendConfig], result: StageResult) -> None:
    """Refuse a finished run that lacks a configured append, or that data joined in another way.

    Its model is what later stages were made from, so it is not trained on; and to leave the data
    out silently would be worse.

    Raises:
        ConfigError: names the data and the remedies.
    """
    joined = {row["manifest"]: row for row in result.manifest["notes"].get("journal", [])}
    folder = display(result.folder)
    for append in appends:
        row = joined.get(_digest(append, _store(result.folder)))
        if row is None:
            raise ConfigError(
                f"pretrain.append: the data {append.packed} are not in the finished pretraining "
                f"{folder}. Take them out of the configuration to use that model; start a new run "
                f"from it (pretrain.settings.model: {folder}/model); or remove that folder to "
                "train anew"
            )
        for name, wanted, found in _differences(append, row):
            raise ConfigError(
                f"pretrain.append: the data {append.packed} joined the finished pretraining "
                f"{folder} with {name} = {found!r}, not {wanted!r}. Set it back to use that model, "
                "or remove that folder to train anew"
            )


def _differences(append: AppendConfig, row: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(field, wanted, found) where a joined append is not what is asked for expressly."""
    pairs = {
        "at_step": (append.at_step, row["step"]),
        "weights": (append.weights or None, row["weights"]),
        "seed": (append.seed, row["seed"]),
        "horizon": ("extend" if append.horizon == "extend" else None, row["horizon"]),
    }
    for name, (wanted, found) in pairs.items():
        if wanted is not None and wanted != found:
            yield name, wanted, found


def _missing(
    appends: Sequence[AppendConfig], store: Path, journal: Sequence[Mapping[str, Any]]
) -> Iterator[AppendConfig]:
    joined = {row["manifest"] for row in journal}
    return (append for append in appends if _digest(append, store) not in joined)


def _digest(append: AppendConfig, store: Path) -> str:
    return PackedManifest.read(asking.manifest_file(packed_data(store, append.packed))).digest


def _store(stage_folder: Path) -> Path:
    return stage_folder.parents[1]
