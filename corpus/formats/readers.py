"""The reader of each file of a corpus, by what a recipe's `reading` says and by its ending.

reading    .jsonl .json .parquet   .csv .tsv   .docx .epub   .txt …              feeds
records    rows                    rows        –             –                   –      ¹
files      rows                    rows        document(s)   the file, chapters  entries
lines      rows                    rows        document(s)   each line           –

¹ of corpora with a format of their own; `format: plain` takes tables, too
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from corpus.formats.documents import BINARY_SUFFIXES
from corpus.formats.encodings import Neighbours, data_suffix
from corpus.formats.records import RawRecord, read_records
from corpus.formats.tables import TABLE_SUFFIXES, read_table
from corpus.formats.text_files import (
    LINE_SUFFIXES,
    WHOLE_SUFFIXES,
    read_document_file,
    read_file,
    read_lines,
)
from corpus.formats.text_keys import columns_of
from corpus.recipes import CorpusRecipe

RECORD_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
"""Endings, before .gz or .zst, of files of records."""

SKIPPED_SUFFIXES = (".md", ".py", ".sh", ".txt", ".csv", ".gitattributes", ".sha256", ".lock")
"""Suffixes of files that accompany a data set of a format of its own, and hold no records."""

PLAIN = "plain"
"""Format of corpora that have none of their own."""

Reader = Callable[[Path, Neighbours], Iterator[RawRecord]]


def reader_of(path: Path, recipe: CorpusRecipe) -> Reader | None:
    """The function that reads a file of a corpus; None for one that holds none of its records."""
    suffix = data_suffix(path)
    if recipe.format != PLAIN and recipe.reading == "records":
        return None if path.suffix.lower() in SKIPPED_SUFFIXES else _records
    if suffix in RECORD_SUFFIXES:
        return _records
    if suffix in TABLE_SUFFIXES:
        return partial(read_table, keys=columns_of(recipe.text_key))
    match recipe.reading:
        case "records":
            return None
        case "files":
            texts: Reader | None = read_file if suffix in WHOLE_SUFFIXES else None
        case "lines":
            texts = read_lines if suffix in LINE_SUFFIXES else None
    return read_document_file if suffix in BINARY_SUFFIXES else texts


def _records(path: Path, neighbours: Neighbours) -> Iterator[RawRecord]:
    return read_records(path, neighbours=neighbours)
