"""Checkpoints that are whole or absent, written while training goes on.

    lease/00000007-5be2…/…-step-00000300/   being written, in the folder of this session
    checkpoints/step-00000300/
        __0_0.distcp __1_0.distcp .metadata   tensors: a slice per rank (torch's DCP format)
        trainer.json data_state.json …        position, settings, model, tokenizer
        complete.json                         size and CRC-32 of everything above; written last

    training    ──step──┤copy to host├──step──step──step──step──step──┤copy├──step──
    background                       └─▶ tensors ─▶ fsync, CRC ─▶ marker, rename ─▶ retire

Every rank writes and checks its own files; then complete.json, fsync, one rename. The background
thread of each rank talks to the others over a gloo group of its own: on the default group its
messages would meet those of the training step. A save waits for the one before. Resuming takes the
newest checkpoint whose every file still has its checksum, on any number of ranks.
"""

import dataclasses
import datetime
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from common.errors import DataError, StageError
from common.files import crc32_of_file, sync, write_text
from model.entry.launch import SHUTDOWN_SECONDS
from model.train.checkpoint.folders import (
    MARKER,
    complete_checkpoints,
    find_damage,
    folder_name,
    read_files,
    read_info,
    read_marker,
)
from model.train.checkpoint.reader import METADATA, failures, load_into
from model.train.checkpoint.retention import (
    CheckpointInfo,
    CheckpointSettings,
    kept_steps,
    permanent_steps,
)
from model.train.checkpoint.staging import HostCopy
from model.train.distributed.context import DistributedContext
from model.train.distributed.lost_rank import is_lost_rank
from model.train.run.lease import Lease

log = logging.getLogger(__name__)

GROUP_TIMEOUT = datetime.timedelta(hours=1)
"""Of the background's messages: the slowest rank's disk may take so much longer than the others."""

DAMAGED = ".damaged"
"""Suffix of a checkpoint that was found to be damaged."""

Files = Mapping[str, str | bytes]
"""Content by file name, which may lie one folder down."""


@dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """A checkpoint whose tensors were loaded in place."""

    step: int
    files: dict[str, str]
    """Text of its JSON files by name."""


