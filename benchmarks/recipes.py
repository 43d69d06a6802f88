"""Documents that a cleaning recipe keeps and changes, operator by operator.

    python -m benchmarks.recipes NORMALIZED text text-repaired
    python -m benchmarks.recipes NORMALIZED text-repaired --examples clean_links_mapper

NORMALIZED is a finished normalize stage's folder. Runs Data-Juicer's operators in this process,
without the stage around them, so that a changed recipe is judged in a minute.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus.cleaning import recipe as recipes
from corpus.cleaning.language_model.config import LanguageModelConfig
from corpus.recipes import corpus

BATCH = 256
CONTEXT = 30
"""Characters shown on either side of a change."""


@dataclass(kw_only=True)
class OperatorOutcome:
    """Documents that one operator changed and dropped."""

    operator: str
    seconds: float = 0.0
    changed: Counter[str] = field(default_factory=Counter)
    """Source -> documents."""
    dropped: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass(kw_only=True)
class Outcome:
    """Documents that a recipe keeps, and the outcome of each of its operators."""

    documents: Counter[str]
    kept: list[dict[str, Any]]
    operators: list[OperatorOutcome]


def read(folder: Path, kind: str) -> list[dict[str, Any]]:
    """All documents of one kind of source."""
    rows = []
    for file in sorted(folder.glob("*.jsonl")):
        if corpus(file.stem).kind == kind:
            with file.open(encoding="utf-8") as lines:
                rows += [json.loads(line) for line in lines]
    return rows


def run(name: str, rows: list[dict[str, Any]], models: Path, *, keep: int = 20) -> Outcome:
    """A recipe's operators over documents, with up to `keep` examples an operator."""
    os.environ["DATA_JUICER_EXTERNAL_MODELS_HOME"] = str(models)
    from data_juicer.ops import load_ops
    from data_juicer.ops.base_op import Deduplicator, Filter, Mapper
    from data_juicer.utils.constant import Fields

    recipe = recipes.load(name)
    recipe.import_custom_operators()
    _prepare_models(recipe, rows, models)
    outcomes = []
    documents = Counter(row["source"] for row in rows)
    rows = [dict(row) for row in rows]
    stats: list[dict[str, Any]] = [{} for _ in rows]
    for entry in recipe.operators:
        (operator,) = load_ops([{entry.name: dict(entry.arguments)}])
        result = OperatorOutcome(operator=entry.name)
        outcomes.append(result)
        start = time.perf_counter()
        if isinstance(operator, Mapper):
            for batch in _batches(rows):
                texts = operator.process({"text": [r["text"] for r in batch]})["text"]
                for row, text in zip(batch, texts, strict=True):
                    if text != row["text"]:
                        result.changed[row["source"]] += 1
                        if len(result.examples) < keep:
                            result.examples.append(
                                {"id": row["id"]} | _difference(row["text"], text)
                            )
                        row["text"] = text
        elif isinstance(operator, Filter):
            samples = operator.compute_stats(
                {"text": [r["text"] for r in rows], Fields.stats: stats}
            )
            stats = list(samples[Fields.stats])
            verdicts = list(operator.process(samples))
            _drop(result, rows, stats, verdicts, keep)
            stats = [s for s, v in zip(stats, verdicts, strict=True) if v]
            rows = [r for r, v in zip(rows, verdicts, strict=True) if v]
        else:
            assert isinstance(operator, Deduplicator)
            verdicts = _unique(operator, rows)
            _drop(result, rows, stats, verdicts, keep)
            rows = [r for r, v in zip(rows, verdicts, strict=True) if v]
        result.seconds = time.perf_counter() - start
    return Outcome(documents=documents, kept=rows, operators=outcomes)


