"""A model for web pages from what `clean.quality` names, and the bounds of its sources.

    positives, negatives ─▶ pages drawn by hash, after the recipe's mappers ─▶ model.npz
    labels ─▶ the pages that they are about, the same way
    a source of drop_shares ─▶ `sample` pages, drawn the same way ─▶ its quantile of scores

A page is drawn by the hash of its line, whatever stands around it, so that long or late pages have
the same chance as others. The file is read once for it, which costs little beside cleaning it.
"""

import heapq
import itertools
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.paths import display
from corpus.cleaning.quality.config import QualityConfig, page_files
from corpus.cleaning.quality.labels import labelled_pages, read_labels
from corpus.cleaning.quality.model import PageModel, Scorer
from corpus.formats.records import EMPTY_LINE, Damaged, read_records
from corpus.formats.text_files import read_lines

log = logging.getLogger(__name__)

BLOCK = 1 << 16
"""Characters of a page that are read."""

Mapped = Callable[[str, Sequence[str]], Sequence[str]]
"""(source, texts) -> texts after the mappers of the source's family; "": of the web."""


def drawn(path: Path, most: int) -> list[str]:
    """At most so many texts of a .jsonl, in its order. Raises DataError for a bad row."""
    with path.open("rb", buffering=1 << 20) as file:
        chosen = heapq.nsmallest(most, _hashes(file))
        found = []
        for at in sorted(at for _, at in chosen):
            file.seek(at)
            try:
                found.append(str(json.loads(file.readline())["text"])[:BLOCK])
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"{display(path)}, byte {at}: this line is no object with `text`"
                ) from None
    return found


def _hashes(lines: Iterable[bytes]) -> Iterator[tuple[int, int]]:
    """The hash of each line and the byte that it begins at."""
    at = 0
    for line in lines:
        if not line.isspace():
            yield zlib.crc32(line), at
        at += len(line)


def train_on(config: QualityConfig, inputs: Mapping[str, str], mapped: Mapped) -> PageModel:
    """Train on what `positives`, `negatives` and `labels` name.

    Args:
        inputs: source -> its normalised file.
        mapped: texts after a recipe's mappers.

    Raises:
        DataError: too few pages; a source that is not in the pipeline.
    """
    from corpus.cleaning.quality.train import train  # scikit-learn takes a second of CPU

    pages: list[tuple[str, bool]] = []
    for good, entries in ((True, config.positives), (False, config.negatives)):
        for entry in entries:
            share = max(1, config.max_pages // len(entries))
            for source, texts in _texts(entry, inputs, share):
                pages += [(text, good) for text in mapped(source, texts) if text.strip()]
    origin = []
    if config.positives:
        origin += [f"good: {', '.join(config.positives)}", f"bad: {', '.join(config.negatives)}"]
    if config.labels:
        pages += _labelled(config, inputs, mapped)
        origin.append(f"labels: {', '.join(config.labels)}")
    log.info("training a quality model on %d pages", len(pages))
    return train(pages, "; ".join(origin))


def _labelled(
    config: QualityConfig, inputs: Mapping[str, str], mapped: Mapped
) -> Iterator[tuple[str, bool]]:
    labels = read_labels(config.label_files())
    found = labelled_pages(labels, inputs)
    if len(found) < len(labels.by_hash):
        log.warning(
            "%d of %d labelled pages are in no source of the pipeline and without a text of their "
            "own; the model learns from the others",
            len(labels.by_hash) - len(found),
            len(labels.by_hash),
        )
    for source, text, good in found:
        # A text that stands in a label is what the mappers made already.
        (text,) = mapped(source, [text]) if source else (text,)
        if text.strip():
            yield text[:BLOCK], good


def _texts(
    entry: str, inputs: Mapping[str, str], share: int
) -> Iterator[tuple[str, Sequence[str]]]:
    if entry in inputs:
        yield entry, drawn(Path(inputs[entry]), share)
        return
    files = page_files(entry)
    if not files:
        raise DataError(
            f"clean.quality names the source {entry}, which the pipeline does not have. It has "
            f"{', '.join(inputs)}; files are given by a path or a glob."
        )
    most = max(1, share // len(files))
    for file in files:
        plain = file.suffix == ".jsonl"
        yield "", drawn(file, most) if plain else list(itertools.islice(_lines(file), most))


def _lines(path: Path) -> Iterator[str]:
    """The `text` of every line of a .jsonl.gz, the lines of any other file."""
    structured = path.name.removesuffix(".gz").endswith(".jsonl")
    for record in read_records(path) if structured else read_lines(path):
        value = record.value
        text = value.get("text") if isinstance(value, dict) else None
        if isinstance(value, Damaged) and value.reason == EMPTY_LINE:
            continue
        if not isinstance(text, str):
            raise DataError(f"{display(path)}, line {record.line}: it has no text")
        yield text[:BLOCK].rstrip("\r\n")


def bounds(
    model: Scorer, config: QualityConfig, inputs: Mapping[str, str], mapped: Mapped
) -> dict[str, float]:
    """Source -> lowest score that is kept, so that its share of `drop_shares` goes."""
    found = {}
    for source, share in sorted(config.drop_shares.items()):
        if source in inputs:
            texts = mapped(source, drawn(Path(inputs[source]), config.sample))
            found[source] = bound(model.scores(texts), share)
    return found


def bound(scores: Sequence[float], share: float) -> float:
    """The score below which this share of the scores lies."""
    if not scores:
        return 0.0
    # "higher": a share of 0 drops nothing, and one of 1 all but the best.
    return float(np.quantile(np.array(scores), share, method="higher"))
