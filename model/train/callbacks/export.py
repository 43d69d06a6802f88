"""Exports while training goes on: permanent checkpoints become Transformers folders.

    checkpoints/step-00004000/ ──▶ python -m model.entry.export (niced, on the CPU) ──▶
    lease/<this session>/export/ ──one rename──▶
    exports/step-00004000/     as `steel export` writes it; whole or absent

A process of its own: the trainer's interpreter lock and its memory stay free, and what goes wrong
in it is a warning. One export at a time; an interrupted one is begun anew by the next start.
Exports go when their checkpoints go. Rank 0's callback.
"""

import json
import logging
import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from common.child import Child, python
from common.files import remove_folder
from model.train.callbacks.callback import Callback
from model.train.checkpoint.export import ExportJob
from model.train.checkpoint.folders import MARKER
from model.train.run.folder import EXPORT_JOB_FILE
from model.train.run.lease import Lease

if TYPE_CHECKING:
    from model.train.trainer import Trainer

log = logging.getLogger(__name__)


class BackgroundExport(Callback):
    """Exports the checkpoints that are kept for good.

    The process writes into the session's folder only; what it made is published from here.
    """

    def __init__(self, folder: Path, lease: Lease) -> None:
        self.folder, self.lease = folder, lease
        self._changed = threading.Condition()
        self._wanted: list[Path] = []
        self._failed: set[Path] = set()
        self._current: Path | None = None
        self._child: Child | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None

    def keep_checkpoints(self, permanent: list[Path]) -> set[Path]:
        """Export these checkpoints and no others, which are not begun from here on.

        Returns the one that is being read at this moment, which must stay.
        """
        with self._changed:
            self._wanted = list(permanent)
            if self._thread is None and self._next() is not None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="export")
                self._thread.start()
            self._changed.notify_all()
            busy = {self._current} if self._current is not None else set()
        names = {path.name for path in (*self._wanted, *busy)}
        for export in self.folder.glob("step-*"):
            if export.suffix == "" and export.name not in names:
                self.lease.remove(export)
        return busy

    def on_train_end(self, trainer: "Trainer", error: BaseException | None) -> None:
        if error is None:
            self.wait()

    def wait(self) -> None:
        """Return when everything wanted is exported."""
        with self._changed:
            self._changed.wait_for(lambda: self._current is None and self._next() is None)

    def close(self) -> None:
        """End the running export; nothing is left of it but a .partial folder."""
        with self._changed:
            self._stopping = True
            if self._child is not None:
                self._child.stop()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _next(self) -> Path | None:
        """The first checkpoint that has no export yet."""
        if self._stopping:
            return None
        for path in self._wanted:
            if path in self._failed or (self.folder / path.name).exists():
                continue
            if _version(path) is not None:
                return path
        return None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._next() is not None)
                if self._stopping:
                    return
                checkpoint = self._current = self._next()
                assert checkpoint is not None
                version = _version(checkpoint)
                self._child = self._start(checkpoint)
            code = self._child.process.wait()
            with self._changed:
                try:
                    self._finish(checkpoint, version, code)
                except OSError as error:
                    self._failed.add(checkpoint)
                    log.warning("%s could not be exported: %s", checkpoint.name, error)
                self._current = None
                self._changed.notify_all()

    def _finish(self, checkpoint: Path, version: tuple[int, int] | None, code: int) -> None:
        """Publish what the process made, or say why there is nothing."""
        made, export = self._made(checkpoint), self.folder / checkpoint.name
        if version is None or version != _version(checkpoint):
            # A rollback removed it, and another one of that step may stand there now.
            remove_folder(made)
        elif code == 0:
            self.lease.publish_folder(made, export)
            log.info("exported %s to %s", checkpoint.name, export)
        elif not self._stopping:
            self.lease.check()
            self._failed.add(checkpoint)
            assert self._child is not None
            failure = self._child.failure("the export")
            log.warning("%s could not be exported: %s", checkpoint.name, failure)

    def _start(self, checkpoint: Path) -> Child:
        path = self.lease.folder.resolve() / EXPORT_JOB_FILE  # a child starts in the project's root
        out = self._made(checkpoint).resolve()
        job = ExportJob(checkpoint=str(checkpoint.resolve()), out=str(out))
        with self.lease.guard():
            path.write_text(json.dumps(asdict(job)), encoding="utf-8")
        inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
        env = {**inherited, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        return Child(python("model.entry.export", path), path, env=env)

    def _made(self, checkpoint: Path) -> Path:
        """Place where the process writes the export."""
        return self.lease.folder / f"export-{checkpoint.name}"


def _version(checkpoint: Path) -> tuple[int, int] | None:
    """Return what tells a checkpoint from a later one of its name; None when it is gone."""
    try:
        marker = (checkpoint / MARKER).stat()
    except FileNotFoundError:
        return None
    return marker.st_ino, marker.st_mtime_ns