class Checkpoints:
    """The checkpoints of one run; public methods are called by all ranks together, by one thread.

    Args:
        folder: of the checkpoints.
        ranks: these ranks.
        lease: of the run's folder, in which `folder` is.
        settings: which are kept.
        on_permanent: called on rank 0 after each change with the checkpoints that are kept for
            good; returns folders that are being read and must stay a while.
    """

    def __init__(
        self,
        folder: Path,
        ranks: DistributedContext,
        lease: Lease,
        settings: CheckpointSettings,
        *,
        on_permanent: Callable[[list[Path]], set[Path]] = lambda paths: set(),
    ) -> None:
        self.folder = folder
        self.ranks = ranks
        self.lease = lease
        self.settings = settings
        self.on_permanent = on_permanent
        self.last_seconds: float | None = None
        """Seconds of the last finished save from its beginning until it was durable."""
        group = dist.new_group(backend="gloo", timeout=GROUP_TIMEOUT)
        self._background = dataclasses.replace(ranks, control=group)
        self._copy = HostCopy()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def failed(self) -> bool:
        """True when the save in the background has failed; `wait` raises why."""
        return self._error is not None

    def save(
        self, entry: CheckpointInfo, tensors: Mapping[str, Tensor], files: Files, *, wait: bool
    ) -> float:
        """Begin a checkpoint of the state as it is now.

        wait: return only when it is durable. Otherwise the caller waits for the save before, and
        for the copy to host memory, and may change the tensors then.

        Returns the seconds that the caller was held up. Raises StageError when the disk refused
        this save (with `wait`) or the one before.
        """
        started = time.perf_counter()
        self.wait()
        copies = self._copy.take(tensors)
        self._thread = threading.Thread(
            target=self._run,
            args=(entry, copies, files, started),
            daemon=True,
            name=f"save-{entry.step}",
        )
        self._thread.start()
        if wait:
            self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        """Until nothing is being saved. Raises StageError when that save failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self, seconds: float) -> None:
        """At the end, also after an error: give a running save so long to become complete."""
        if self._thread is not None:
            self._thread.join(seconds)

    def load_newest(
        self, tensors: Mapping[str, Tensor], *, rollback_from: int | None = None
    ) -> LoadedCheckpoint | None:
        """Load the newest intact checkpoint into `tensors`; None when there is none at all.

        A damaged one is named in a warning, set aside as `*.damaged`, and the one before it is
        taken.

        rollback_from: only regular checkpoints of this step or earlier; None when none of them is
        intact.

        Raises DataError when there were checkpoints and all of them are damaged, or when the newest
        intact one holds another model.
        """
        names = self.ranks.gather(self._candidates(rollback_from) if self.ranks.is_main else [])[0]
        for name in reversed(names):
            folder = self.folder / name
            if damage := self._damage(folder):
                log.warning("checkpoint %s is damaged (%s); taking the one before", name, damage)
                self.ranks.barrier()
                if self.ranks.is_main:
                    self.lease.move(folder, folder.with_name(name + DAMAGED))
                continue
            load_into(folder, tensors, self.ranks.control)
            marker = read_marker(folder)
            texts = [n for n in marker["files"] if n.endswith(".json") and "/" not in n]
            files = read_files(folder, texts)
            return LoadedCheckpoint(step=int(marker["step"]), files=files)
        if names and rollback_from is None:
            raise DataError(
                f"every checkpoint in {self.folder} is damaged ({', '.join(names)}, now named "
                "*.damaged); restore one of them, or start again to train from the beginning"
            )
        return None

    def remove_after(self, step: int) -> None:
        """Remove checkpoints beyond a step: they were rolled back."""
        if self.ranks.is_main:
            for path in reversed(complete_checkpoints(self.folder)):
                if read_info(path).step > step:
                    self.lease.remove(path)
        self.remove_leftovers()

    def remove_leftovers(self) -> None:
        """Remove what interrupted saves left and what the settings do not keep; what was found to
        be damaged stays until the next save, to be looked at."""
        if self.ranks.is_main:
            self._remove_unneeded(keep_damaged=True)
        self.ranks.barrier()

    def _candidates(self, rollback_from: int | None) -> list[str]:
        complete = complete_checkpoints(self.folder)
        if rollback_from is not None:
            entries = {path: read_info(path) for path in complete}
            complete = [p for p, e in entries.items() if e.regular and e.step <= rollback_from]
        return [path.name for path in complete]

    def _damage(self, folder: Path) -> str:
        """Say what is wrong with a checkpoint, or ""; the ranks share the reading."""
        found = find_damage(folder, part=self.ranks.rank, parts=self.ranks.world_size)
        return next((text for text in self.ranks.gather(found) if text), "")

    def _run(
        self, entry: CheckpointInfo, tensors: dict[str, Tensor], files: Files, started: float
    ) -> None:
        """The background thread."""
        try:
            if self.ranks.device.type == "cuda":
                # A thread begins on GPU 0, where DCP's loader would open a context for every rank.
                torch.cuda.set_device(self.ranks.device)
            self._write(entry, tensors, files)
            self.last_seconds = time.perf_counter() - started
            if self.ranks.is_main and 2 * self.last_seconds > SHUTDOWN_SECONDS:
                log.warning(
                    "a checkpoint takes %.0f s: SIGTERM, after which ranks have %d s, may come too "
                    "late for one more; the training then resumes from the newest complete one",
                    self.last_seconds,
                    SHUTDOWN_SECONDS,
                )
        except BaseException as error:
            self.lease.check()
            # What is said elsewhere needs no stack trace here.
            if not isinstance(error, StageError) and not is_lost_rank(error):
                log.exception("checkpoint %s: saving failed", folder_name(entry.step))
            self._error = error

    def _write(self, entry: CheckpointInfo, tensors: dict[str, Tensor], files: Files) -> None:
        ranks = self._background
        final = self.folder / folder_name(entry.step)

        def prepare() -> str:
            if not ranks.is_main:
                return ""
            prepared = self.lease.stage(final.name)
            prepared.mkdir()
            return prepared.name

        def describe() -> dict[str, Any]:
            written = sorted(partial.glob(f"__{ranks.rank}_*"))
            if ranks.is_main:
                written += [_write_file(partial, *item) for item in files.items()]
                written.append(partial / METADATA)
            for file in written:
                sync(file)
            return {
                str(file.relative_to(partial)): {
                    "bytes": file.stat().st_size,
                    "crc32": crc32_of_file(file),
                }
                for file in written
            }

        def publish() -> None:
            if ranks.is_main:
                marker = {**dataclasses.asdict(entry), "world_size": ranks.world_size}
                write_text(partial / MARKER, json.dumps({**marker, "files": checksums}, indent=2))
                self.lease.publish_folder(partial, final)
                try:
                    self._remove_unneeded()
                except OSError as error:  # this checkpoint is safe; the next save tries again
                    log.warning("old checkpoints could not be removed: %s", error)

        name: str = self._on_all_ranks(final, prepare)[0]
        partial = self.lease.folder / name
        try:
            try:
                save_tensors(
                    dict(tensors), storage_writer=_Writer(partial), process_group=ranks.control
                )
            except CheckpointException as error:  # a BaseException, alike on every rank
                raise self._save_error(final, failures(error)) from error
            described = self._on_all_ranks(final, describe)
            checksums = {name: about for part in described for name, about in sorted(part.items())}
            self._on_all_ranks(final, publish)
        except StageError:
            if ranks.is_main:  # make room: nothing will complete it
                shutil.rmtree(partial, ignore_errors=True)
            raise

    def _on_all_ranks(self, final: Path, action: Callable[[], Any]) -> list[Any]:
        """Do something on every rank; all fail alike when one does. Returns each rank's result."""
        result, problem = None, ""
        try:
            result = action()
        except OSError as error:
            self.lease.check()
            problem = str(error)
        everyone = self._background.gather((result, problem))
        if problems := sorted({text for _, text in everyone if text}):
            raise self._save_error(final, "; ".join(problems))
        return [result for result, _ in everyone]

    def _save_error(self, final: Path, why: str) -> StageError:
        return StageError(
            f"checkpoint {final.name} could not be written to {self.folder}: {why}. "
            "Earlier checkpoints are untouched; make room there and start again"
        )

    def _remove_unneeded(self, *, keep_damaged: bool = False) -> None:
        """Remove all that is not kept, and what interrupted saves left; on rank 0."""
        complete = {path: read_info(path) for path in complete_checkpoints(self.folder)}
        good = permanent_steps(complete.values(), self.settings)
        in_use = self.on_permanent([path for path, entry in complete.items() if entry.step in good])
        stay = kept_steps(complete.values(), self.settings)
        for path, entry in complete.items():
            if entry.step not in stay and path not in in_use:
                self.lease.remove(path)
        for leftover in self.folder.glob("step-*.*"):
            if not (keep_damaged and leftover.suffix == DAMAGED):
                self.lease.remove(leftover)


class _Writer(FileSystemWriter):
    """DCP's writer into a folder that is there: it makes none, which would be another session's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, sync_files=False)
        self.fs = _Folder()

    def storage_meta(self) -> StorageMeta:
        """Name no path and no random number: equal states have equal checkpoints."""
        return StorageMeta()


class _Folder(FileSystem):
    def mkdir(self, path: str | os.PathLike[str]) -> None:
        Path(path).mkdir(exist_ok=True)


def _write_file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
