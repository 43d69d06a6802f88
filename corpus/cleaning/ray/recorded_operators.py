"""Data-Juicer's operators on Ray, with a record of what each did to every document.

    rows: __dj__uid · id · part · text      first operator adds: dropped_by · failed · size ·
      │                                     edits · stats
      ▼
    recorded mapper ─▶ recorded filter ─▶ … ─▶ sink: one parquet file per batch and partition

`recorded(cls)` is a subclass of a library operator. Its processing is inherited; around it, the
row records which operators changed the text, what filters measured, which operator dropped the
document or failed on it. A dropped row is passed on without its text instead of removed, so the
rows that go in come out: exact under Ray's retries, without a file per operator, and with no stage
added to the library's own. Recording between the operators instead would read and write every text
once more per operator.

One document that an operator raises on is dropped alone. The library's own choice is between ending
the whole job (`skip_op_error: false`) and losing the batch of a thousand without a trace (`true`).
"""

import contextlib
import hashlib
import json
import types
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from data_juicer.ops.base_op import OP, OPERATORS, Filter, Mapper
from data_juicer.ops.deduplicator.ray_bts_minhash_deduplicator import (
    RayBTSMinhashDeduplicatorWithUid,
)
from data_juicer.utils.constant import Fields, HashKeys

from common.files import PARTIAL, sync
from corpus.cleaning.contamination_matches import MATCHES
from corpus.cleaning.document_trace import META, REASON
from corpus.cleaning.engine.failures import map_or_none

UID = HashKeys.uid
"""A document's place: number of its partition << 32 | line in it. The library keeps the lowest uid
of a cluster, so the first document by place is the one that stays."""

ROW = pa.schema(
    [
        (UID, pa.int64()),
        ("id", pa.string()),
        ("part", pa.string()),
        ("text", pa.string()),
        ("meta", pa.string()),
    ]
)
"""Columns of a document before the first operator; meta as JSON."""

RECORD = pa.schema(
    [
        (UID, pa.int64()),
        ("dropped_by", pa.int64()),
        ("failed", pa.bool_()),
        ("size", pa.int64()),
        ("edits", pa.string()),
        ("stats", pa.string()),
    ]
)
"""Columns that are recorded of it; edits as "position:bytes;", statistics as JSON."""

DUPLICATE = pa.schema([(UID, pa.int64()), ("part", pa.string()), ("of", pa.int64())])
SINK = "ray_sink_mapper"
MINHASH = "ray_bts_minhash_deduplicator_with_uid"
SINK_ROWS = 1000
"""Rows of a file: the library's batch, below which Ray would join blocks that are smaller."""

Rows = dict[str, list[Any]]


