"""Files that no process needs any more: of killed runs, of interrupted removals and copies.

STORE/<stage>/<key>.lock              of a process that is dead
STORE/<stage>/<key>.lock.<token>…     of a process killed while it took a lock
STORE/<stage>/<name>.old.partial      a folder that was being removed
STORE/<stage>/<key>.scratch           working files of a stage that is finished
STORE/cache/**/<name>.partial         an entry that was being written
STORE/**/.<name>.….partial            an export, a row of a table that was being written
TMP/steel-…                           working folders of a chat, a sandbox, a Ray cluster
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common.files import PARTIAL, remove_folder
from common.paths import resolve
from tasks.core.lock import is_held
from tasks.core.manifest import SCRATCH
from tasks.core.results.entries import folder_bytes

QUIET_SECONDS = 3600.0
"""Time without a change after which something half written counts as left over."""
IDLE = 24
"""So many times that for a working folder, whose owner may wait for a person."""

Leftover = tuple[Path, str, int]
"""A path, the reason why nobody needs it, and its bytes."""


def leftovers(store: Path, *, quiet: float = QUIET_SECONDS) -> list[Leftover]:
    """Leftovers of a store and of this user's temporary folder.

    quiet: seconds without a change that what has no owner of its own must have.
    """
    store = resolve(store)
    return [*_locks(store, quiet), *_half_written(store, quiet), *_temporary(quiet)]


def remove_leftover(path: Path) -> None:
    """Remove a leftover, so that half of it never looks complete. Raises OSError."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    elif path.name.endswith(PARTIAL):
        shutil.rmtree(path)
    else:
        remove_folder(path)


def _locks(store: Path, quiet: float) -> Iterator[Leftover]:
    for path in sorted(store.glob("*/*.lock")):
        if path.is_file() and not is_held(path):
            yield path, "the lock of a process that is dead", path.stat().st_size
    for path in sorted(store.glob("*/*.lock.*")):
        if path.is_file() and _unchanged(path, quiet):
            yield path, "left by a process that was killed while it took a lock", 0


def _half_written(store: Path, quiet: float) -> Iterator[Leftover]:
    for pattern in (f"*/*.old{PARTIAL}", f"*/*/*.old{PARTIAL}", f"*/*/*/*.old{PARTIAL}"):
        for path in sorted(store.glob(pattern)):
            yield path, "its removal was interrupted", folder_bytes(path)
    for path in sorted(store.glob(f"*/*{SCRATCH}")):
        if (path.with_suffix("") / "manifest.json").is_file() and _unchanged(path, quiet):
            yield path, "working files of a stage that is finished", folder_bytes(path)
    running = any(is_held(path) for path in store.glob("*/*.lock"))
    caches = [f"cache/{folders}*{PARTIAL}" for folders in ("", "*/", "*/*/")]
    for pattern in (*caches, f".*{PARTIAL}", f"*/.*{PARTIAL}", f"exports/*{PARTIAL}"):
        for path in sorted(store.glob(pattern)):
            if not running and not path.name.endswith(f".old{PARTIAL}") and _unchanged(path, quiet):
                yield path, "half written", folder_bytes(path)


def _temporary(quiet: float) -> Iterator[Leftover]:
    named = _named_by_processes()
    for path in sorted(Path(tempfile.gettempdir()).glob("steel-*")):
        with contextlib.suppress(OSError):
            own = path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid()
            known = path.name.startswith(("steel-chat-", "steel-ray-", "steel-sandbox-"))
            if own and known and _unchanged(path, IDLE * quiet) and str(path) not in named:
                yield path, "a working folder of a process that is gone", folder_bytes(path)


def _named_by_processes() -> str:
    """Command lines and current folders of the processes that this user may look at."""
    texts = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            texts.append((process / "cmdline").read_bytes().decode(errors="replace"))
            texts.append(str((process / "cwd").readlink()))
    return "\n".join(texts)


def _unchanged(path: Path, quiet: float) -> bool:
    """True if nothing below a path has changed for a while."""
    last = 0.0
    for inner in [path, *(path.rglob("*") if path.is_dir() else ())]:
        with contextlib.suppress(OSError):
            last = max(last, inner.lstat().st_mtime)
    return time.time() - last >= quiet
