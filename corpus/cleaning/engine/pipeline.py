"""Data-Juicer's own operator objects, run over batches of documents, with a trace of each document.

    batch ─▶ mapper ─▶ mapper ─▶ filter ─▶ filter ─▶ survivors
               └──────────┴─────────┴─────────┴────▶ every document: edits, statistics, dropped_by

The library's executor makes one pass over the whole data set per operator, and writes it to disk in
between. Here a batch goes through all operators while it is in memory.
"""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from data_juicer.ops import load_ops
from data_juicer.ops.base_op import OP, Filter, Mapper
from data_juicer.utils.constant import Fields

from corpus.cleaning.document_trace import META, REASON
from corpus.cleaning.engine.failures import map_or_none
from corpus.cleaning.fast.operators import fast_filter, fast_mapper
from corpus.cleaning.recipe import Operator
from corpus.cleaning.review.sample import Sample

T = TypeVar("T")

BATCH = 256
"""Documents in a batch."""


@dataclass(kw_only=True, slots=True)
class TracedDocument:
    """A document between two operators."""

    document: dict[str, Any]
    """The normalised document; `text` is as it came in."""
    text: str
    """The text as it is now."""
    size: int
    """UTF-8 bytes of the text as it is now."""
    bytes_in: int
    """UTF-8 bytes of the text as it came in."""
    stats: dict[str, Any] = field(default_factory=dict)
    """Statistics that filters have measured."""
    edits: list[dict[str, int]] = field(default_factory=list)
    """Positions of operators that changed the text, with its size afterwards."""
    dropped_by: int = 0
    """Position of the operator that dropped it, from 1; 0: none."""
    failed: bool = False
    """The operator raised an error."""

    @classmethod
    def of(cls, document: dict[str, Any]) -> "TracedDocument":
        """Start with a document as it came in."""
        text = document["text"]
        size = len(text.encode("utf-8", "replace"))
        return cls(document=document, text=text, size=size, bytes_in=size)

    @property
    def source(self) -> str:
        """The document's corpus."""
        return str(self.document["source"])

    def trace(self) -> dict[str, Any]:
        """The document's row (see document_trace.py)."""
        return {
            "id": self.document["id"],
            "source": self.source,
            "bytes_in": self.bytes_in,
            "bytes_out": self.size,
            "dropped_by": self.dropped_by,
            "failed": self.failed,
            "edits": self.edits,
            "stats": {n: v for n, v in self.stats.items() if isinstance(v, int | float)},
            "reason": self.stats.get(REASON) or None,
        }


Batch = list[TracedDocument]


def build(operators: Iterable[Operator]) -> list[OP]:
    """The library's operator objects. Their models must be in place already."""
    return list(load_ops([{op.name: dict(op.arguments)} for op in operators]))


def build_once(operators: Iterable[Operator]) -> dict[str, OP]:
    """Operator objects by `Operator.key`: recipes share those that do the same."""
    different = {op.key: op for op in operators}
    return dict(zip(different, build(different.values()), strict=True))


