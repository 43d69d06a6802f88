"""Evaluation questions in training texts: found by overlap of n-grams of Chinese-aware tokens.

    folder ──build_index──▶ Index ──save, load──▶ in every worker: find(text) ──▶ [Match]

One index serves the corpus, the SFT data and the report of an evaluation. `_tokens.py` says what a
token is, `_questions.py` what is looked for, `_index.py` how it is found.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corpus.decontaminate.index import Index, Match
from corpus.decontaminate.questions import (
    BenchmarkQuestion,
    ContaminationConfig,
    find_benchmarks,
    read_questions,
)

__all__ = [
    "BenchmarkQuestion",
    "ContaminationConfig",
    "Index",
    "Match",
    "build_index",
    "describe_index",
    "match_row",
]


def build_index(folder: Path, benchmarks: Sequence[str], config: ContaminationConfig) -> Index:
    """An index of the questions below `folder`, as `acquire` leaves them for kind `evals`.

    Args:
        folder: holds a folder for each benchmark.
        benchmarks: which of them; empty takes `config.benchmarks`, or all that are there.
        config: what counts as contained.

    Raises DataError when a benchmark is not there or a file is malformed.
    """
    names = find_benchmarks(folder, benchmarks or config.benchmarks)
    return Index.build((q for name in names for q in read_questions(folder, name)), config)


def match_row(match: Match, document_id: str) -> dict[str, Any]:
    """A match as one row of a table: the same columns for corpora and for conversations."""
    return {
        "id": document_id,
        "benchmark": match.benchmark,
        "question_id": match.question_id,
        "overlap": match.overlap,
        "excerpt": match.excerpt,
        "question": match.question,
    }


def describe_index(index: Index) -> dict[str, Any]:
    """What an index holds, for a manifest's notes: JSON values."""
    splits = Counter(f"{q.benchmark}/{q.id.split('/')[-2]}" for q in index.questions)
    unchecked = [f"{q.benchmark}/{q.id}" for q in index.unchecked()]
    return {
        "questions": len(index.questions),
        "checkable": index.num_checkable,
        "not_checkable": len(unchecked),
        "ngrams": index.num_ngrams,
        "splits": dict(sorted(splits.items())),
        "not_checkable_ids": unchecked,
    }
