"""Documents that cleaning recipes keep and change, by operator and source.

    python -m benchmarks.recipes NORMALIZED paper/text repaired/text
    python -m benchmarks.recipes NORMALIZED curated/web --examples clean_links_mapper

NORMALIZED is a finished normalize stage's folder. Cleans without the stage around it, so that a
changed recipe is judged in a minute.
"""

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bench_clean import corpora, run_ours


def main(argv: Sequence[str] | None = None) -> None:
    """Clean with each recipe and print what it did."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("normalized", type=Path)
    parser.add_argument("recipes", nargs="+", help="names in data_recipes/clean")
    parser.add_argument("--examples", default="", help="operator whose examples are printed")
    parser.set_defaults(cores=os.cpu_count() or 1, num_examples=20)
    arguments = parser.parse_args(argv)
    for recipe in arguments.recipes:
        arguments.recipe = recipe
        with tempfile.TemporaryDirectory(prefix="bench-recipes-") as name:
            scratch = Path(name)
            inputs = corpora(arguments, scratch / "in", copies=1)
            run_ours(arguments, scratch / "run", inputs, scratch / "models")
            ledger = json.loads((scratch / "run" / "ledger.json").read_text("utf-8"))
        print("\n".join(table(recipe, ledger["rows"])))
        for example in [*ledger["sample"]["changed"], *ledger["sample"]["dropped"]]:
            if example["operator"] == arguments.examples:
                print(json.dumps(example, ensure_ascii=False))


def table(recipe: str, rows: Sequence[dict[str, Any]]) -> Iterable[str]:
    """A line for each operator, with the documents of each source that it changed or dropped."""
    sources = sorted({row["source"] for row in rows})
    last = max(row["position"] for row in rows)
    documents = {row["source"]: row["documents_in"] for row in rows if row["position"] == 1}
    kept = {row["source"]: row["documents_kept"] for row in rows if row["position"] == last}
    yield f"\n## {recipe}: {sum(kept.values())} of {sum(documents.values())} kept\n"
    yield "| operator | changed | dropped | " + " | ".join(sources) + " |"
    yield "|" + "---|" * (3 + len(sources))
    for position in range(1, last + 1):
        changed, dropped = Counter[str](), Counter[str]()
        for row in rows:
            if row["position"] == position:
                changed[row["source"]] = row["documents_changed"]
                dropped[row["source"]] = row["documents_dropped"]
                operator = row["operator"]
        cells = " | ".join(str(changed[s] or dropped[s] or "") for s in sources)
        yield f"| {operator} | {changed.total()} | {dropped.total()} | {cells} |"
    yield "| **kept** | | | " + " | ".join(f"{kept[s]}/{documents[s]}" for s in sources) + " |"


if __name__ == "__main__":
    main()
