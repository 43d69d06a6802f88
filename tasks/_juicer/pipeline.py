"""Run Data-Juicer's operators over a stream of documents, in batches, counting at every step.

    documents ─▶ batch ─▶ mapper ─▶ filter ─▶ … ─▶ deduplicator ─▶ kept documents
                             └─────────┴─────────────────┴────▶ ledger

A batch runs through all mappers and filters before the next is read, so memory does not grow with
the corpus. A deduplicator must see every document: it spools the texts to disk and keeps their
hashes only.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
from data_juicer.ops import load_ops
from data_juicer.ops.base_op import OP, Deduplicator, Filter, Mapper
from data_juicer.utils.constant import Fields

from tasks._files import json_line, read_json_lines
from tasks._juicer.ledger import EXCERPT, Ledger
from tasks._juicer.recipe import Operator

BATCH = 256
"""Documents in a batch."""

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Item:
    """A document on its way."""

    document: dict[str, Any]
    """The normalised document; `text` is as it came in."""
    text: str
    """The text as it is now."""
    size: int
    """UTF-8 bytes of the text."""
    stats: dict[str, Any]
    """What filters have measured so far."""

    @property
    def source(self) -> str:
        """The document's corpus."""
        return str(self.document["source"])

    @classmethod
    def of(cls, document: dict[str, Any]) -> "Item":
        """A document before its first operator."""
        text = document["text"]
        return cls(document=document, text=text, size=len(text.encode()), stats={})


Batch = list[Item]


def build(operators: Iterable[Operator]) -> list[OP]:
    """The library's operator objects. Their models must be in place already."""
    return list(load_ops([{op.name: dict(op.arguments)} for op in operators]))


def run(
    operators: list[OP], documents: Iterable[dict[str, Any]], ledger: Ledger, spool: Path
) -> Iterator[dict[str, Any]]:
    """The kept documents, in order, with their cleaned text; the ledger is filled on the way."""
    batches = _batches(Item.of(document) for document in documents)
    for position, operator in enumerate(operators):
        step = _deduplicate if isinstance(operator, Deduplicator) else _each
        batches = step(operator, position, batches, ledger, spool)
    for batch in batches:
        for item in batch:
            yield item.document | {"text": item.text}


def map_texts(mappers: list[OP], texts: Iterable[str]) -> Iterator[str]:
    """Texts after mappers, for the language model, which is to see what the filter will see."""
    iterator = iter(texts)
    while batch := list(islice(iterator, BATCH)):
        for mapper in mappers:
            batch = _guarded(partial(_mapped, mapper), batch)
        yield from (text for text in batch if text is not None)


def _batches(items: Iterable[Item]) -> Iterator[Batch]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _each(
    operator: OP, position: int, batches: Iterator[Batch], ledger: Ledger, spool: Path
) -> Iterator[Batch]:
    step = _map if isinstance(operator, Mapper) else _filter
    assert isinstance(operator, Mapper | Filter), operator
    for batch in batches:
        yield step(operator, position, batch, ledger)


def _map(operator: Mapper, position: int, batch: Batch, ledger: Ledger) -> Batch:
    texts = _guarded(partial(_mapped, operator), [item.text for item in batch])
    kept: Batch = []
    for item, text in zip(batch, texts, strict=True):
        if text is None:
            _fail(item, position, ledger)
            continue
        changed = text != item.text
        size = len(text.encode("utf-8", "replace")) if changed else item.size
        ledger.keep(position, item.source, item.size, size, changed=changed)
        if changed and ledger.wants_example("changed", position, item.source):
            ledger.changed.append(_example(item, position, ledger) | _difference(item.text, text))
        item.text, item.size = text, size
        kept.append(item)
    return kept


def _mapped(operator: OP, texts: list[str]) -> list[str]:
    # Operators write into the list they are given.
    return list(operator.process({operator.text_key: list(texts)})[operator.text_key])


