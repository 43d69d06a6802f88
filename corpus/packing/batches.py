"""Texts of a partition of a cleaned file, in batches of bounded size."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from common.errors import DataError
from common.paths import display
from corpus.partitions import Partition

BATCH_BYTES = 4 * 1024**2
"""Lines that are encoded at once: small beside any memory, large beside the cost of a call."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Texts of consecutive lines; empty ones are left out."""

    texts: list[str]
    """None of them empty."""
    positions: list[int]
    """The byte of the file behind each text's line."""
    end: int
    """The byte behind the batch's last line."""


def batches(partition: Partition, position: int = 0) -> Iterator[Batch]:
    """Read the texts of a partition's lines, in batches of about BATCH_BYTES.

    A longer line is a batch of its own.

    Args:
        position: go on behind the line that ends at this byte; 0: from the beginning.

    Raises:
        DataError: a line is damaged; names the file and the line.
    """
    texts: list[str] = []
    positions: list[int] = []
    size = end = 0
    for at, line in partition.lines(position):
        if texts and size + len(line) > BATCH_BYTES:
            yield Batch(texts=texts, positions=positions, end=at)
            texts, positions, size = [], [], 0
        text = _text(line, partition.path, at)
        end = at + len(line)
        size += len(line)
        if text:
            texts.append(text)
            positions.append(end)
    if texts:
        yield Batch(texts=texts, positions=positions, end=end)


def _text(line: bytes, path: str, at: int) -> str:
    try:
        text = orjson.loads(line)["text"]
        if isinstance(text, str):
            return text
    except (ValueError, KeyError, TypeError):
        pass
    return _text_by_json(line, path, at)


def _text_by_json(line: bytes, path: str, at: int) -> str:
    """Read a line that `orjson` refuses as `json` does, or raise DataError saying what is wrong."""
    try:
        text: Any = json.loads(line)["text"]
        if not isinstance(text, str):
            raise TypeError("text is no string")
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{_place(path, at)}: the text has half of a surrogate pair at character "
            f"{error.start}, which no tokenizer can read. Clean the source with fix_unicode_mapper"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{_place(path, at)}: not a line of {{"text": …}} ({error!r}). Run `clean` again'
        ) from None
    return text


def _place(path: str, at: int) -> str:
    """File and line number of the line that begins at a byte."""
    number = 1
    with Path(path).open("rb") as file:
        while at > 0 and (chunk := file.read(min(1 << 20, at))):
            number += chunk.count(b"\n")
            at -= len(chunk)
    return f"{display(path)}, line {number}"
