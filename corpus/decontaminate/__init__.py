"""Evaluation questions in training texts: found by overlap of n-grams of Chinese-aware tokens.

    folder ──build_index──▶ Index ──save, load──▶ in every worker: find(text) ──▶ [Match]

tokens.py      words of a text as numbers
questions.py   benchmark questions and the configuration of the search
build.py       the index of the benchmarks in a folder
cached.py      the same, kept for the next run
index.py       search by n-grams: stretches of a text that may ask a question
alignment.py   a part of a question in such a stretch, with gaps and misprints
evidence.py    stem, options, answer: what makes it a question
search.py      the questions in whole corpora, counted by corpus; by worker processes
cutting.py     documents without their passages
"""

from collections import Counter
from typing import Any

from corpus.bad_rows import MOST_NAMED, listed_rows
from corpus.decontaminate.build import build_index
from corpus.decontaminate.cached import cached_index
from corpus.decontaminate.cutting import without_questions
from corpus.decontaminate.index import Index, Match
from corpus.decontaminate.questions import BenchmarkQuestion, ContaminationConfig, QuestionSearch

__all__ = [
    "BenchmarkQuestion",
    "ContaminationConfig",
    "Index",
    "QuestionSearch",
    "build_index",
    "cached_index",
    "describe_bad_rows",
    "describe_index",
    "match_row",
    "without_questions",
]


def describe_bad_rows(index: Index) -> str:
    """Say which rows of the benchmarks are not looked for, since they are no questions; or ""."""
    lines = [
        f"{len(rows):,} of {name}: {listed_rows(rows)}" for name, rows in index.bad_rows.items()
    ]
    return f"Bad rows of benchmarks are not looked for: {'. '.join(lines)}" if lines else ""


def match_row(match: Match, document_id: str, *, cut: bool = False) -> dict[str, Any]:
    """Format a match as a table row, with the same columns for corpora and for conversations.

    Args:
        match: the question and the passage.
        document_id: the document that contains it.
        cut: True if the passage was cut out of the document, False if that stayed whole or went.
    """
    return {
        "id": document_id,
        "benchmark": match.benchmark,
        "question_id": match.question_id,
        "overlap": match.overlap,
        "excerpt": match.excerpt,
        "question": match.question,
        "cut": cut,
    }


def describe_index(index: Index) -> dict[str, Any]:
    """Describe the content of an index in JSON values, for a manifest's notes."""
    splits = Counter(f"{q.benchmark}/{q.id.split('/')[-2]}" for q in index.questions)
    unchecked = [f"{q.benchmark}/{q.id}" for q in index.unchecked()]
    return {
        "questions": len(index.questions),
        "checkable": index.num_checkable,
        "not_checkable": len(unchecked),
        "ngrams": index.num_ngrams,
        "splits": dict(sorted(splits.items())),
        "not_checkable_ids": unchecked,
        "bad_rows": {name: len(rows) for name, rows in index.bad_rows.items()},
        "bad_rows_named": [row for rows in index.bad_rows.values() for row in rows][:MOST_NAMED],
    }