def _filter(operator: Filter, position: int, batch: Batch, ledger: Ledger) -> Batch:
    before = [set(item.stats) for item in batch]
    verdicts = _guarded(partial(_judged, operator), batch)
    kept: Batch = []
    for item, known, keep in zip(batch, before, verdicts, strict=True):
        if keep is None:
            _fail(item, position, ledger)
            continue
        measured = {name: value for name, value in item.stats.items() if name not in known}
        for name, value in measured.items():
            if isinstance(value, int | float):
                ledger.measure(position, item.source, name, float(value))
        if keep:
            ledger.keep(position, item.source, item.size, item.size)
            kept.append(item)
        else:
            _drop(item, position, ledger, measured)
    return kept


def _judged(operator: Filter, batch: Batch) -> list[bool]:
    samples = {
        operator.text_key: [item.text for item in batch],
        Fields.stats: [dict(item.stats) for item in batch],
    }
    samples = operator.compute_stats(samples)
    verdicts = [bool(keep) for keep in operator.process(samples)]
    for item, stats in zip(batch, samples[Fields.stats], strict=True):
        item.stats = dict(stats)
    return verdicts


def _deduplicate(
    operator: Deduplicator, position: int, batches: Iterator[Batch], ledger: Ledger, spool: Path
) -> Iterator[Batch]:
    texts = spool / f"before-{position + 1:02d}.jsonl"
    columns: dict[str, list[Any]] = {"row": []}
    with texts.open("wb") as file:
        for batch in batches:
            for item in batch:
                sample = operator.compute_hash({operator.text_key: item.text})
                for name, value in sample.items():
                    if name != operator.text_key:
                        columns.setdefault(name, []).append(value)
                columns["row"].append(len(columns["row"]))
                file.write(json_line({"document": item.document, "text": item.text,
                                      "stats": item.stats}))  # fmt: skip
    log.info("looking for duplicates among %d documents", len(columns["row"]))
    kept: set[int] = set()
    if columns["row"]:
        unique, _ = operator.process(datasets.Dataset.from_dict(columns))
        kept = set(unique["row"])
    yield from _batches(_unspooled(texts, kept, position, ledger))
    texts.unlink()


def _unspooled(texts: Path, kept: set[int], position: int, ledger: Ledger) -> Iterator[Item]:
    for row, line in enumerate(read_json_lines(texts)):
        item = Item(size=len(line["text"].encode()), **line)
        if row in kept:
            ledger.keep(position, item.source, item.size, item.size)
            yield item
        else:
            _drop(item, position, ledger, {})


def _guarded(function: Callable[[list[Any]], list[Any]], batch: list[Any]) -> list[Any]:
    """`function` of a batch; when it raises, of each element alone, with None where it raises."""
    if not batch:
        return []
    if None in batch:  # an earlier operator failed on these
        filled = iter(_guarded(function, [b for b in batch if b is not None]))
        return [None if b is None else next(filled) for b in batch]
    try:
        return function(batch)
    except Exception as error:
        if len(batch) == 1:
            log.warning("an operator failed on one document: %s: %s", type(error).__name__, error)
            return [None]
        return [_guarded(function, [element])[0] for element in batch]


def _fail(item: Item, position: int, ledger: Ledger) -> None:
    ledger.drop(position, item.source, item.size, failed=True)
    if ledger.wants_example("dropped", position, item.source):
        shown = {"failed": True, "text": item.text[:EXCERPT]}
        ledger.dropped.append(_example(item, position, ledger) | shown)


def _drop(item: Item, position: int, ledger: Ledger, measured: dict[str, Any]) -> None:
    ledger.drop(position, item.source, item.size)
    if ledger.wants_example("dropped", position, item.source):
        ledger.dropped.append(
            _example(item, position, ledger) | {"measured": measured, "text": item.text[:EXCERPT]}
        )


def _example(item: Item, position: int, ledger: Ledger) -> dict[str, Any]:
    return {
        "position": position + 1,
        "operator": ledger.operators[position],
        "source": item.source,
        "id": item.document["id"],
    }


def _difference(before: str, after: str) -> dict[str, str]:
    """What a text was and is, from a little before the first change on."""
    first = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b),
        min(len(before), len(after)),
    )
    start = max(0, first - 20)
    return {"before": before[start : start + EXCERPT], "after": after[start : start + EXCERPT]}
