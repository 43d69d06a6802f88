"""Writing and reading shards of token ids.

    add_documents(ids) ─▶ name.bin.partial ──close──▶ name.idx, name.bin, name.json (last)
                           MD5 on the way                fsync, rename

    name.idx    start of each document [n] uint64, in tokens │ digest of each text [n] uint64

A shard holds documents to train on, or held-out ones (model/data/held_out.py), never both.
A shard is closed as soon as it holds `shard_tokens` ids; documents are never cut, so a shard is a
little larger than asked. Where shards end depends only on the documents and on `shard_tokens`:
packing that was interrupted continues after the last finished shard (its .json says where) and
gives the same bytes as packing that was not.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from common.errors import DataError
from common.files import PARTIAL, md5_of_file, sync, write_json
from model.data.held_out import Digests, Split
from model.data.manifest import DType, ShardInfo

_NUMPY: dict[str, str] = {"uint16": "<u2", "uint32": "<u4"}


def dtype_for(vocab_size: int) -> DType:
    """The smallest type that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


@dataclass(frozen=True, kw_only=True)
class FinishedShard:
    """A published shard and how far into its cleaned file it reaches."""

    info: ShardInfo
    """Its entry in the manifest."""
    position: int
    """Opaque to this module: the `position` given with its last document."""


