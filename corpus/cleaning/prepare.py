"""Everything that the recipes' operators need, put in place before they are built."""

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.child import Report
from common.files import PARTIAL, complete_file, json_line, publish_folder
from common.paths import RECIPES
from corpus.cleaning import recipe
from corpus.cleaning.job import CleanJob
from corpus.cleaning.language_model.config import LanguageModelConfig
from corpus.cleaning.offline import PROXY_TOKENIZER, refuse_installs
from corpus.cleaning.quality.config import QualityConfig
from corpus.cleaning.recipe import QUALITY_FILTER, Recipe
from corpus.content_cache import code_digest, files_digest, library_versions, made_once
from corpus.recipes import Family

QUALITY_MODEL = "quality"
"""Folder of the model that judges web pages, in that of all models."""


def prepare(job: CleanJob, report: Report) -> tuple[dict[Family, Recipe], dict[str, Any]]:
    """Put the operators' models in place. Returns each family's recipe, and notes on the models."""
    report(0, 1, "loading operators")
    # Data-Juicer reads its environment while it is imported.
    os.environ["DATA_JUICER_EXTERNAL_MODELS_HOME"] = job.models
    refuse_installs()
    recipes: dict[Family, Recipe] = {}
    for family, one in job.families.items():
        loaded = recipe.load(one.recipe)
        if job.contamination:
            loaded = loaded.with_contamination_filter(job.contamination, job.contamination_action)
        loaded.import_custom_operators()
        recipes[family] = loaded
    notes: dict[str, Any] = {}
    if any(one.needs_tokenizer for one in recipes.values()):
        _place_tokenizer(job.tokenizer, Path(job.models) / PROXY_TOKENIZER)
    for language in sorted({name for one in recipes.values() for name in one.languages}):
        notes |= _language_model(job, recipes, language, report)
    if any(one.judges_quality for one in recipes.values()):
        arguments, more = _quality(job, recipes, report)
        recipes = {
            family: one.with_arguments(QUALITY_FILTER, **arguments)
            for family, one in recipes.items()
        }
        notes |= more
    return recipes, notes


def _mapper(
    recipes: Mapping[Family, Recipe],
) -> Callable[[tuple[Family, Sequence[str]]], list[str]]:
    """Texts of a family -> the same after the mappers that its recipe begins with."""
    from corpus.cleaning.engine import pipeline

    mappers = {}
    for family, one in recipes.items():
        leading = itertools.takewhile(lambda op: op.kind == "mapper", one.operators)
        mappers[family] = pipeline.build(leading)

    def mapped(group: tuple[Family, Sequence[str]]) -> list[str]:
        family, texts = group
        return list(pipeline.map_texts(mappers[family], texts))

    return mapped


def _language_model(
    job: CleanJob, recipes: Mapping[Family, Recipe], language: str, report: Report
) -> dict[str, Any]:
    """Train the model that measures perplexity, unless it is there. Returns notes on it.

    Each text goes through the mappers of its own family first, texts from outside of the pipeline
    through those of the first family that needs the model.
    """
    from corpus.cleaning.engine.workers import map_in_workers
    from corpus.cleaning.language_model import build as language_model

    config = LanguageModelConfig(**job.language_model)
    models = Path(job.models)
    about = models / f"{language}.json"
    if config.given or about.exists():
        return json.loads(about.read_text("utf-8")) if about.exists() else {}
    report(0, 1, "training the language model")
    in_need = next(family for family, one in recipes.items() if language in one.languages)
    inputs = {s: path for s, path in job.inputs.items() if job.family_of[s] != "code"}
    inputs, family_of = inputs or job.inputs, job.family_of

    def make() -> list[str]:
        found = language_model.training_texts(inputs, config)
        groups = _groups((family_of.get(source, in_need), text) for source, text in found)
        mapped = map_in_workers(_mapper(recipes), groups, job.workers, lambda: None)
        texts = itertools.chain.from_iterable(mapped)
        notes = {"language_model": language_model.train(texts, models, language, config)}
        with complete_file(about) as file:
            file.write(json_line(notes))
        return [about.name, *(file.name for file in sorted(models.glob(f"{language}.*.*")))]

    if job.cache:
        digest = hashlib.sha256()
        for source, text in language_model.training_texts(inputs, config):
            digest.update(json_line([family_of.get(source, in_need), text]))
        settings = dataclasses.asdict(config) | {"language": language}
        material = [settings, digest.hexdigest(), _mappers_and_code(recipes)]
        made_once(Path(job.cache), "language-model", material, models, make)
    else:
        make()
    return dict(json.loads(about.read_text("utf-8")))