def _prepare_models(recipe: recipes.Recipe, rows: list[dict[str, Any]], models: Path) -> None:
    from data_juicer.ops import load_ops

    from corpus.cleaning.language_model import build as language_model
    from corpus.tokenizer import configured_tokenizer

    proxy = models / "EleutherAI/pythia-6.9b-deduped"
    if recipe.needs_tokenizer and not proxy.exists():
        configured_tokenizer("auto").save_pretrained(proxy)
    if not recipe.needs_language_model:
        return
    (language,) = recipe.languages
    config = LanguageModelConfig()
    texts = [row["text"] for row in rows if row["source"] in config.sources]
    for entry in recipe.operators:
        if entry.kind != "mapper":
            break
        (operator,) = load_ops([{entry.name: dict(entry.arguments)}])
        texts = operator.process({"text": texts})["text"]
    language_model.train(texts, models, language, config)


def _unique(operator: Any, rows: list[dict[str, Any]]) -> list[bool]:
    import datasets

    hashed = [operator.compute_hash({"text": row["text"]}) for row in rows]
    columns = {name: [h[name] for h in hashed] for name in hashed[0] if name != "text"}
    kept, _ = operator.process(
        datasets.Dataset.from_dict(columns | {"row": list(range(len(rows)))})
    )
    unique = set(kept["row"])
    return [i in unique for i in range(len(rows))]


def _drop(
    result: OperatorOutcome,
    rows: list[dict[str, Any]],
    stats: list[dict[str, Any]],
    verdicts: list[bool],
    keep: int,
) -> None:
    for row, measured, kept in zip(rows, stats, verdicts, strict=True):
        if not kept:
            result.dropped[row["source"]] += 1
            if len(result.examples) < keep:
                shown = {"id": row["id"], "measured": dict(measured), "text": row["text"][:200]}
                result.examples.append(shown)


def _difference(before: str, after: str) -> dict[str, str]:
    first = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
        min(len(before), len(after)),
    )
    start = max(0, first - CONTEXT)
    return {
        "before": before[start : first + 2 * CONTEXT],
        "after": after[start : first + 2 * CONTEXT],
    }


def _batches(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]


def show(name: str, outcome: Outcome) -> None:
    """Print an outcome as two tables."""
    sources = sorted(outcome.documents)
    print(f"\n## {name}: {len(outcome.kept)} of {outcome.documents.total()} kept\n")
    print("| operator | changed | dropped | seconds | " + " | ".join(sources) + " |")
    print("|" + "---|" * (4 + len(sources)))
    for result in outcome.operators:
        counts = result.changed or result.dropped
        cells = " | ".join(str(counts[s] or "") for s in sources)
        print(
            f"| {result.operator} | {result.changed.total()} | {result.dropped.total()} "
            f"| {result.seconds:.1f} | {cells} |"
        )
    kept = Counter(row["source"] for row in outcome.kept)
    print(
        "| **kept** | | | | "
        + " | ".join(f"{kept[s]}/{outcome.documents[s]}" for s in sources)
        + " |"
    )


def main(argv: list[str]) -> int:
    """Run the recipes that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("normalized", type=Path)
    parser.add_argument("recipes", nargs="+", help="names in data_recipes/clean")
    parser.add_argument("--examples", default="", help="operator whose examples are printed")
    args = parser.parse_args(argv)
    if len(args.recipes) > 1:
        # Data-Juicer keeps models for the life of a process, and each recipe has its own.
        others = [a for a in argv if a not in args.recipes]
        for name in args.recipes:
            command = [sys.executable, "-m", "benchmarks.recipes", *others, name]
            subprocess.run(command, check=True)
        return 0
    (name,) = args.recipes
    kind = "code" if name.startswith("code") else "text"
    with tempfile.TemporaryDirectory() as models, contextlib.redirect_stderr(io.StringIO()):
        outcome = run(name, read(args.normalized, kind), Path(models))
    show(name, outcome)
    for result in outcome.operators:
        if result.operator == args.examples:
            for example in result.examples:
                print(json.dumps(example, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
