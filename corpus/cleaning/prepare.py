"""Everything that a recipe's operators need, put in place before they are built."""

import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.child import Report
from common.files import PARTIAL, complete_file, json_line, publish_folder
from corpus.cleaning import recipe
from corpus.cleaning.job import CleanJob
from corpus.cleaning.language_model.config import LanguageModelConfig
from corpus.cleaning.offline import PROXY_TOKENIZER, refuse_installs
from corpus.cleaning.recipe import Recipe


def prepare(job: CleanJob, report: Report) -> tuple[Recipe, dict[str, Any]]:
    """Put the operators' models in place. Returns the recipe, and notes on the models."""
    report(0, 1, "loading operators")
    # Data-Juicer reads its environment while it is imported.
    os.environ["DATA_JUICER_EXTERNAL_MODELS_HOME"] = job.models
    refuse_installs()
    cleaning = recipe.load(job.recipe)
    if job.contamination:
        cleaning = cleaning.with_contamination_filter(job.contamination, job.contamination_action)
    cleaning.import_custom_operators()
    notes: dict[str, Any] = {}
    if cleaning.needs_tokenizer:
        _place_tokenizer(job.tokenizer, Path(job.models) / PROXY_TOKENIZER)
    if cleaning.needs_language_model:
        notes |= _language_model(job, cleaning, report)
    return cleaning, notes


def _language_model(job: CleanJob, cleaning: Recipe, report: Report) -> dict[str, Any]:
    """Train the model that measures perplexity, unless it is there. Returns notes on it."""
    from corpus.cleaning.engine import pipeline
    from corpus.cleaning.engine.workers import map_in_workers
    from corpus.cleaning.language_model import build as language_model

    config = LanguageModelConfig(**job.language_model)
    (language,) = cleaning.languages
    models = Path(job.models)
    about = models / f"{language}.json"
    if config.given or about.exists():
        return json.loads(about.read_text("utf-8")) if about.exists() else {}
    report(0, 1, "training the language model")
    leading = itertools.takewhile(lambda operator: operator.kind == "mapper", cleaning.operators)
    mappers = pipeline.build(leading)

    def mapped(texts: list[str]) -> list[str]:
        return list(pipeline.map_texts(mappers, texts))

    groups = _groups(language_model.training_texts(job.inputs, config))
    texts = itertools.chain.from_iterable(map_in_workers(mapped, groups, job.workers, lambda: None))
    notes = {"language_model": language_model.train(texts, models, language, config)}
    with complete_file(about) as file:
        file.write(json_line(notes))
    return notes


def _groups(texts: Iterable[str], size: int = 1 << 20) -> Iterator[list[str]]:
    """Texts in lists of about `size` characters."""
    group: list[str] = []
    length = 0
    for text in texts:
        group.append(text)
        length += len(text)
        if length >= size:
            yield group
            group, length = [], 0
    if group:
        yield group


def _place_tokenizer(source: str, folder: Path) -> None:
    """Save our tokenizer under the name that Data-Juicer looks for."""
    if (folder / "tokenizer.json").exists():
        return
    from corpus.tokenizer import configured_tokenizer

    aside = folder.with_name(f"{folder.name}{PARTIAL}")
    shutil.rmtree(aside, ignore_errors=True)
    configured_tokenizer(source).save_pretrained(aside)
    publish_folder(aside, folder)
