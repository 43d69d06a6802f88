"""What is done to one partition, and the processes that do it.

    survey    partition ─▶ operators ─▶ <spool>/<name>/: kept.jsonl, fates, hashes, examples
    (duplicates.py decides, looking at every partition's hashes)
    finish    kept.jsonl + decision ─▶ <output>/<source>/<number>.jsonl, documents/<name>.parquet

Each step of a partition appears by one rename, when it is complete, so an interrupted run goes on
with the first partition that is not there. What a partition becomes does not depend on which
process works on it, or when.
"""

import contextlib
import itertools
import json
import multiprocessing
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from data_juicer.ops.base_op import OP

from common.errors import StageError
from common.files import complete_file, json_line, sync, write_json
from common.processes import die_with_parent
from corpus.cleaning import document_trace as fates
from corpus.cleaning import contamination_matches
from corpus.cleaning.deduplication.duplicates import UNKNOWN, Decision, Step, hash_table
from corpus.cleaning.engine import pipeline
from corpus.cleaning.ledger import EXCERPT, Examples
from corpus.partitions import Partition

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(kw_only=True)
class Workshop:
    """What every worker process has: inherited when it is forked, so that nothing is loaded twice.

    A language model of gigabytes thus lies in memory once.
    """

    operators: Sequence[OP]
    """The recipe's mappers and filters."""
    names: Sequence[str]
    """Names of all operators in the ledger, deduplicators included."""
    steps: Sequence[Step]
    """The recipe's deduplicators."""
    spool: Path
    """Where surveyed partitions lie."""
    output: Path
    """Where cleaned ones go."""
    final: Path
    """Where the account of a cleaned one goes, last of all."""
    examples: int
    """Examples for each operator and source."""
    decision: Decision | None = None
    """Which survivors are kept."""
    bytes_done: Any = field(default_factory=lambda: multiprocessing.Value("q", 0))
    """Bytes of normalised text read so far, by all workers."""

    def survey(self, partition: Partition) -> None:
        """Take a partition through all mappers and filters, unless that was done before."""
        folder = self.spool / partition.name
        if folder.exists():
            self._add(partition.size)
            return
        aside = folder.with_name(f"{folder.name}.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        examples = Examples(most=self.examples)
        rows: list[dict[str, Any]] = []
        hashes: dict[int, list[dict[str, Any]]] = {step.position: [] for step in self.steps}
        found: list[dict[str, Any]] = []
        num_survivors = 0
        with (aside / "kept.jsonl").open("wb") as kept:
            items = (pipeline.Item.of(d) for d in self._documents(partition))
            for batch in pipeline.batches(items):
                survivors = pipeline.run(self.operators, batch, examples)
                num_survivors += len(survivors)
                for step in self.steps:
                    hashes[step.position] += step.hashes([item.text for item in survivors])
                kept.writelines(json_line(_cleaned(item)) for item in survivors)
                rows += [item.fate() for item in batch]
                found += [row for item in batch for row in _found(item)]
        fates.write(fates.table_of(rows), aside / "fates.parquet")
        for step in self.steps:
            table = hash_table(hashes[step.position], step)
            pq.write_table(table, aside / f"hashes-{step.position:02d}.parquet")
        write_json(aside / "examples.json", examples.plain())
        write_json(aside / "matches.json", found)
        write_json(aside / "counts.json", {"survivors": num_survivors})
        for path in (*aside.iterdir(), aside):  # files before the name that shows them
            sync(path)
        aside.replace(folder)

    def _documents(self, partition: Partition) -> Iterator[dict[str, Any]]:
        for _, line in partition.lines():
            self._add(len(line))
            yield json.loads(line)

    def _add(self, num_bytes: int) -> None:
        with self.bytes_done.get_lock():
            self.bytes_done.value += num_bytes

    def finish(self, work: tuple[Partition, int]) -> None:
        """Write what is kept of a surveyed partition, unless that was done before.

        Args:
            work: the partition, and the number of its first survivor in the corpus.
        """
        partition, offset = work
        account = self.final / f"{partition.name}.json"
        if account.exists():
            return
        folder = self.spool / partition.name
        examples = Examples(most=self.examples)
        examples.take(json.loads((folder / "examples.json").read_text("utf-8")))
        table = pq.read_table(folder / "fates.parquet")
        columns = {n: table[n].to_pylist() for n in ("id", "dropped_by", "duplicate_of")}
        rows = [row for row, by in enumerate(columns["dropped_by"]) if by == 0]
        apart: list[float | None] = [None] * table.num_rows
        out = self.output / partition.source / f"{partition.number:05d}.jsonl"
        num_kept = 0
        with contextlib.ExitStack() as stack:
            kept = None
            with (folder / "kept.jsonl").open("rb") as lines:
                for number, (line, row) in enumerate(zip(lines, rows, strict=True), offset):
                    by = 0 if self.decision is None else int(self.decision.dropped_by[number])
                    if by == 0:
                        # A partition of which nothing is left has no file.
                        kept = kept or stack.enter_context(complete_file(out))
                        kept.write(line)
                        num_kept += 1
                        continue
                    assert self.decision is not None
                    columns["dropped_by"][row] = by
                    original = int(self.decision.representative[number])
                    shown: dict[str, Any] = {}
                    if original != UNKNOWN:
                        columns["duplicate_of"][row] = self.decision.ids[original]
                        apart[row] = float(self.decision.distance[number])
                        shown = {"duplicate_of": columns["duplicate_of"][row]}
                    if examples.wants("dropped", by, partition.source):
                        examples.add(
                            "dropped",
                            {
                                "position": by,
                                "operator": self.names[by - 1],
                                "source": partition.source,
                                "id": columns["id"][row],
                                "measured": {fates.DISTANCE: apart[row]},
                                **shown,
                                "text": json.loads(line)["text"][:EXCERPT],
                            },
                        )
        for name, column in (*columns.items(), (fates.DISTANCE, apart)):
            table = _with(table, name, column)
        entries = fates.entries(table, self.names)
        assert not entries or num_kept == entries[-1].documents_kept, partition.name
        documents = self.output / "documents" / f"{partition.name}.parquet"
        documents.parent.mkdir(exist_ok=True)
        fates.write(table, documents)
        account.parent.mkdir(exist_ok=True)
        write_json(
            account,
            {
                "entries": [asdict(entry) for entry in entries],
                **examples.plain(),
                "matches": json.loads((folder / "matches.json").read_text("utf-8")),
            },
        )


def _cleaned(item: pipeline.Item) -> dict[str, Any]:
    """The document as the next stage gets it."""
    return contamination_matches.flagged(item.document | {"text": item.text}, _found(item))


def _found(item: pipeline.Item) -> list[dict[str, Any]]:
    return contamination_matches.found(item.stats, item.document["id"])


def _with(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    """The table with a column of these values."""
    if name not in table.schema.names:
        return table.append_column(name, pa.array(values, pa.float64()))
    place = table.schema.get_field_index(name)
    kind = table.schema.field(name)
    return table.set_column(place, kind, pa.array(values, kind.type))


def run_all(
    function: Callable[[In], Out], work: Iterable[In], workers: int, tick: Callable[[], None]
) -> Iterator[Out]:
    """Results of `function`, in the order of `work`, from forked worker processes.

    Args:
        tick: called a few times a second.

    Raises:
        StageError: a worker was killed. Whatever `function` raises.
    """
    if workers == 1:
        for element in work:
            yield function(element)
            tick()
        return
    global _function
    _function = function
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=die_with_parent, initargs=(signal.SIGKILL,)
    )
    waiting: list[Future[Out]] = []
    iterator = iter(work)
    try:
        while True:
            # A short queue: a corpus of terabytes has a hundred thousand partitions.
            for element in itertools.islice(iterator, 4 * workers - len(waiting)):
                waiting.append(pool.submit(_call, element))
            if not waiting:
                return
            while waiting and waiting[0].done():
                yield waiting.pop(0).result()
            tick()
            if waiting:
                wait([f for f in waiting if not f.done()], timeout=0.2, return_when=FIRST_COMPLETED)
    except BrokenProcessPool:
        raise StageError(
            "a worker process of cleaning was killed, most likely because memory ran out. What is "
            "finished is kept: run again with fewer clean.workers or a smaller "
            "clean.partition_bytes."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_function: Any = None
"""What workers call: functions that hold operators cannot be sent to them, only inherited."""


def _call(element: Any) -> Any:
    return _function(element)