def _mappers_and_code(recipes: Mapping[Family, Recipe]) -> list[Any]:
    """All that decides about what mappers make of a text, and a model of texts."""
    leading = {
        family: [op.key for op in itertools.takewhile(lambda op: op.kind == "mapper", r.operators)]
        for family, r in recipes.items()
    }
    own = sorted({file for one in recipes.values() for file in one.custom_operator_files})
    judged = sorted((RECIPES / "quality").glob("*.*"))
    versions = {"python": sys.version, **library_versions()}
    return [leading, files_digest([*own, *judged]), code_digest("corpus"), versions]


def _quality(
    job: CleanJob, recipes: Mapping[Family, Recipe], report: Report
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of quality_filter (bounds; its model, trained unless it is there), and notes."""
    from corpus.cleaning.quality import build
    from corpus.cleaning.quality.model import load

    config = QualityConfig(**job.quality)
    folder = Path(job.models) / QUALITY_MODEL
    about = folder / "about.json"
    if about.exists():
        found = json.loads(about.read_text("utf-8"))
        return found["arguments"], found["notes"]
    in_need = next(family for family, one in recipes.items() if one.judges_quality)
    by_family, family_of = _mapper(recipes), job.family_of

    def mapped(source: str, texts: Sequence[str]) -> list[str]:
        return by_family((family_of.get(source, in_need), texts))

    report(0, 1, "judging samples of web pages")
    folder.mkdir(parents=True, exist_ok=True)
    arguments: dict[str, Any] = {}
    if given := sorted(folder.glob("given.*")):
        arguments |= {"model": str(given[0]), "good_label": config.good_label}
    elif config.trains:
        path = folder / "model.npz"
        build.train_on(config, job.inputs, mapped).save(path)
        arguments["model"] = str(path)
    judged = {
        source: path
        for source, path in job.inputs.items()
        if recipes[family_of[source]].judges_quality
    }
    model = load(arguments.get("model", ""), config.good_label)
    if bounds := build.bounds(model, config, judged, mapped):
        arguments["min_scores"] = bounds
    notes = {"quality": model.about | {"min_scores": bounds}}
    with complete_file(about) as file:
        file.write(json_line({"arguments": arguments, "notes": notes}))
    return arguments, notes


def _groups(
    texts: Iterable[tuple[Family, str]], size: int = 1 << 20
) -> Iterator[tuple[Family, list[str]]]:
    """Texts of one family after the other in lists of about `size` characters."""
    for family, members in itertools.groupby(texts, key=lambda pair: pair[0]):
        group: list[str] = []
        length = 0
        for _, text in members:
            group.append(text)
            length += len(text)
            if length >= size:
                yield family, group
                group, length = [], 0
        if group:
            yield family, group


def _place_tokenizer(source: str, folder: Path) -> None:
    """Save our tokenizer under the name that Data-Juicer looks for."""
    if (folder / "tokenizer.json").exists():
        return
    from corpus.tokenizer import configured_tokenizer

    aside = folder.with_name(f"{folder.name}{PARTIAL}")
    shutil.rmtree(aside, ignore_errors=True)
    configured_tokenizer(source).save_pretrained(aside)
    publish_folder(aside, folder)
