"""Clean the corpora with Data-Juicer, and account for every document lost.

    normalized/<source>.jsonl ──┬─ text sources ─▶ process: recipe `text` ─┬─▶ <source>.jsonl
                                └─ code sources ─▶ process: recipe `code` ─┘   ledger, examples

Text and code run at the same time, each in a process of its own (tasks/_juicer), which can be
killed, and in which Data-Juicer can neither download nor install anything. A finished kind is not
cleaned again after an interruption.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model import errors
from model.errors import ConfigError, DataError, StageError, SteelError
from tasks._corpora import corpus
from tasks._disk import require_free_space, total_bytes
from tasks._files import complete_file, json_line
from tasks._juicer import recipe as recipes
from tasks._juicer.job import Job, write_job
from tasks._juicer.lm_config import LanguageModelConfig, find_language_model
from tasks._manifest import write_json
from tasks._recipes import RECIPES, ROOT, display, recipe_path, resolve
from tasks._stage import StageResult, StageRun, stage

KINDS = ("text", "code")
POLL_SECONDS = 0.2
LOG_TAIL = 30


@dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """Which recipes, and what they need."""

    text: str = "text"
    """Recipe for text (data_recipes/clean/<name>.yaml; the paper's is `text`, Table 7)."""
    code: str = "code"
    """Recipe for code (the paper's is `code`, Table 8)."""
    language_model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    """The model that measures perplexity."""
    tokenizer: str = "auto"
    """Tokenizer whose tokens the code recipe counts: "auto", "package", a folder or a hub id."""
    examples: int = 3
    """Examples of dropped and of changed documents kept per operator and source; 0 or more."""

    def recipe_files(self) -> list[Path]:
        """The two recipes, and the corpora's, which say what is text and what is code."""
        clean = [recipe_path("clean", name) for name in (self.text, self.code)]
        bases = sorted((RECIPES / "clean").glob("*.yaml"))
        return sorted({*clean, *bases, *(RECIPES / "corpora").glob("*.yaml")})

    def fingerprint(self) -> Any:
        """What a given language model's files look like."""
        if self.language_model.folder is None:
            return None
        files = sorted(resolve(self.language_model.folder).glob("*"))
        return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]

    def recipe_of(self, kind: str) -> str:
        """The name of the recipe for a kind of source."""
        return self.text if kind == "text" else self.code


def check(config: CleanConfig) -> None:
    """Raise ConfigError for a wrong recipe or a missing package, DataError for a missing model."""
    if config.examples < 0:
        raise ConfigError(f"clean.examples must be 0 or more (got {config.examples})")
    config.language_model.check()
    loaded = [recipes.load(config.recipe_of(kind)) for kind in KINDS]
    recipes.require_packages(loaded)
    for recipe in loaded:
        if recipe.needs_language_model and config.language_model.folder is not None:
            (language,) = recipe.languages
            find_language_model(resolve(config.language_model.folder), language)


@stage(version=1)
def clean(run: StageRun, config: CleanConfig, *, normalized: StageResult) -> None:
    """Write `<source>.jsonl` for every source, `ledger.parquet`, `ledger.json` and
    `dropped-examples.jsonl`; the recipes as run stand beside them.

    Raises DataError when a source loses every document.
    """
    check(config)
    files = {path.stem: path for path in sorted(normalized.folder.glob("*.jsonl"))}
    if not files:
        raise DataError(f"Nothing to clean: {display(normalized.folder)} holds no source")
    # Spooled texts and the kept ones lie beside each other until a kind is finished.
    require_free_space(run.folder, 3 * total_bytes(files.values()), "clean")
    kinds: dict[str, dict[str, Path]] = {kind: {} for kind in KINDS}
    for source, path in files.items():
        kinds[corpus(source).kind][source] = path
    _run_children(run, config, {kind: inputs for kind, inputs in kinds.items() if inputs})
    used = [kind for kind in KINDS if kinds[kind]]
    _account(run, config, used)
    _keep_language_models(run, used)


def _run_children(
    run: StageRun, config: CleanConfig, kinds: Mapping[str, Mapping[str, Path]]
) -> None:
    """One process per kind, all at once; the first failure ends the others."""
    with ExitStack() as stack:
        children: dict[str, subprocess.Popen[bytes]] = {}
        for kind, inputs in kinds.items():
            if _ledger_file(run, kind).exists():
                run.log.info("%s was cleaned before the interruption", kind)
                continue
            children[kind] = _start(run, config, kind, inputs)
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


