"""Clean the corpora with Data-Juicer, with a trace of every document.

    normalized/<source>.jsonl ──┬─ text ─▶ recipe `text-repaired` ─┬─▶ <source>/<number>.jsonl
    benchmarks (their questions)┤                                  │   documents/, ledger,
                                └─ code ─▶ recipe `code-repaired` ─┘   attrition.png, …

    launch.py     a process for each kind of source (corpus/cleaning), which can install nothing
    report.py     the cleaning report and its gates (`max_drop`) as artifacts
    picture.py    the attrition, drawn

A corpus is cleaned in partitions. Finished partitions are not cleaned again after an interruption,
and the result depends neither on the number of workers nor on when they were killed.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from common.config import NOT_IN_KEY, StageConfig, errors_of
from common.disk import require_free_space, total_bytes
from common.errors import DataError, SteelError
from common.names import Name
from common.paths import RECIPES, display, resolve
from common.ranges import Ge, Limit
from corpus.cleaning import gates
from corpus.cleaning import recipe as recipes
from corpus.cleaning.language_model.config import LanguageModelConfig, find_language_model
from corpus.cleaning.ray.plan import RayConfig
from corpus.decontaminate import ContaminationConfig, build_index, describe_bad_rows, describe_index
from corpus.recipes import corpus
from tasks.clean.launch import clean_kinds
from tasks.clean.report import enforce_gates, publish_report
from tasks.core.stage import StageResult, StageRun, stage

KINDS = ("text", "code")
COPIES = 4
"""Times that a corpus is on the disk while it is cleaned: filtered, kept, traces of its documents,
and room for texts that grow."""
MEGABYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class CleanConfig(StageConfig):
    """The cleaning recipes, and the models that they need."""

    text: Name = "text-repaired"
    """Recipe for text (data_recipes/clean/<name>.yaml); the paper's own is `text` (Table 7)."""
    code: Name = "code-repaired"
    """Recipe for code; the paper's own is `code` (Table 8)."""
    language_model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    """The model that measures perplexity."""
    tokenizer: str = "auto"
    """Tokenizer whose tokens the code recipe counts: "auto", "package", a folder or a hub id."""
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)
    """Treatment of documents that contain questions of the pipeline's benchmarks."""
    max_drop: gates.MaxDrop = field(
        default_factory=lambda: {"*": {"total": 0.95}}, metadata=NOT_IN_KEY
    )
    """Attrition gates: source -> operator -> largest share of documents that it may drop, 0 to 1.
    `*` stands for every source or operator, `total` for a whole recipe; the narrowest one counts.
    A flow fails at an exceeded gate; the cleaned corpus stays and serves once the gate is moved."""
    examples: Annotated[int, Ge(0), Limit(10**6)] = 3
    """Examples of dropped and of changed documents kept per operator and source; 0 or more."""
    partition_bytes: Annotated[int, Ge(MEGABYTE), Limit(10**12)] = 64 * MEGABYTE
    """Bytes of normalised text in a partition, which is cleaned as a whole; 1 MiB or more."""
    workers: Annotated[int, Ge(0), Limit(4096)] = field(default=0, metadata=NOT_IN_KEY)
    """Worker processes; 0: one for each core. Each needs about 0.5 GB beside what they share."""
    executor: Literal["local", "ray"] = "local"
    """local: this machine's cores; ray: Data-Juicer's Ray executor, on a cluster. There MinHash
    looks for near-duplicates instead of SimHash (docs/FOOTGUNS.md)."""
    ray: RayConfig = field(default_factory=RayConfig, metadata=NOT_IN_KEY)
    """The cluster."""

    def recipe_files(self) -> list[Path]:
        """All cleaning recipes, their operators, and the corpora's recipes: text or code."""
        loaded = [recipes.load(name) for name in (self.text, self.code)]
        own = {file for recipe in loaded for file in recipe.custom_operator_files}
        bases = (RECIPES / "clean").glob("*.yaml")
        return sorted({*bases, *own, *(RECIPES / "corpora").glob("*.yaml")})

    def fingerprint(self) -> Any:
        """Names, sizes and times of a given language model's files, or of its training texts."""
        config = self.language_model
        files: list[Path] = []
        if config.folder is not None:
            files = sorted(resolve(config.folder).glob("*"))
        elif config.texts is not None:
            files = config.text_files()
        return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files] or None

    def recipe_of(self, kind: str) -> str:
        """The name of the recipe for a kind of source."""
        return self.text if kind == "text" else self.code

    def check(self) -> Iterator[SteelError]:
        try:
            loaded = [recipes.load(self.recipe_of(kind)) for kind in KINDS]
        except SteelError as error:
            yield error
            return
        yield from errors_of(recipes.require_packages, loaded)
        yield from gates.problems(self.max_drop, loaded)
        for recipe in loaded:
            if recipe.needs_language_model and self.language_model.given:
                (language,) = recipe.languages
                yield from errors_of(find_language_model, self.language_model, language)


@stage(version=2)
def clean(
    run: StageRun,
    config: CleanConfig,
    *,
    normalized: StageResult,
    benchmarks: StageResult | None = None,
) -> None:
    """Write `<source>/<number>.jsonl` for every source, the cleaning report, the recipes as run.

    Args:
        normalized: `<source>.jsonl` for every source.
        benchmarks: folders of the benchmarks whose questions must not be in the corpora.

    Raises:
        DataError: a source that keeps no document; a full disk.
    """
    files = {path.stem: path for path in sorted(normalized.folder.glob("*.jsonl"))}
    if not files:
        raise DataError(f"Nothing to clean: {display(normalized.folder)} holds no source")
    require_free_space(run.folder, COPIES * total_bytes(files.values()), "clean")
    kinds: dict[str, dict[str, Path]] = {kind: {} for kind in KINDS}
    for source, path in files.items():
        kinds[corpus(source).kind][source] = path
    used = {kind: inputs for kind, inputs in kinds.items() if inputs}
    index = _index(run, config, benchmarks)
    ledgers = clean_kinds(run, config, used, index, config.workers or os.cpu_count() or 1)
    publish_report(run, ledgers, _recipes(config))


def _index(run: StageRun, config: CleanConfig, benchmarks: StageResult | None) -> Path | None:
    """Path of the index of the benchmarks' questions; None if they are not looked for."""
    if benchmarks is None or config.contamination.action == "off":
        return None
    path = run.scratch / "questions.npz"
    index = build_index(benchmarks.folder, (), config.contamination)
    index.save(path)
    run.note(contamination_index=describe_index(index))
    if bad_rows := describe_bad_rows(index):
        run.log.warning("%s", bad_rows)
    return path


def enforce(cleaned: StageResult, config: CleanConfig) -> None:
    """Stop the flow if cleaning dropped more than `max_drop` allows."""
    enforce_gates(cleaned, config.max_drop, _recipes(config))


def _recipes(config: CleanConfig) -> dict[str, str]:
    """Kind of source -> name of its cleaning recipe."""
    return {kind: config.recipe_of(kind) for kind in KINDS}


__all__ = ["CleanConfig", "clean", "enforce"]
