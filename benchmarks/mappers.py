"""Documents and bytes that each mapper of a cleaning recipe changes, and its speed on one core.

    python -m benchmarks.mappers NORMALIZED curated/web
    python -m benchmarks.mappers NORMALIZED curated/web --diffs tidy_whitespace_mapper

NORMALIZED is a folder with a file `<source>.jsonl` for each source. Every mapper gets the texts as
the one before left them. `--diffs` prints what one of them changed, to be read.
"""

import argparse
import difflib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from corpus.cleaning import recipe as recipes

CONTEXT = 20
"""Characters shown on either side of a change."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the mappers of a recipe over all documents and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("normalized", type=Path)
    parser.add_argument("recipe", help="name in data_recipes/clean")
    parser.add_argument("--diffs", default="", help="mapper whose changes are printed")
    arguments = parser.parse_args(argv)
    documents = [
        orjson.loads(line)
        for file in sorted(arguments.normalized.glob("*.jsonl"))
        for line in file.read_bytes().splitlines()
    ]
    ids, texts = [d["id"] for d in documents], [d["text"] for d in documents]
    print(f"{arguments.recipe}: {len(texts)} documents, {_size(texts) / 1e6:.2f} MB\n")
    print("| mapper | documents changed | bytes taken | MB/s |\n|---|---|---|---|")
    for name, mapper in _mappers(arguments.recipe):
        size = _size(texts)
        started = time.process_time()
        after = [mapper.process({"text": [text]})["text"][0] for text in texts]
        seconds = time.process_time() - started
        changed = [i for i, text in enumerate(texts) if after[i] != text]
        taken = size - _size(after)
        print(f"| {name} | {len(changed)} | {taken} | {size / 1e6 / seconds:.0f} |")
        if name == arguments.diffs:
            for i in changed:
                print(f"\n{ids[i]}", *_differences(texts[i], after[i]), sep="\n")
        texts = after


def _mappers(recipe: str) -> Iterator[tuple[str, Any]]:
    from data_juicer.ops import load_ops

    loaded = recipes.load(recipe)
    loaded.import_custom_operators()
    for op in loaded.operators:
        if op.kind == "mapper":
            yield op.name, load_ops([{op.name: dict(op.arguments)}])[0]


def _differences(before: str, after: str) -> Iterator[str]:
    for old, new in _changed_lines(before.split("\n"), after.split("\n")):
        matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
        for tag, i, j, k, m in matcher.get_opcodes():
            if tag != "equal":
                left, right = old[max(0, i - CONTEXT) : i], old[j : j + CONTEXT]
                yield f"  {left!r} [{old[i:j]!r} -> {new[k:m]!r}] {right!r}"


def _changed_lines(before: list[str], after: list[str]) -> Iterator[tuple[str, str]]:
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag != "equal":
            yield "\n".join(before[i:j]), "\n".join(after[k:m])


def _size(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


if __name__ == "__main__":
    main()
