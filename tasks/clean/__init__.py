"""Clean the corpora with Data-Juicer, with a trace of every document.

    normalized/<source>.jsonl ──┬─ web ──────────▶ curated/web ──────────┬─▶ <source>/<number>.jsonl
    benchmarks (their questions)┤─ encyclopedia ─▶ curated/encyclopedia ─┤   documents/, ledger,
                                └─ …               a recipe each         ┘   attrition.png, …

    launch.py     the process that cleans all sources (corpus/cleaning), which can install nothing
    report.py     the cleaning report and its gates (`max_drop`, `max_drop_bytes`) as artifacts
    picture.py    the attrition, drawn

A corpus is cleaned in partitions. Finished partitions are not cleaned again after an interruption,
and the result depends neither on the number of workers nor on when they were killed.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from common.config import NOT_IN_KEY, StageConfig, errors_of
from common.disk import require_free_space, total_bytes
from common.errors import ConfigError, DataError, SteelError, shown
from common.names import Name
from common.paths import RECIPES, display, resolve
from common.ranges import Ge, Limit
from corpus.cleaning import gates
from corpus.cleaning import recipe as recipes
from corpus.cleaning.language_model.config import LanguageModelConfig, find_language_model
from corpus.cleaning.quality.config import QualityConfig, find_quality_model
from corpus.cleaning.ray.plan import RayConfig
from corpus.cleaning.recipe import Recipe
from corpus.cleaning.recipe_sets import RecipeName, has_set, recipe_of
from corpus.decontaminate import (
    ContaminationConfig,
    cached_index,
    describe_bad_rows,
    describe_index,
)
from corpus.recipes import FAMILIES, Family, corpus
from tasks.clean.launch import clean_families
from tasks.clean.report import enforce_gates, publish_report
from tasks.core.stage import StageResult, StageRun, plain, stage

COPIES = 4
"""Times that a corpus is on the disk while it is cleaned: filtered, kept, traces of its documents,
and room for texts that grow."""
MEGABYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class CleanConfig(StageConfig):
    """The cleaning recipes, and the models that they need."""

    RENAMED: ClassVar[Mapping[str, str]] = {"text": "recipes", "code": "family_recipes.code"}
    RENAMED_VALUES: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "text": {"text": "paper", "text-repaired": "repaired"},
        "code": {"code": "paper/code", "code-repaired": "repaired/code"},
    }

    recipes: Name = "curated"
    """Set of recipes, a file for each family of sources (data_recipes/clean/<set>/<family>.yaml;
    where a family of text has none, `text.yaml`). The paper's own is `paper` (Tables 7 and 8)."""
    family_recipes: dict[Family, RecipeName] = field(default_factory=dict)
    """Recipes of single families that take another one than the set's: family -> `<set>/<file>`,
    as in {web: mine/web}."""
    language_model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    """The model that measures perplexity."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    """The model that scores web pages."""
    tokenizer: str = "auto"
    """Tokenizer whose tokens the code recipe counts: "auto", "package", a folder or a hub id."""
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)
    """Treatment of documents that contain questions of the benchmarks under `decontaminate`."""
    max_drop: gates.MaxDrop = field(
        default_factory=lambda: {"*": {"total": 0.95}}, metadata=NOT_IN_KEY
    )
    """Attrition gates: source -> operator -> largest share of documents that it may drop, 0 to 1.
    `*` stands for every source or operator, `total` for a whole recipe; the narrowest one counts.
    A flow fails at an exceeded gate; the cleaned corpus stays and serves once the gate is moved."""
    max_drop_bytes: gates.MaxDrop = field(default_factory=dict, metadata=NOT_IN_KEY)
    """The same for shares of bytes: those of dropped documents, and those that operators take out
    of documents that they keep."""
    examples: Annotated[int, Ge(0), Limit(10**6)] = field(default=5, metadata=NOT_IN_KEY)
    """Documents in the sample for review, taken at random: of each operator and source those it
    dropped and those it changed, and of each source those that were kept; 0 or more."""
    partition_bytes: Annotated[int, Ge(MEGABYTE), Limit(10**12)] = 64 * MEGABYTE
    """Bytes of normalised text in a partition, which is cleaned as a whole; 1 MiB or more."""
    workers: Annotated[int, Ge(0), Limit(4096)] = field(default=0, metadata=NOT_IN_KEY)
    """Worker processes; 0: one for each core. Each needs about 0.5 GB beside what they share."""
    executor: Literal["local", "ray"] = "local"
    """local: this machine's cores; ray: Data-Juicer's Ray executor, on a cluster. There MinHash
    looks for near-duplicates instead of SimHash (docs/FOOTGUNS.md)."""
    optional: tuple[Name, ...] = field(default=(), metadata=NOT_IN_KEY)
    """Corpora that may keep no document, beside those whose recipe says so; a pipeline sets it."""
    sources: tuple[Name, ...] = field(default=(), metadata=NOT_IN_KEY)
    """Corpora that are cleaned, whose families decide which recipes are in the key; a pipeline
    sets it. Empty: any."""
    ray: RayConfig = field(default_factory=RayConfig, metadata=NOT_IN_KEY)
    """The cluster."""

    def recipe_files(self) -> list[Path]:
        """Own operators of the recipes, and the rules, words and model that judge pages."""
        own = {file for one in self._used().values() for file in one.custom_operator_files}
        quality = RECIPES / "quality"
        return sorted({*own, *quality.glob("*.yaml"), *quality.glob("*.npz")})

    def _used(self) -> dict[str, Recipe]:
        """Family -> its recipe, of the families that are cleaned."""
        names = self.recipe_names()
        used = {corpus(source).family for source in self.sources} if self.sources else {*names}
        return {family: recipes.load(name) for family, name in names.items() if family in used}

    def fingerprint(self) -> Any:
        """The recipes as they are run, and names, sizes and times of given models' files, or of
        the texts that they learn from."""
        run = {family: plain(recipe.data) for family, recipe in self._used().items()}
        return [run, self._given_files()]

    def _given_files(self) -> Any:
        config = self.language_model
        files: list[Path] = []
        if config.folder is not None:
            files = sorted(resolve(config.folder).glob("*"))
        elif config.texts is not None:
            files = config.text_files()
        files += self.quality.given_files()
        return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files] or None

    def recipe_of(self, family: Family) -> str:
        """The name of the recipe for a family of sources. Raises ConfigError if there is none."""
        return self.family_recipes.get(family) or recipe_of(self.recipes, family)

    def recipe_names(self) -> dict[str, str]:
        """Family -> name of its recipe; families for which there is none are left out."""
        names: dict[str, str] = {}
        for family in FAMILIES:
            with contextlib.suppress(ConfigError):
                names[family] = self.recipe_of(family)
        return names

    def _loaded(self) -> list[Recipe]:
        return [recipes.load(name) for name in dict.fromkeys(self.recipe_names().values())]

    def check(self) -> Iterator[SteelError]:
        try:
            loaded = self._loaded() or [recipes.load(recipe_of(self.recipes, "web"))]
        except SteelError as error:
            yield error
            return
        yield from errors_of(recipes.require_packages, loaded)
        yield from gates.problems(self.max_drop, loaded)
        yield from gates.problems(self.max_drop_bytes, loaded, "bytes")
        if self.language_model.given:
            for language in sorted({name for one in loaded for name in one.languages}):
                yield from errors_of(find_language_model, self.language_model, language)

        if any(one.judges_quality for one in loaded):
            yield from errors_of(find_quality_model, self.quality)
        if self.executor == "ray" and self.quality.drop_shares:
            yield ConfigError(
                "quality.drop_shares needs bounds by source, which Data-Juicer's Ray executor does "
                "not see. Clean with `executor: local`, or set the recipe's `min_score`."
            )

    def check_sources(self, sources: Iterable[str]) -> Iterator[SteelError]:
        """Yield an error for each family of these corpora that the set has no recipe for, and for
        each source of `quality.drop_shares` that no model scores."""
        if not has_set(self.recipes):  # `check` says so
            return
        families: dict[Family, None] = {}
        sources = list(sources)
        for source in sources:
            with contextlib.suppress(SteelError):  # a corpus without a recipe is said elsewhere
                families[corpus(source).family] = None
        for family in families:
            yield from errors_of(self.recipe_of, family)
        scored = [family for family in families if self._judges_quality(family)]
        for source in self.quality.drop_shares:
            if source not in sources or corpus(source).family not in scored:
                yield ConfigError(
                    f"quality.drop_shares names {shown(source)}, of which no page is scored: it is "
                    "no source of this pipeline, or the recipe of its family has no quality_filter"
                )

    def _judges_quality(self, family: Family) -> bool:
        with contextlib.suppress(SteelError):  # said by `check`
            return recipes.load(self.recipe_of(family)).judges_quality
        return False


@stage(version=6, keeps="finished partitions")
def clean(
    run: StageRun,
    config: CleanConfig,
    *,
    normalized: StageResult,
    benchmarks: Mapping[str, StageResult] | None = None,
) -> None:
    """Write `<source>/<number>.jsonl` for every source, the cleaning report, the recipes as run.

    Args:
        normalized: `<source>.jsonl` for every source.
        benchmarks: those whose questions are taken out of the corpora, by name.

    Raises:
        DataError: a source that keeps no document; a full disk.
    """
    files = {path.stem: path for path in sorted(normalized.folder.glob("*.jsonl"))}
    if not files:
        raise DataError(f"Nothing to clean: {display(normalized.folder)} holds no source")
    require_free_space(run.folder, COPIES * total_bytes(files.values()), "clean")
    families: dict[Family, dict[str, Path]] = {family: {} for family in FAMILIES}
    for source, path in files.items():
        families[corpus(source).family][source] = path
    used = {family: inputs for family, inputs in families.items() if inputs}
    index = _index(run, config, benchmarks)
    ledger = clean_families(run, config, used, index, config.workers or os.cpu_count() or 1)
    optional = {name for name in files if name in config.optional or corpus(name).optional}
    publish_report(run, ledger, config.recipe_names(), optional)


def _index(
    run: StageRun, config: CleanConfig, benchmarks: Mapping[str, StageResult] | None
) -> Path | None:
    """Path of the index of the benchmarks' questions; None if they are not looked for."""
    if not benchmarks or config.contamination.action == "off":
        return None
    folder = run.linked("benchmarks", benchmarks)
    index, path = cached_index(folder, (), config.contamination, run.cache)
    run.note(contamination_index=describe_index(index))
    if bad_rows := describe_bad_rows(index):
        run.log.warning("%s", bad_rows)
    return path


def enforce(cleaned: StageResult, config: CleanConfig) -> None:
    """Stop the flow if cleaning dropped more than its gates allow."""
    limits: dict[gates.Unit, gates.MaxDrop] = {
        "documents": config.max_drop,
        "bytes": config.max_drop_bytes,
    }
    enforce_gates(cleaned, limits, config.recipe_names())


__all__ = ["CleanConfig", "clean", "enforce"]