class RecordedMapper:
    """Mixin that records the documents a mapper changed, and their size afterwards."""

    position: int
    text_key: str
    process: Any

    def __init__(self, *args: Any, position: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.position = position
        self._native: Callable[..., Any] = self.process
        self.process = self._record

    def _record(self, table: Any) -> Rows:
        rows = _rows(table)
        remaining = [i for i, position in enumerate(rows["dropped_by"]) if not position]
        texts = map_or_none(self._map, [rows["text"][i] for i in remaining])
        for i, text in zip(remaining, texts, strict=True):
            if text is None:
                _drop(rows, i, self.position, failed=True)
            elif text != rows["text"][i]:
                size = len(text.encode())
                rows["edits"][i] += f"{self.position}:{size};"
                rows["text"][i], rows["size"][i] = text, size
        return rows

    def _map(self, texts: Sequence[str]) -> list[str]:
        mapped = _each(self, self._native, {self.text_key: list(texts)})[self.text_key]
        if len(mapped) != len(texts):
            raise ValueError(f"{len(texts)} texts went in, {len(mapped)} came out")
        for text in mapped:
            text.encode()  # Half a surrogate pair fails here, and not later in Arrow.
        return mapped


class RecordedFilter:
    """Mixin that records what a filter measured, and the documents it dropped."""

    position: int
    text_key: str
    process: Any
    compute_stats: Any

    def __init__(self, *args: Any, position: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.position = position
        self._native_stats: Callable[..., Any] = self.compute_stats
        self._native_verdict: Callable[..., Any] = self.process
        self.compute_stats, self.process = self._record, self._keep

    def _record(self, table: Any) -> Rows:
        rows = _rows(table)
        remaining = [i for i, position in enumerate(rows["dropped_by"]) if not position]
        judged = map_or_none(
            self._judge, [(rows["text"][i], rows["meta"][i], rows["stats"][i]) for i in remaining]
        )
        for i, verdict in zip(remaining, judged, strict=True):
            if verdict is None:
                _drop(rows, i, self.position, failed=True)
                continue
            keep, rows["stats"][i], text = verdict
            if not keep:
                _drop(rows, i, self.position)
            elif text != rows["text"][i]:  # a filter may cut something out while it measures
                size = len(text.encode())
                rows["edits"][i] += f"{self.position}:{size};"
                rows["text"][i], rows["size"][i] = text, size
        return rows

    def _judge(self, batch: Sequence[tuple[str, str, str]]) -> list[tuple[bool, str, str]]:
        samples: Rows = {
            self.text_key: [text for text, _, _ in batch],
            META: [json.loads(meta) for _, meta, _ in batch],
            Fields.stats: [json.loads(stats) if stats else {} for _, _, stats in batch],
        }
        measured = _each(self, self._native_stats, samples)
        stats, texts = measured[Fields.stats], measured[self.text_key]
        verdicts = [
            bool(keep)
            for one in _singles(self, {self.text_key: texts, Fields.stats: stats})
            for keep in self._native_verdict(one)
        ]
        return list(zip(verdicts, (_numbers(s) for s in stats), texts, strict=True))

    def _keep(self, samples: dict[str, Any]) -> Any:
        """Remove no row in the library's own step: dropped rows are marked already."""
        return [True] * len(samples[UID]) if isinstance(samples[UID], list) else True


class RecordedMinhash(RayBTSMinhashDeduplicatorWithUid):
    """The library's MinHash, with a record of the original of every copy.

    A text shorter than one window has no shingle, and the library counts all of those as copies of
    one another; here such a text as a whole is its own shingle.
    """

    tokenization_func: Callable[[str], set[bytes]]

    def __init__(self, *args: Any, duplicates: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.duplicates = duplicates
        shingles = self.tokenization_func
        self.tokenization_func = lambda text: shingles(text) or {text.encode()}

    def merge(self) -> None:
        """Run the library's rounds, and keep the clusters' roots before it discards them."""
        self.merge_op_batch([find.edge_redistribution.remote() for find in self.union_find_list])
        while any(
            self.merge_op_batch(
                [find.balanced_union_find.remote() for find in self.union_find_list]
            )
        ):
            self.merge_op_batch([find.communication.remote() for find in self.union_find_list])
        self.merge_op_batch(
            [find.__ray_call__.remote(_keep_roots) for find in self.union_find_list]
        )

    def filter_with_union_find(self, samples: pa.Table) -> pa.Table:
        """Return the rows of a block that are no copies, and write the copies into a file."""
        uids = samples[UID].to_pylist()
        wanted: dict[int, list[int]] = {}
        for uid in uids:
            wanted.setdefault(uid // 1000 % self.union_find_parallel_num, []).append(uid)
        roots: dict[int, int] = {}
        for owner, owned in wanted.items():
            actor = self.union_find_list[owner]
            roots |= ray.get(actor.__ray_call__.remote(_roots_of, owned))
        copies = [i for i, uid in enumerate(uids) if uid in roots]
        if copies:
            parts = samples["part"].to_pylist()
            _write_parts(
                {
                    UID: [uids[i] for i in copies],
                    "part": [parts[i] for i in copies],
                    "of": [roots[uids[i]] for i in copies],
                },
                DUPLICATE,
                Path(self.duplicates),
            )
        return samples.filter(pa.array([uid not in roots for uid in uids], pa.bool_()))


def _keep_roots(find: Any) -> None:
    """On the actor: map each document that it owns to the first one of its cluster."""
    owned = [x for x in find.parent if x // 1000 % find.parallel_num == find.parallel_id]
    find.roots = {x: find.find(x) for x in owned}
    find.squeeze()


def _roots_of(find: Any, uids: list[int]) -> dict[int, int]:
    return {uid: find.roots[uid] for uid in uids if uid in find.roots}


class RaySinkMapper(Mapper):
    """Last operator: write the records and the texts that are kept; pass on nothing but uids.

    The executor holds its result in the object store, which is to stay small. A batch that is done
    twice writes the same files twice: they are named after its documents.
    """

    _batched_op = True

    def __init__(
        self, *args: Any, records: str, survivors: str, texts: bool, **kwargs: Any
    ) -> None:
        kwargs["batch_size"] = SINK_ROWS
        super().__init__(*args, **kwargs)
        self.records, self.survivors, self.texts = records, survivors, texts

    def process_batched(self, samples: Rows) -> Rows:
        """Write one batch."""
        remaining: Sequence[int] = range(len(samples[UID]))
        if "dropped_by" in samples:
            _write_parts(samples, RECORD, Path(self.records))
            remaining = [i for i in remaining if not samples["dropped_by"][i]]
        kept = {name: [samples[name][i] for i in remaining] for name in ROW.names}
        schema = ROW if self.texts else pa.schema([ROW.field(UID)])
        _write_parts(kept, schema, Path(self.survivors))
        return {UID: samples[UID]}


def recorded(base: type[OP]) -> type[OP]:
    """Subclass a library operator to record. It takes one more argument: its `position`, from 1."""
    mixin = RecordedMapper if issubclass(base, Mapper) else RecordedFilter
    assert issubclass(base, Mapper | Filter), base
    return types.new_class(f"Recorded{base.__name__}", (mixin, base))


@contextlib.contextmanager
def registered(names: Iterable[str]) -> Iterator[None]:
    """Register recorded operators in the place of the library's for a while."""
    before = {name: OPERATORS.modules[name] for name in names}
    for name, base in before.items():
        replacement = RecordedMinhash if name == MINHASH else recorded(base)
        OPERATORS.register_module(name, replacement, force=True)
    OPERATORS.register_module(SINK, RaySinkMapper, force=True)
    try:
        yield
    finally:
        del OPERATORS.modules[SINK]
        OPERATORS.modules.update(before)


def _rows(table: Any) -> Rows:
    """Columns as lists, those of RECORD added; columns that the library added are left out."""
    rows: Rows = table if isinstance(table, dict) else table.to_pydict()
    if "dropped_by" not in rows:
        count = len(rows[UID])
        rows |= {
            "dropped_by": [0] * count,
            "failed": [False] * count,
            "edits": [""] * count,
            "stats": [""] * count,
            "size": [len(text.encode()) for text in rows["text"]],
        }
    return {name: rows[name] for name in (*ROW.names, *RECORD.names[1:])}


def _drop(rows: Rows, i: int, position: int, *, failed: bool = False) -> None:
    rows["dropped_by"][i], rows["failed"][i], rows["text"][i] = position, failed, ""


def _each(operator: Any, native: Callable[..., Any], samples: Rows) -> Rows:
    """A batch through an operator that may take one sample at a time only."""
    results = [native(one) for one in _singles(operator, samples)]
    return {name: [value for r in results for value in r[name]] for name in samples}


def _singles(operator: Any, samples: Rows) -> list[Rows]:
    if operator.is_batched_op():
        return [samples]
    count = len(next(iter(samples.values())))
    return [{name: [values[i]] for name, values in samples.items()} for i in range(count)]


def _numbers(stats: dict[str, Any]) -> str:
    plain = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in stats.items()
    }
    kept = {n: v for n, v in plain.items() if isinstance(v, int | float) or n in (MATCHES, REASON)}
    return json.dumps(kept)


def _node() -> str:
    """Id of this node, kept in every file that it writes."""
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def _write_parts(rows: Rows, schema: pa.Schema, folder: Path) -> None:
    """One parquet file per partition, absent or complete, named after its documents."""
    parts: dict[str, list[int]] = {}
    for i in range(len(rows[UID])):
        parts.setdefault(rows["part"][i], []).append(i)
    for part, at in parts.items():
        uids = np.array([rows[UID][i] for i in at], np.int64)
        columns = {n: [rows[n][i] for i in at] for n in schema.names}
        table = pa.table(columns, schema=schema.with_metadata({"node": _node()}))
        target = (
            folder / part / f"{hashlib.blake2b(uids.tobytes(), digest_size=16).hexdigest()}.parquet"
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
        pq.write_table(table, aside, compression="zstd")
        sync(aside)
        aside.replace(target)
