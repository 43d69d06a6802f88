"""`python -m corpus.cleaning JOB.json`: clean the sources of one kind (common/child.py).

    language model, tokenizer ─▶ operators, partition by partition ─▶ duplicates ─▶ kept documents
                                 └──────── worker processes ───────┘                └─ workers ──┘

The ledger is written last, so its existence means that all outputs are complete.
"""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from common.child import ProgressFile, Report, run_job
from common.files import PARTIAL, complete_file, json_line, publish_folder
from common.processes import die_with_parent
from corpus.cleaning.job import CleanJob
from corpus.cleaning.language_model.config import LanguageModelConfig
from corpus.cleaning.offline import PROXY_TOKENIZER, refuse_installs
from corpus.cleaning.ray.plan import RayConfig, operators_on_ray
from corpus.cleaning.recipe import Operator, Recipe

CONTAMINATION_FILTER = Path(__file__).with_name("operators") / "contamination_filter.py"


def work(job: CleanJob, report: Report) -> None:
    """Clean every source of the job."""
    die_with_parent(signal.SIGKILL)
    cleaning, notes = prepare(job, report)
    run = _on_ray if job.executor == "ray" else _locally
    result = run(job, cleaning, report)
    with complete_file(Path(job.ledger)) as file:
        file.write(json_line(result | {"notes": notes | result["notes"]}))
    shutil.rmtree(job.scratch)


def prepare(job: CleanJob, report: Report) -> tuple[Recipe, dict[str, Any]]:
    """Everything the operators need, in place. Returns the recipe, and notes on the models."""
    report(0, 1, "loading operators")
    # Data-Juicer reads its environment while it is imported.
    os.environ["DATA_JUICER_EXTERNAL_MODELS_HOME"] = job.models
    refuse_installs()
    from corpus.cleaning import recipe

    cleaning = recipe.load(job.recipe)
    if job.contamination:
        cleaning = with_contamination_filter(cleaning, job.contamination, job.contamination_action)
    cleaning.import_custom_operators()
    notes: dict[str, Any] = {}
    if cleaning.needs_tokenizer:
        _place_tokenizer(job.tokenizer, Path(job.models) / PROXY_TOKENIZER)
    if cleaning.needs_language_model:
        notes |= _language_model(job, cleaning, report)
    return cleaning, notes


def _locally(job: CleanJob, cleaning: Recipe, report: Report) -> dict[str, Any]:
    """Clean with the workers of this machine."""
    from corpus.cleaning import ledger
    from corpus.cleaning.deduplication.duplicates import (
        RecipeDeduplicator,
        find_duplicates,
        num_survivors,
    )
    from corpus.cleaning.engine import pipeline
    from corpus.cleaning.engine.partition_cleaner import PartitionCleaner
    from corpus.cleaning.engine.workers import map_in_workers
    from corpus.partitions import cut

    scratch = Path(job.scratch)
    report(0, 1, "loading models")
    built = pipeline.build(cleaning.operators)
    first = len(cleaning.by_document)
    cleaner = PartitionCleaner(
        operators=built[:first],
        names=[op.name for op in cleaning.operators],
        deduplicators=[
            RecipeDeduplicator(position=position, operator=operator, built=object_)
            for position, (operator, object_) in enumerate(
                zip(cleaning.deduplicators, built[first:], strict=True), start=first + 1
            )
        ],
        filtered=scratch / "filtered",
        output=Path(job.output),
        reports=scratch / "reports",
        examples=job.examples,
    )
    statistics = pipeline.load_models(cleaner.operators)
    partitions = cut(job.inputs.items(), job.partition_bytes)
    total = sum(partition.size for partition in partitions)

    def tick() -> None:
        report(cleaner.bytes_done.value, total, "bytes read")

    for _ in map_in_workers(cleaner.apply_operators, partitions, job.workers, tick):
        pass
    report(total, total, "looking for duplicates")
    filtered = [cleaner.filtered / partition.name for partition in partitions]
    if cleaner.deduplicators:
        cleaner.duplicates = find_duplicates(
            cleaner.deduplicators, filtered, scratch / "duplicates"
        )
    offsets = [0]
    for folder in filtered:
        offsets.append(offsets[-1] + num_survivors(folder))
    report(total, total, "writing")
    work = zip(partitions, offsets, strict=False)
    for _ in map_in_workers(cleaner.write_kept, work, job.workers, lambda: None):
        pass
    examples = ledger.Examples(most=job.examples)
    entries, matches = [], []
    for partition in partitions:
        finished = json.loads((cleaner.reports / f"{partition.name}.json").read_text("utf-8"))
        entries += [ledger.LedgerEntry(**entry) for entry in finished["entries"]]
        examples.take(finished)
        matches += finished["matches"]
    merged = ledger.merge(entries)
    ledger.check(merged)
    return {
        "rows": ledger.rows(job.kind, merged),
        **examples.as_json(),
        "matches": matches,
        "statistics": statistics,
        "notes": {"partitions": len(partitions)},
    }


