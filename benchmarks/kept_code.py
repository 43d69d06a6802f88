"""Source files: the share of bytes that a recipe keeps, by language, and what drops the rest.

    python -m benchmarks.kept_code [RECIPE …] [--list]

On the real files of ../shared/data/pretrain, which `normalize` would cut at 50,000 characters
(`--longest 0`: not at all), without deduplicators. `--list` names each file that is dropped.
"""

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks._sample_texts import SHARED
from corpus.cleaning import offline
from corpus.cleaning import recipe as recipes
from corpus.cleaning.review.sample import Sample
from corpus.formats.long_documents import OPENING, cut
from corpus.formats.record_formats import starcoder

RECIPES = ("paper/code", "repaired/code", "curated/code")


def documents(longest: int) -> Iterator[dict[str, Any]]:
    """Every file of the sample, cut as `normalize` cuts; `source` is its language."""
    for folder in ("starcode", "code_repos"):
        for path in sorted((SHARED / folder).rglob("*.parquet")):
            for row in pq.read_table(path).to_pylist():
                whole = starcoder(row)
                name = whole.meta.get("max_stars_repo_path", "")
                for number, text in enumerate(cut(whole.text, longest, code=True), 1):
                    meta = whole.meta | ({"opening": whole.text[:OPENING]} if number > 1 else {})
                    yield {"id": name, "source": path.parent.name, "text": text, "meta": meta}


def measure(name: str, longest: int, listed: bool) -> None:
    """Print a recipe's figures."""
    from corpus.cleaning.engine import pipeline

    recipe = recipes.load(name)
    recipe.import_custom_operators()
    operators = pipeline.build(recipe.by_document)
    items = [pipeline.TracedDocument.of(document) for document in documents(longest)]
    for batch in pipeline.batches(items):
        pipeline.run_operators(operators, batch, Sample(most=0))
    given, kept, reasons = Counter[str](), Counter[str](), Counter[str]()
    for item in items:
        given[item.source] += item.bytes_in
        if not item.dropped_by:
            kept[item.source] += item.bytes_in
            continue
        reason = item.trace()["reason"] or ""
        operator = operators[item.dropped_by - 1]._name
        reasons[f"{operator} {reason if operator.startswith('generated') else ''}"] += item.bytes_in
        if listed:
            print(f"  {operator} {reason}: {item.document['id']}")
    shares = ", ".join(f"{lang} {100 * kept[lang] / given[lang]:.1f} %" for lang in sorted(given))
    print(
        f"{name}: {100 * kept.total() / given.total():.1f} % of {given.total():,} bytes ({shares})"
    )
    for reason, size in reasons.most_common():
        print(f"    {size:>9,} {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--longest", type=int, default=50_000)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as models:
        os.environ.update(offline.VARIABLES, DATA_JUICER_EXTERNAL_MODELS_HOME=models)
        offline.refuse_installs()
        tokenizer = Path(models) / offline.PROXY_TOKENIZER
        tokenizer.parent.mkdir()
        tokenizer.symlink_to(SHARED.parent / "tokenizer")
        for name in options.recipes:
            measure(name, options.longest, options.list)


if __name__ == "__main__":
    main()