class ShardWriter:
    """Appends documents to `<name>-00000.bin`, `<name>-00001.bin`, …, of one split.

    Held-out documents go to `<name>-validation-00000.bin`, …

    Continues after the shards that are already finished in the folder: see `finished` and
    `position` for where to go on feeding. Use as a context manager; leaving it by an exception
    publishes nothing unfinished.

    Args:
        folder: where the shards go; created if absent.
        source: name of the corpus.
        name: first part of the file names; the source's where it has one writer.
        dtype: type of an id on disk.
        shard_tokens: close a shard once it holds this many ids (>= 1).
        split: of all its documents.
        cleaned_file: recorded in the manifest.

    Raises:
        DataError: an id does not fit the dtype, or a finished shard in the folder is damaged.
    """

    def __init__(
        self,
        folder: Path,
        *,
        source: str,
        dtype: DType,
        shard_tokens: int,
        split: Split = "train",
        cleaned_file: str = "",
        name: str = "",
    ) -> None:
        assert shard_tokens >= 1
        self.folder = folder
        self.source = source
        self.split: Split = split
        self.name = (name or source) + ("-validation" if split == "validation" else "")
        self.dtype: DType = dtype
        self.shard_tokens = shard_tokens
        self.cleaned_file = cleaned_file
        folder.mkdir(parents=True, exist_ok=True)
        self.finished: list[FinishedShard] = self._find_finished()
        self._file: IO[bytes] | None = None
        self._starts: list[npt.NDArray[np.integer[Any]]] = []
        self._digests: list[Digests] = []
        self._num_tokens = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._position = self.position

    @property
    def position(self) -> int:
        """`position` of the last document in a finished shard; 0 where there is none."""
        return self.finished[-1].position if self.finished else 0

    @property
    def shards(self) -> list[ShardInfo]:
        """Shards published so far."""
        return [shard.info for shard in self.finished]

    def add_documents(
        self,
        ids: npt.NDArray[np.integer[Any]],
        offsets: npt.NDArray[np.integer[Any]],
        positions: Sequence[int],
        digests: Digests,
    ) -> None:
        """Append many documents; the shards are those of appending them one by one.

        Args:
            ids: token ids of all of them [T], their end-of-document ids included.
            offsets: where each begins, and T [n + 1]; ascending, no document is empty.
            positions: where in the input each document ends [n].
            digests: of their texts, uint64 [n] (model/data/held_out.py).
        """
        starts = offsets.astype(np.int64)
        assert ids.ndim == 1 and starts[0] == 0 and starts[-1] == ids.size
        assert len(positions) == starts.size - 1 and bool((np.diff(starts) > 0).all()), (
            "a document has at least its end"
        )
        assert digests.dtype == np.uint64 and digests.size == len(positions)
        self._check_range(ids)
        data = ids.astype(_NUMPY[self.dtype], copy=False)
        done = 0
        while done < len(positions):
            room = starts[done] + self.shard_tokens - self._num_tokens
            last = min(int(np.searchsorted(starts, room)), len(positions))
            self._append(data[starts[done] : starts[last]], starts[done:last] - starts[done])
            self._digests.append(digests[done:last])
            self._position = positions[last - 1]
            if self._num_tokens >= self.shard_tokens:
                self._publish()
            done = last

    def _check_range(self, ids: npt.NDArray[np.integer[Any]]) -> None:
        low, high = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
        if low < 0 or high > np.iinfo(self.dtype).max:
            raise DataError(
                f"token id {low if low < 0 else high} of source {self.source!r} does not fit "
                f"{self.dtype}: the tokenizer and the vocabulary size disagree"
            )

    def _append(
        self, data: npt.NDArray[np.integer[Any]], starts: npt.NDArray[np.integer[Any]]
    ) -> None:
        if self._file is None:
            self._file = self._partial.open("wb")
        view = np.ascontiguousarray(data).view(np.uint8).data
        self._md5.update(view)
        self._file.write(view)
        self._starts.append(starts + self._num_tokens)
        self._num_tokens += data.size

    def close(self) -> list[ShardInfo]:
        """Publish the last, possibly small, shard; returns all shards of this name."""
        if self._starts:
            self._publish()
        return self.shards

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif self._file is not None:
            self._file.close()

    @property
    def _stem(self) -> str:
        return f"{self.name}-{len(self.finished):05d}"

    @property
    def _partial(self) -> Path:
        return self.folder / f"{self._stem}.bin{PARTIAL}"

    def _publish(self) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        starts = np.concatenate(self._starts)
        index = starts.astype("<u8").tobytes()
        index += np.concatenate(self._digests).astype("<u8").tobytes()
        index_partial = self.folder / f"{self._stem}.idx{PARTIAL}"
        with index_partial.open("wb") as file:
            file.write(index)
            file.flush()
            os.fsync(file.fileno())
        info = ShardInfo(
            name=f"{self._stem}.bin",
            source=self.source,
            split=self.split,
            num_tokens=self._num_tokens,
            num_documents=starts.size,
            md5=self._md5.hexdigest(),
            index_md5=hashlib.md5(index, usedforsecurity=False).hexdigest(),
            dtype=self.dtype,
            cleaned_file=self.cleaned_file,
        )
        index_partial.replace(self.folder / info.index_name)
        self._partial.replace(self.folder / info.name)
        sync(self.folder)
        # The sidecar comes last: a shard without one is unfinished and is written again.
        write_json(
            self.folder / f"{self._stem}.json",
            {"position": self._position, "shard_tokens": self.shard_tokens, "shard": asdict(info)},
        )
        self.finished.append(FinishedShard(info=info, position=self._position))
        self._file, self._starts, self._digests, self._num_tokens = None, [], [], 0
        self._md5 = hashlib.md5(usedforsecurity=False)

    def _find_finished(self) -> list[FinishedShard]:
        finished: list[FinishedShard] = []
        while True:
            sidecar = self.folder / f"{self.name}-{len(finished):05d}.json"
            if not sidecar.is_file():
                return finished
            raw = json.loads(sidecar.read_text(encoding="utf-8"))
            mine = (self.shard_tokens, self.dtype, self.source, self.split)
            found = tuple(raw["shard"].get(name) for name in ("dtype", "source", "split"))
            if (raw["shard_tokens"], *found) != mine:
                raise DataError(
                    f"{sidecar} was written with other settings (shard_tokens, dtype, source or "
                    f"split), or by an earlier version: delete {self.folder} and pack again"
                )
            info = ShardInfo(**raw["shard"])
            check_shard(self.folder, info)
            finished.append(FinishedShard(info=info, position=int(raw["position"])))


