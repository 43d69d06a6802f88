"""A process for each kind of source: started, watched, and ended with the first that fails."""

import json
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.child import Child, python
from common.files import write_json
from corpus.cleaning import offline
from corpus.cleaning import recipe as recipes
from corpus.cleaning.job import CleanJob
from corpus.cleaning.language_model.config import find_language_model
from tasks.core.stage import StageRun

if TYPE_CHECKING:
    from tasks.clean import CleanConfig

POLL_SECONDS = 0.2


def clean_kinds(
    run: StageRun,
    config: "CleanConfig",
    kinds: Mapping[str, Mapping[str, Path]],
    index: Path | None,
    workers: int,
) -> list[dict[str, Any]]:
    """Clean text and code at the same time. Returns each kind's ledger.

    A kind that was finished before an interruption is not cleaned again.
    """
    with ExitStack() as stack:
        children: dict[str, Child] = {}
        for kind, inputs in kinds.items():
            if _ledger_file(run, kind).exists():
                run.log.info("%s was cleaned before the interruption", kind)
                continue
            child = _start(run, config, kind, inputs, index, workers)
            children[kind] = stack.enter_context(child)
        while any(child.poll() is None for child in children.values()):
            _raise_failure(children)
            _show_progress(run, children)
            time.sleep(POLL_SECONDS)
        _raise_failure(children)
    _keep_language_models(run, list(kinds))
    return [json.loads(_ledger_file(run, kind).read_text("utf-8")) for kind in kinds]


def _start(
    run: StageRun,
    config: "CleanConfig",
    kind: str,
    inputs: Mapping[str, Path],
    index: Path | None,
    workers: int,
) -> Child:
    scratch = run.scratch / kind
    models = scratch / "models"
    for folder in (scratch / "work", scratch / "cache", models):
        folder.mkdir(parents=True, exist_ok=True)
    recipe = recipes.load(config.recipe_of(kind))
    recipe.write_resolved(
        run.folder / f"recipe-{kind}.yaml",
        dataset=Path(f"{kind}.jsonl"),
        export=Path(f"{kind}-cleaned.jsonl"),
    )
    if recipe.needs_language_model and config.language_model.given:
        (language,) = recipe.languages
        for file in find_language_model(config.language_model, language):
            (models / file.name).unlink(missing_ok=True)
            (models / file.name).symlink_to(file.resolve())
    job = CleanJob(
        kind=kind,
        recipe=recipe.path.stem,
        inputs={s: str(p) for s, p in inputs.items()},
        output=str(run.folder),
        ledger=str(_ledger_file(run, kind)),
        scratch=str(scratch / "work"),
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
    )
    path = scratch / "job.json"
    write_json(path, asdict(job))
    return Child(python("corpus.cleaning", path), path, env=_environment(scratch / "cache"))


def _environment(cache: Path) -> dict[str, str]:
    """Variables that keep Data-Juicer off the network and out of the home folder."""
    folders = {
        "UV_CACHE_DIR": cache / "uv",
        "DATA_JUICER_CACHE_HOME": cache / "data_juicer",
        "HF_DATASETS_CACHE": cache / "datasets",
    }
    return os.environ | offline.VARIABLES | {name: str(path) for name, path in folders.items()}


def _ledger_file(run: StageRun, kind: str) -> Path:
    return run.scratch / f"ledger-{kind}.json"


def _raise_failure(children: Mapping[str, Child]) -> None:
    """Raise the error of the first child that has failed."""
    for kind, child in children.items():
        if child.poll():
            raise child.failure(f"Cleaning the {kind} sources")


def _show_progress(run: StageRun, children: Mapping[str, Child]) -> None:
    """Report the sum of what the children have reported."""
    found = [(kind, at) for kind, child in children.items() if (at := child.progress())]
    if total := sum(at.total for _, at in found):
        what = "; ".join(f"{kind}: {at.what}" for kind, at in found)
        run.progress(sum(at.done for _, at in found), total, what)


def _keep_language_models(run: StageRun, kinds: list[str]) -> None:
    """Publish what was trained: it explains the perplexities, and other corpora may use it."""
    for kind in kinds:
        for file in (run.scratch / kind / "models").glob("*.*"):
            if file.is_file() and not file.is_symlink():
                folder = run.folder / "language_model" / kind
                folder.mkdir(parents=True, exist_ok=True)
                file.replace(folder / file.name)
