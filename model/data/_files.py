"""Files that are either absent or complete, and digests of what they hold.

Everything in this package is published the same way: written under another name in the same folder,
flushed to the disk, renamed, and the folder flushed too, so that a power cut leaves the old file or
the new one and never half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
"""Suffix of a file that is still being written; whoever finds one may delete it."""

_CHUNK = 1 << 22


def canonical_json(value: object) -> str:
    """One spelling for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest_of(value: object) -> str:
    """MD5 (32 hex digits) of a value's canonical JSON. Guards against accidents, not attacks."""
    return hashlib.md5(canonical_json(value).encode(), usedforsecurity=False).hexdigest()


def md5_of_file(path: Path) -> str:
    """MD5 (32 hex digits) of every byte of a file, read in bounded memory."""
    md5 = hashlib.md5(usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            md5.update(chunk)
    return md5.hexdigest()


def hashing_threads() -> int:
    """Threads that hash at once: this rank's share of the machine's cores, at most eight.

    Hashing releases the GIL. Eight threads take about 5 GB/s, more than most disks give.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(8, (cores or 1) // ranks))


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Publish a JSON file atomically, indented for people."""
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)
