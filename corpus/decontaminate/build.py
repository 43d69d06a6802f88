"""The index of the benchmarks in a folder."""

from collections.abc import Sequence
from pathlib import Path

from corpus.decontaminate.index import Index
from corpus.decontaminate.questions import ContaminationConfig, find_benchmarks, read_questions


def build_index(folder: Path, benchmarks: Sequence[str], config: ContaminationConfig) -> Index:
    """Index the questions below `folder`, as `acquire` leaves them for kind `evals`.

    Args:
        folder: contains a folder for each benchmark.
        benchmarks: which of them; empty takes `config.benchmarks`, or all that are there.
        config: what counts as contained.

    Raises DataError when a benchmark is not there or a file cannot be read. Rows that are no
    questions are listed in the index.
    """
    names = find_benchmarks(folder, benchmarks or config.benchmarks)
    bad_rows: dict[str, list[str]] = {name: [] for name in names}
    questions = [q for name in names for q in read_questions(folder / name, name, bad_rows[name])]
    index = Index.build(questions, config)
    index.bad_rows = {name: rows for name, rows in bad_rows.items() if rows}
    return index