def remove_leftovers(folder: Path, shards: Iterable[ShardInfo]) -> None:
    """Delete what only resuming needs: call it once the manifest is written."""
    for shard in shards:
        (folder / Path(shard.name).with_suffix(".json").name).unlink(missing_ok=True)
    for partial in folder.glob(f"*{PARTIAL}"):
        partial.unlink()
    sync(folder)


def check_shard(folder: Path, shard: ShardInfo) -> None:
    """Compare both files of a shard with the manifest, byte for byte through MD5.

    Raises:
        DataError: a file is missing, truncated, too long, or holds other content; names the shard.
    """
    check_sizes(folder, shard)
    for path, name, expected in (
        (folder / shard.name, "md5", shard.md5),
        (folder / shard.index_name, "index_md5", shard.index_md5),
    ):
        if (found := md5_of_file(path)) != expected:
            raise DataError(
                f"shard {shard.name!r} of source {shard.source!r} does not hold what was packed: "
                f"{name} of {path} is {found}, the manifest says {expected}. Restore it or pack "
                "again"
            )


def open_tokens(folder: Path, shard: ShardInfo) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Memory-map the ids of a shard, read-only, [num_tokens]. Checks the size, not the content."""
    path = folder / shard.name
    _check_size(path, shard.num_bytes, shard)
    return np.memmap(path, dtype=_NUMPY[shard.dtype], mode="r")


def map_tokens(folder: Path, shard: ShardInfo) -> npt.NDArray[Any]:
    """`open_tokens` for many shards: without a file descriptor each, and int32 instead of uint32.

    Ids stay below 2**31, so nothing is lost, and int32 is what torch computes with.
    """
    path = folder / shard.name
    _check_size(path, shard.num_bytes, shard)
    return _map(path, "uint16" if shard.dtype == "uint16" else "int32", shard.num_tokens)


def map_starts(folder: Path, shard: ShardInfo) -> npt.NDArray[np.int64]:
    """Memory-map the start of each document, in tokens, ascending, int64 [num_documents]."""
    path = folder / shard.index_name
    _check_size(path, shard.index_bytes, shard)
    return _map(path, "int64", shard.num_documents)


def open_digests(folder: Path, shard: ShardInfo) -> Digests:
    """Memory-map the digest of each document's text, read-only, uint64 [num_documents]."""
    path, number = folder / shard.index_name, shard.num_documents
    _check_size(path, shard.index_bytes, shard)
    return np.memmap(path, dtype="<u8", mode="r", offset=8 * number, shape=(number,))


def _map(path: Path, dtype: str, size: int) -> npt.NDArray[Any]:
    import torch  # only here: processes that write shards start two seconds sooner

    assert sys.byteorder == "little", "files are little-endian and used as they are"
    # Python's mmap keeps a file descriptor open for each map; torch's does not. Not shared means
    # that the file is opened for reading only; nothing is ever written to the map.
    kind = getattr(torch, dtype)
    try:
        array = torch.from_file(str(path), shared=False, size=size, dtype=kind).numpy()
    except RuntimeError:  # a kernel that never overcommits counts such maps as memory
        return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=(size,)))
    array.flags.writeable = False
    return array


def check_sizes(folder: Path, shard: ShardInfo) -> tuple[os.stat_result, os.stat_result]:
    """File status of the token file and of the index.

    Raises DataError naming the shard where one is missing, truncated or too long.
    """
    return (
        _check_size(folder / shard.name, shard.num_bytes, shard),
        _check_size(folder / shard.index_name, shard.index_bytes, shard),
    )


def _check_size(path: Path, expected: int, shard: ShardInfo) -> os.stat_result:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise DataError(
            f"shard {shard.name!r} of source {shard.source!r} is missing: {path} does not exist. "
            "Restore it or pack again"
        ) from None
    size = found.st_size
    if size != expected:
        raise DataError(
            f"shard {shard.name!r} of source {shard.source!r} is "
            f"{'truncated' if size < expected else 'too long'}: {path} has {size} of {expected} "
            "bytes. Restore it or pack again"
        )
    return found