def load_models(operators: Sequence[OP]) -> dict[str, str]:
    """Let operators load their models, which they do at their first text.

    Called before workers are forked, so that all of them share one copy in memory.

    Returns:
        Statistic -> name of the operator that measures it.
    """
    statistics: dict[str, str] = {}
    sample = Sample(most=0)
    text = "天地玄黄，宇宙洪荒。The quick brown fox.\n" * 8
    for position, operator in enumerate({id(op): op for op in operators}.values(), start=1):
        item = TracedDocument.of({"text": text, "source": "", "id": "", "meta": {}})
        if isinstance(operator, Mapper):
            _map(operator, position, [item], sample)
        else:
            _filter(operator, position, [item], [{}], sample)
            # A rule's name has no percentiles.
            numbers = [name for name, value in item.stats.items() if isinstance(value, int | float)]
            statistics |= dict.fromkeys(numbers, operator._name)
    return statistics


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Items in lists of BATCH."""
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def run_operators(operators: Sequence[OP], batch: Batch, sample: Sample) -> Batch:
    """Take a batch through mappers and filters. Returns the items that survive all of them."""
    context: list[dict[str, Any]] = [{} for _ in batch]
    for position, operator in enumerate(operators, start=1):
        if isinstance(operator, Mapper):
            batch = _map(operator, position, batch, sample)
            context = [{} for _ in batch]
        else:
            batch, context = _filter(operator, position, batch, context, sample)
    return batch


def map_texts(mappers: Sequence[OP], texts: Iterable[str]) -> Iterator[str]:
    """Apply mappers to texts: the language model is trained on what its filter will read."""
    for batch in batches(texts):
        for mapper in mappers:
            batch = map_or_none(partial(_mapped, mapper), batch)
        yield from (text for text in batch if text is not None)


def drop(item: TracedDocument, position: int, name: str, sample: Sample, **shown: Any) -> None:
    """Mark an item as dropped, and put it into the sample where it belongs there."""
    item.dropped_by = position
    about = _about(item, position, name)
    if sample.wants("dropped", about):
        sample.add("dropped", about | shown | {"before": item.text})


def _map(operator: Mapper, position: int, batch: Batch, sample: Sample) -> Batch:
    texts = map_or_none(partial(_mapped, operator), [item.text for item in batch])
    kept: Batch = []
    for item, text in zip(batch, texts, strict=True):
        if text is None:
            item.failed = True
            drop(item, position, operator._name, sample, failed=True)
            continue
        _take(operator, position, item, text, sample)
        kept.append(item)
    return kept


def _take(operator: OP, position: int, item: TracedDocument, text: str, sample: Sample) -> None:
    """Give an item the text that an operator made of its own, with a trace if that is another."""
    if text == item.text:
        return
    size = len(text.encode("utf-8", "replace"))
    item.edits.append({"operator": position, "bytes": size})
    about = _about(item, position, operator._name)
    if sample.wants("changed", about):
        sample.add("changed", about | {"before": item.text, "after": text})
    item.text, item.size = text, size


def _mapped(operator: Mapper, texts: list[str]) -> list[str]:
    if fast := fast_mapper(operator):
        return fast(texts)
    # Operators write into the list they are given.
    return list(operator.process_batched({operator.text_key: list(texts)})[operator.text_key])


def _filter(
    operator: Filter, position: int, batch: Batch, context: list[dict[str, Any]], sample: Sample
) -> tuple[Batch, list[dict[str, Any]]]:
    known = [set(item.stats) for item in batch]
    pairs = list(zip(batch, context, strict=True))
    verdicts = map_or_none(partial(_measure_and_judge, operator), pairs)
    kept: Batch = []
    kept_context = []
    for (item, words), before, verdict in zip(pairs, known, verdicts, strict=True):
        keep, text = (None, "") if verdict is None else verdict
        if keep:
            kept.append(item)
            kept_context.append(words if text == item.text else {})
            _take(operator, position, item, text, sample)
        elif keep is None:
            item.failed = True
            drop(item, position, operator._name, sample, failed=True)
        else:
            measured = {name: value for name, value in item.stats.items() if name not in before}
            drop(item, position, operator._name, sample, measured=measured)
    return kept, kept_context


def _measure_and_judge(
    operator: Filter, pairs: list[tuple[TracedDocument, dict[str, Any]]]
) -> list[tuple[bool, str]]:
    """Verdict on each text, and the text: a filter may cut something out while it measures."""
    texts = [item.text for item, _ in pairs]
    measured: list[dict[str, Any]] = [dict(item.stats) for item, _ in pairs]
    samples: dict[str, Any] = {
        operator.text_key: texts,
        META: [item.document.get(META) or {} for item, _ in pairs],
        "source": [item.source for item, _ in pairs],
        Fields.stats: measured,
    }
    # As in the library's own operator fusion, filters share the lines and words of a text.
    contexts = [context for _, context in pairs]
    if fast := fast_filter(operator):
        for stats, more in zip(measured, fast(texts, contexts), strict=True):
            stats.update(more)
    elif "context" in inspect.signature(operator.compute_stats_batched).parameters:
        samples = operator.compute_stats_batched(samples | {Fields.context: contexts}, context=True)
    else:
        samples = operator.compute_stats_batched(samples)
    verdicts = [bool(keep) for keep in operator.process_batched(samples)]
    for (item, _), stats in zip(pairs, samples[Fields.stats], strict=True):
        item.stats = dict(stats)
    return list(zip(verdicts, samples[operator.text_key], strict=True))


def _about(item: TracedDocument, position: int, name: str) -> dict[str, Any]:
    return {
        "position": position,
        "operator": name,
        "source": item.source,
        "id": item.document["id"],
    } | ({META: item.document[META]} if item.document.get(META) else {})
