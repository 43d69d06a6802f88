"""The process that cleans all sources: started, watched, and ended if it fails."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.child import Child, python
from common.files import write_json
from corpus.cleaning import offline
from corpus.cleaning import recipe as recipes
from corpus.cleaning.job import CleanJob, FamilyJob
from corpus.cleaning.language_model.config import find_language_model
from corpus.cleaning.prepare import QUALITY_MODEL
from corpus.cleaning.quality.config import find_quality_model
from corpus.recipes import Family
from tasks.core.stage import StageRun

if TYPE_CHECKING:
    from tasks.clean import CleanConfig

POLL_SECONDS = 0.2


def clean_families(
    run: StageRun,
    config: "CleanConfig",
    families: Mapping[Family, Mapping[str, Path]],
    index: Path | None,
    workers: int,
) -> dict[str, Any]:
    """Clean all sources, given by family. Returns the ledger.

    What was finished before an interruption is not cleaned again.
    """
    ledger = run.scratch / "ledger.json"
    if ledger.exists():
        run.log.info("all sources were cleaned before the interruption")
    else:
        with _start(run, config, families, index, workers, ledger) as child:
            while child.poll() is None:
                if at := child.progress():
                    run.progress(at.done, at.total, at.what)
                time.sleep(POLL_SECONDS)
            if child.poll():
                raise child.failure("Cleaning")
    _keep_models(run)
    return dict(json.loads(ledger.read_text("utf-8")))


def _start(
    run: StageRun,
    config: "CleanConfig",
    families: Mapping[Family, Mapping[str, Path]],
    index: Path | None,
    workers: int,
    ledger: Path,
) -> Child:
    models = run.scratch / "models"
    for folder in (run.scratch / "work", run.scratch / "cache", models):
        folder.mkdir(parents=True, exist_ok=True)
    given: set[str] = set()
    for family in families:
        recipe = recipes.load(config.recipe_of(family))
        recipe.write_resolved(
            run.folder / f"recipe-{family}.yaml",
            dataset=Path(f"{family}.jsonl"),
            export=Path(f"{family}-cleaned.jsonl"),
        )
        given |= recipe.languages if config.language_model.given else set()
    for language in given:
        for file in find_language_model(config.language_model, language):
            (models / file.name).unlink(missing_ok=True)
            (models / file.name).symlink_to(file.resolve())
    if (path := find_quality_model(config.quality)) is not None:
        (models / QUALITY_MODEL).mkdir(exist_ok=True)
        link = models / QUALITY_MODEL / f"given{path.suffix}"
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
    job = CleanJob(
        families={
            family: FamilyJob(
                recipe=config.recipe_of(family), inputs={s: str(p) for s, p in inputs.items()}
            )
            for family, inputs in families.items()
        },
        output=str(run.folder),
        ledger=str(ledger),
        scratch=str(run.scratch / "work"),
        models=str(models),
        language_model=asdict(config.language_model),
        tokenizer=config.tokenizer,
        examples=config.examples,
        partition_bytes=config.partition_bytes,
        workers=workers,
        contamination=str(index or ""),
        contamination_action=config.contamination.action,
        executor=config.executor,
        ray=asdict(config.ray),
        quality=asdict(config.quality),
        cache=str(run.cache),
    )
    path = run.scratch / "job.json"
    write_json(path, asdict(job))
    return Child(python("corpus.cleaning", path), path, env=_environment(run.scratch / "cache"))


def _environment(cache: Path) -> dict[str, str]:
    """Variables that keep Data-Juicer off the network and out of the home folder."""
    folders = {
        "UV_CACHE_DIR": cache / "uv",
        "DATA_JUICER_CACHE_HOME": cache / "data_juicer",
        "HF_DATASETS_CACHE": cache / "datasets",
    }
    return os.environ | offline.VARIABLES | {name: str(path) for name, path in folders.items()}


def _keep_models(run: StageRun) -> None:
    """Publish what was trained: it explains the numbers, and other corpora may use it."""
    models = run.scratch / "models"
    for pattern, name in (("*.*", "language_model"), (f"{QUALITY_MODEL}/*.npz", "quality_model")):
        for file in models.glob(pattern):
            if file.is_file() and not file.is_symlink():
                (run.folder / name).mkdir(parents=True, exist_ok=True)
                file.replace(run.folder / name / file.name)