def _on_ray(job: CleanJob, cleaning: Recipe, report: Report) -> dict[str, Any]:
    """Clean with Data-Juicer's own Ray executor, on a cluster."""
    from corpus.cleaning import document_trace, ledger
    from corpus.cleaning.engine import pipeline
    from corpus.cleaning.ray import run as on_ray

    report(0, 1, "looking for the cluster")
    config = dataclasses.replace(RayConfig(**job.ray), partition_bytes=job.partition_bytes)
    statistics = pipeline.load_models(pipeline.build(cleaning.by_document))
    inputs = {source: Path(path) for source, path in job.inputs.items()}
    output = Path(job.output)
    # Ray and Data-Juicer read their environment when they are imported, which has happened here.
    with ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=die_with_parent,
        initargs=(signal.SIGKILL,),
    ) as fresh:
        outcome = fresh.submit(
            on_ray.run,
            cleaning,
            inputs,
            Path(job.models),
            output,
            Path(job.scratch),
            config,
            report,
        ).result()
    names = [operator.name for operator in operators_on_ray(cleaning)]
    merged = ledger.merge(
        entry
        for path in outcome.document_traces
        for entry in document_trace.ledger_entries(document_trace.read(path), names)
    )
    ledger.check(merged)
    return {
        "rows": ledger.rows(job.kind, merged),
        "dropped": [],
        "changed": [],
        "matches": [m for path in outcome.questions for m in json.loads(path.read_text("utf-8"))],
        "statistics": statistics,
        "notes": {"ray": outcome.notes},
    }


def with_contamination_filter(cleaning: Recipe, index: str, action: str) -> Recipe:
    """The recipe with a filter for evaluation questions before its deduplicators."""
    added = Operator(name=CONTAMINATION_FILTER.stem, arguments={"index": index, "action": action})
    operators = (*cleaning.by_document, added, *cleaning.deduplicators)
    return dataclasses.replace(
        cleaning,
        operators=operators,
        data=cleaning.data | {"process": [{op.name: op.arguments or None} for op in operators]},
        custom_operator_files=(*cleaning.custom_operator_files, CONTAMINATION_FILTER),
    )


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
    leading = []
    for operator in cleaning.operators:
        if operator.kind != "mapper":
            break
        leading.append(operator)
    mappers = pipeline.build(leading)

    def mapped(texts: list[str]) -> list[str]:
        return list(pipeline.map_texts(mappers, texts))

    texts = (
        text
        for group in map_in_workers(
            mapped,
            _groups(language_model.training_texts(job.inputs, config)),
            job.workers,
            lambda: None,
        )
        for text in group
    )
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


if __name__ == "__main__":
    sys.exit(
        run_job(CleanJob, lambda job: work(job, ProgressFile(Path(sys.argv[1]))), sys.argv[1:])
    )