def _start(
    run: StageRun, config: CleanConfig, kind: str, inputs: Mapping[str, Path]
) -> "subprocess.Popen[bytes]":
    scratch = run.scratch / kind
    models = scratch / "models"
    for folder in (scratch / "spool", scratch / "cache", models):
        folder.mkdir(parents=True, exist_ok=True)
    recipe = recipes.load(config.recipe_of(kind))
    recipe.write_resolved(
        run.folder / f"recipe-{kind}.yaml",
        dataset=Path(f"{kind}.jsonl"), export=Path(f"{kind}-cleaned.jsonl"),
    )  # fmt: skip
    language_model = config.language_model
    if recipe.needs_language_model and language_model.folder is not None:
        (language,) = recipe.languages
        for file in find_language_model(resolve(language_model.folder), language):
            (models / file.name).unlink(missing_ok=True)
            (models / file.name).symlink_to(file)
    job = Job(
        kind=kind, recipe=recipe.path.stem, inputs={s: str(p) for s, p in inputs.items()},
        output=str(run.folder), ledger=str(_ledger_file(run, kind)),
        spool=str(scratch / "spool"), models=str(models), language_model=asdict(language_model),
        tokenizer=config.tokenizer, examples=config.examples,
    )  # fmt: skip
    path = scratch / "job.json"
    for left in ("job.error", "job.progress"):
        (scratch / left).unlink(missing_ok=True)
    write_job(job, path)
    with (scratch / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tasks._juicer", str(path)],
            cwd=ROOT, env=_environment(scratch / "cache"), stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def _environment(cache: Path) -> dict[str, str]:
    """Variables that keep Data-Juicer off the network and out of the home folder."""
    return os.environ | {
        "HF_HUB_OFFLINE": "1",
        "UV_OFFLINE": "1",
        "UV_NO_INDEX": "1",
        "UV_CACHE_DIR": str(cache / "uv"),
        "PIP_NO_INDEX": "1",
        "DATA_JUICER_CACHE_HOME": str(cache / "data_juicer"),
        "HF_DATASETS_CACHE": str(cache / "datasets"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }


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


def _account(run: StageRun, config: CleanConfig, kinds: list[str]) -> None:
    """Merge the ledgers, publish them, and refuse a source that lost everything."""
    ledgers = [json.loads(_ledger_file(run, kind).read_text("utf-8")) for kind in kinds]
    rows = [row for ledger in ledgers for row in ledger["rows"]]
    dropped = [example for ledger in ledgers for example in ledger["dropped"]]
    statistics = [row for ledger in ledgers for row in ledger["statistics"]]
    totals = _totals(rows)
    with complete_file(run.folder / "ledger.parquet") as file:
        pq.write_table(pa.Table.from_pylist(rows), file)
    write_json(
        run.folder / "ledger.json",
        {
            "sources": totals, "rows": rows, "statistics": statistics,
            "changed_examples": [e for ledger in ledgers for e in ledger["changed"]],
        },
    )  # fmt: skip
    with complete_file(run.folder / "dropped-examples.jsonl") as file:
        for example in dropped:
            file.write(json_line(example))
    run.table("attrition", _attrition(rows), "Documents that each operator dropped, by source")
    run.table("cleaned", totals, "Documents and bytes before and after cleaning")
    for total in totals:
        if not total["documents_kept"]:
            raise _lost(total, rows, config)
    run.count(
        documents_in=sum(t["documents_in"] for t in totals),
        documents_kept=sum(t["documents_kept"] for t in totals),
        bytes_in=sum(t["bytes_in"] for t in totals),
        bytes_kept=sum(t["bytes_kept"] for t in totals),
        documents_failed=sum(row["documents_failed"] for row in rows),
    )
    run.note(
        sources={t["source"]: t for t in totals},
        recipes={kind: config.recipe_of(kind) for kind in kinds},
        **{key: value for ledger in ledgers for key, value in ledger["notes"].items()},
    )


def _totals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per source: what came in at the first operator, what left the last."""
    totals: dict[str, dict[str, Any]] = {}
    for row in rows:
        total = totals.setdefault(
            row["source"],
            {"source": row["source"], "kind": row["kind"], "documents_in": row["documents_in"],
             "bytes_in": row["bytes_in"]},
        )  # fmt: skip
        total["documents_kept"], total["bytes_kept"] = row["documents_kept"], row["bytes_kept"]
    for total in totals.values():
        total["kept_percent"] = round(
            100 * total["documents_kept"] / max(1, total["documents_in"]), 1
        )
    return list(totals.values())


def _attrition(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The operators that changed or dropped something, one row each, a column per source."""
    table: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        line = table.setdefault(
            (row["kind"], row["position"]),
            {"kind": row["kind"], "operator": row["operator"], "in": 0, "changed": 0, "dropped": 0},
        )
        line["in"] += row["documents_in"]
        line["changed"] += row["documents_changed"]
        line["dropped"] += row["documents_dropped"]
    sources = list(dict.fromkeys(row["source"] for row in rows))
    for row in rows:
        table[row["kind"], row["position"]][row["source"]] = row["documents_dropped"]
    blank = dict.fromkeys(("kind", "operator", "in", "changed", "dropped", *sources), "")
    return [blank | line for line in table.values()]


def _lost(total: dict[str, Any], rows: list[dict[str, Any]], config: CleanConfig) -> DataError:
    source = total["source"]
    droppers = sorted(
        (row for row in rows if row["source"] == source and row["documents_dropped"]),
        key=lambda row: -row["documents_dropped"],
    )
    where = ", ".join(f"{row['operator']} {row['documents_dropped']}" for row in droppers[:4])
    recipe = display(recipe_path("clean", config.recipe_of(total["kind"])))
    return DataError(
        f"Corpus {source!r} is empty after cleaning: all {total['documents_in']} documents were "
        f"dropped ({where}). Loosen these operators in {recipe}, name another recipe as "
        f"clean.{total['kind']}, or leave the corpus out."
    )
