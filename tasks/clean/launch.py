"""A process for each kind of source: started, watched, and ended with the first that fails."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import errors
from common.errors import StageError, SteelError
from common.paths import ROOT, display
from corpus.cleaning import offline
from corpus.cleaning import recipe as recipes
from corpus.cleaning.job import Job, write_job
from corpus.cleaning.language_model.config import find_language_model
from tasks.core.stage import StageRun

if TYPE_CHECKING:
    from tasks.clean import CleanConfig

POLL_SECONDS = 0.2
LOG_TAIL = 30


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
        children: dict[str, subprocess.Popen[bytes]] = {}
        for kind, inputs in kinds.items():
            if _ledger_file(run, kind).exists():
                run.log.info("%s was cleaned before the interruption", kind)
                continue
            children[kind] = _start(run, config, kind, inputs, index, workers)
            stack.callback(_end, children[kind])
        while children:
            for kind, child in list(children.items()):
                if (status := child.poll()) is None:
                    continue
                del children[kind]
                if status != 0:
                    raise _failure(run, kind, status)
            _show_progress(run, list(kinds))
            time.sleep(POLL_SECONDS)
    _keep_language_models(run, list(kinds))
    return [json.loads(_ledger_file(run, kind).read_text("utf-8")) for kind in kinds]


def _start(
    run: StageRun,
    config: "CleanConfig",
    kind: str,
    inputs: Mapping[str, Path],
    index: Path | None,
    workers: int,
) -> "subprocess.Popen[bytes]":
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
    job = Job(
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
    for left in ("job.error", "job.progress"):
        (scratch / left).unlink(missing_ok=True)
    write_job(job, path)
    with (scratch / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "corpus.cleaning", str(path)],
            cwd=ROOT,
            env=_environment(scratch / "cache"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


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


def _end(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _show_progress(run: StageRun, kinds: list[str]) -> None:
    done = total = 0
    words = []
    for kind in kinds:
        try:
            at, of, what = json.loads((run.scratch / kind / "job.progress").read_text("utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            continue
        done, total = done + at, total + of
        words.append(f"{kind}: {what}")
    if total:
        run.progress(done, total, "; ".join(words))


def _failure(run: StageRun, kind: str, status: int) -> SteelError:
    """The error a child left for the user, or the end of its log."""
    scratch = run.scratch / kind
    try:
        left = json.loads((scratch / "job.error").read_text("utf-8"))
    except FileNotFoundError:
        log = (scratch / "log").read_text("utf-8", "replace").splitlines()
        tail = "\n".join(log[-LOG_TAIL:])
        return StageError(
            f"Cleaning the {kind} sources ended with status {status} "
            f"(log {display(scratch / 'log')}):\n{tail}"
        )
    kind_of_error = getattr(errors, left["type"], StageError)
    assert issubclass(kind_of_error, SteelError)
    return kind_of_error(left["message"])


def _keep_language_models(run: StageRun, kinds: list[str]) -> None:
    """Publish what was trained: it explains the perplexities, and other corpora may use it."""
    for kind in kinds:
        for file in (run.scratch / kind / "models").glob("*.*"):
            if file.is_file() and not file.is_symlink():
                folder = run.folder / "language_model" / kind
                folder.mkdir(parents=True, exist_ok=True)
                file.replace(folder / file.name)
