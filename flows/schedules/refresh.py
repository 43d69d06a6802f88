"""`steel refresh`: what is new in the corpora, appended to a running or stopped pretraining.

    corpora now ── known to the training? ──▶ nothing new: said, and done
         │ no
         ▼
    new_files ▶ normalize ▶ new_documents ▶ clean ▶ new_texts ▶ pack ▶ request to the run ▶ record

All but the last two are stages, and these are one small file each that appears whole: a refresh
that is killed goes on from there, and nothing is half appended. docs/adr/0070
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.files import digest_of, make_folder
from common.paths import display, resolve
from common.redaction import hidden_in_errors, redacted
from corpus.refresh.commits import newest_commit, newest_files
from corpus.refresh.earlier import recorded_identities
from flows.config import PipelineConfig
from flows.graph import NO_SEARCH, Pipeline
from flows.preflight import preflight_once
from flows.runs.first_look import given
from flows.runs.session import tracked
from flows.schedules.newest_run import newest_run
from model.data import PackedManifest
from model.train.run.client import RequestResult, RunClient
from model.train.run.length import LengthPolicy
from model.train.run.requests import RequestFolder
from tasks.acquire import AcquireConfig, acquire
from tasks.checkpoint_scores.run import PretrainingRun
from tasks.clean import clean, enforce
from tasks.core.artifacts import publish_artifact, run_logger, shorten_user_errors
from tasks.core.lock import StageLock
from tasks.core.manifest import StageResult
from tasks.core.stage import Context, plain
from tasks.core.store import find_pretraining
from tasks.core.waiting import StageWait
from tasks.normalize import normalize
from tasks.pack import pack
from tasks.refresh import (
    Lineage,
    NewDocumentsConfig,
    NewFilesConfig,
    NewTextsConfig,
    lineage_of,
    new_documents,
    new_files,
    new_texts,
)
from tasks.refresh.records import FOLDER, Refreshed, acquired_key, records_of

NOTHING = "nothing is new"


def refresh(
    run: str | None, steps: LengthPolicy, config: str, store: str, overrides: list[str]
) -> dict[str, Any]:
    """Append what is new in a configuration's corpora to a pretraining.

    Args:
        run: folder or key of the pretraining; None: the configuration's newest.
        steps: "keep" or "extend" its number of steps.

    Raises:
        ConfigError: there is no such pretraining, or it is finished.
    """
    shorten_user_errors()
    place = resolve(store)
    overrides = given(overrides)
    with hidden_in_errors():
        loaded = preflight_once(config, overrides, place)
    found = _target(run, loaded, place)
    make_folder(place / FOLDER)
    title = f"refresh of {found.key}"
    waits = StageWait(title, place / FOLDER, run_logger())
    with StageLock(place / FOLDER / f"{found.key}.lock", what="refresh", waiting=waits) as lock:
        waits.over()
        client, lineage = _open(found, place)
        corpora = _corpora(loaded, lineage)
        now = acquired_key(corpora, place)
        if now in {lineage.first("acquire").key, *_standing(lineage, place, found.key)}:
            run_logger().info("%s in the corpora of %s since its last data", NOTHING, found.key)
            return _summary(loaded, place, found, now, None, None)
        recorded = redacted({"file": display(resolve(config)), **plain(loaded)})
        with tracked(f"refresh {loaded.name}", place, recorded) as context:
            context = replace(context, when_busy=loaded.devices.when_busy)
            while True:
                packed = _NewPart(loaded, context, lineage, found.key, corpora).packed()
                lock.check()  # another refresh may have taken over, and appended the same texts
                client, then = _open(found, place)  # the training has gone on meanwhile
                if {*then.of("pack")} == {*lineage.of("pack")}:
                    break
                run_logger().info("the data of %s changed meanwhile: looking again", found.key)
                lineage = then
            result = None
            if packed is not None and _samples(packed, found):
                result = client.append(packed.folder, steps=steps)
            elif packed is not None:
                run_logger().info("the new part is shorter than a sample; it waits for more")
                return _summary(loaded, place, found, now, packed, None)
            Refreshed(
                acquired=now,
                run=found.key,
                begun=lineage.first("acquire").key,
                packed=packed.key if packed is not None else "",
                beside=tuple(lineage.of("pack")),
                request=result.request if result is not None else "",
            ).write(place)
            return _summary(loaded, place, found, now, packed, result)


def _target(run: str | None, config: PipelineConfig, store: Path) -> PretrainingRun:
    """The pretraining that is to get the new part. Raises ConfigError or DataError."""
    found = PretrainingRun.find(store, run) if run else newest_run(config, store)
    if found is None or not found.folder.is_dir():
        raise ConfigError(
            f"no pretraining of {config.name} has begun in {display(store)}, so that there is none "
            "to append to: `steel run` trains on all that is there"
        )
    find_pretraining(store, str(found.finished_folder))  # refuses a finished one by name
    return found


def _open(run: PretrainingRun, store: Path) -> tuple[RunClient, Lineage]:
    folder, running = find_pretraining(store, str(run.finished_folder))
    waiting = RequestFolder(folder).pending()  # before the journal, which gets them next
    client = RunClient.open(folder, running=running)
    lineage = lineage_of(client, run.packed(), store, waiting)
    for unknown in lineage.unknown:
        run_logger().warning(
            "%s joined the training and was made by no stage: texts in it may be appended again",
            display(unknown),
        )
    return client, lineage


def _corpora(config: PipelineConfig, lineage: Lineage) -> AcquireConfig:
    """The corpora at the newest commits of their repositories, and as they lie behind URLs now.

    Raises DataError for a hub or server that does not answer.
    """
    found = config.acquire("corpora")
    first = lineage.first("acquire")
    begun = first.manifest["notes"].get("revisions", {})
    commits = {}
    for name, location in found.datasets.items():
        commit = newest_commit("corpora", name, location)
        if commit and commit != begun.get(name, {}).get("commit"):
            commits[name] = commit
        files = newest_files("corpora", name, location)
        if files and files != recorded_identities(first.folder, name):
            commits[name] = digest_of(files)
    return replace(found, commits=commits)


def _standing(lineage: Lineage, store: Path, run: str) -> list[str]:
    """Keys of the recorded states of the corpora that are in the training as a whole."""
    packs = lineage.of("pack")
    return [one.acquired for one in records_of(store, run) if one.stands(packs)]


def _held_out(lineage: Lineage, config: PipelineConfig) -> dict[str, float]:
    """Source -> share of its documents that is held out: as for the training, and as configured
    now."""
    recorded = [result.manifest["config"] for result in lineage.of("hold_out").values()]
    shares: dict[str, float] = {}
    for sets in (*(one["sets"] for one in recorded), plain(config.held_out)):
        for one in sets.values():
            for source in one["corpora"]:
                shares[source] = max(shares.get(source, 0.0), one["fraction"])
    return dict(sorted(shares.items()))


def _samples(packed: StageResult, run: PretrainingRun) -> bool:
    """True if the new data have a whole sample."""
    manifest = PackedManifest.read(packed.folder / "shards")
    length = run.job()["settings"]["sequence_length"]
    tokens = manifest.tokens_by_source("train")
    return any(number > length for number in tokens.values())


class _NewPart:
    """The stages of the new part, from files to shards."""

    def __init__(
        self,
        config: PipelineConfig,
        context: Context,
        lineage: Lineage,
        run_key: str,
        corpora: AcquireConfig,
    ) -> None:
        self.run_key, self.corpora = run_key, corpora
        self.config, self.context, self.lineage = config, context, lineage
        self.pipeline = Pipeline(config, context)

    def packed(self) -> StageResult | None:
        """The packed new part; None where nothing of it is new."""
        acquired = acquire(self.corpora, context=self.context, label="corpora")
        known = self._acquired_before()
        corpora = tuple(sorted(self.config.corpora))
        files = new_files(
            NewFilesConfig(corpora=corpora), context=self.context, raw=acquired, known=known
        )
        names = tuple(n for n, row in files.manifest["notes"]["corpora"].items() if row["bytes"])
        if not names:
            return None
        config = replace(self.config.normalize, corpora=names, optional=names)
        normalized = normalize(config, context=self.context, label="new", raw=files)
        documents = new_documents(
            NewDocumentsConfig(held_out=_held_out(self.lineage, self.config)),
            context=self.context,
            normalized=normalized,
            known=self.lineage.of("normalize"),
        )
        if not documents.manifest["counts"]["documents"]:
            return None
        texts = new_texts(
            NewTextsConfig(
                recipes=self.config.clean.recipe_names(), workers=self.config.clean.workers
            ),
            context=self.context,
            cleaned=self._cleaned(documents),
            known={**self.lineage.of("clean"), **self.lineage.of("new_texts")},
            held_out=self.lineage.of("hold_out"),
        )
        if not texts.manifest["counts"]["documents"]:
            return None
        begun = self.lineage.packed
        fraction = PackedManifest.read(begun.folder / "shards").validation_fraction
        packing = replace(
            self.config.pack,
            tokenizer=str(begun.folder / "tokenizer"),
            prune=False,
            validation_fraction=fraction,
        )
        return pack(packing, context=self.context, label="new", cleaned=texts, extra_text={})

    def _acquired_before(self) -> dict[str, StageResult]:
        """Stages whose files the training has, and states of the corpora that it has."""
        found = {**self.lineage.of("acquire"), **self.lineage.of("new_files")}
        for key in _standing(self.lineage, self.context.store, self.run_key):
            folder = self.context.store / "acquire" / key
            if (folder / "manifest.json").is_file():
                found[key] = StageResult.read(folder)
        return found

    def _cleaned(self, documents: StageResult) -> StageResult:
        """The new documents, cleaned as those before: by the models that were trained then, and
        without questions of benchmarks."""
        sources = tuple(path.stem for path in sorted(documents.folder.glob("*.jsonl")))
        config = self.config.clean
        before = self.lineage.first("clean").folder
        if not config.language_model.given and (before / "language_model").is_dir():
            own = replace(config.language_model, folder=str(before / "language_model"), texts=None)
            config = replace(config, language_model=own)
        models = sorted((before / "quality_model").glob("*.npz"))
        if models and config.quality.trains:
            quality = replace(
                config.quality, model=str(models[0]), positives=(), negatives=(), labels=()
            )
            config = replace(config, quality=quality)
        names = config.contamination.benchmarks
        removed = {n: b for n, b in self.pipeline.removed.items() if not names or n in names}
        if not removed:
            config = replace(config, contamination=NO_SEARCH)
        result = clean(
            replace(config, sources=sources, optional=sources),
            context=self.context,
            label="new",
            normalized=documents,
            benchmarks=removed or None,
        )
        enforce(result, self.config.clean)
        return result


def _summary(
    config: PipelineConfig,
    store: Path,
    run: PretrainingRun,
    acquired: str,
    packed: StageResult | None,
    result: RequestResult | None,
) -> dict[str, Any]:
    counts = packed.manifest["counts"] if packed is not None else {}
    found = {
        "name": config.name,
        "store": str(store),
        "run": run.key,
        "corpora": acquired,
        "packed": str(packed.folder) if packed is not None else None,
        "documents": counts.get("documents", 0),
        "tokens": counts.get("tokens", 0),
        "samples": result.num_samples if result is not None else 0,
        "status": result.status if result is not None else NOTHING,
        "total_steps": result.total_steps if result is not None else None,
    }
    if packed is not None:
        row = {key: found[key] for key in ("run", "documents", "tokens", "samples", "status")}
        publish_artifact(
            run_logger(),
            "table",
            key="refresh",
            table=[row],
            description="New part of the corpora, appended to the pretraining",
        )
    return found
