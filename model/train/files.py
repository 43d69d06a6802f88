"""Durable, all-or-nothing file writes."""

import os
import shutil
import zlib
from pathlib import Path


def sync(path: Path) -> None:
    """fsync a file or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Write beside, fsync, rename: a reader sees the old content or the new, never a part."""
    aside = path.with_name(f".{path.name}.partial")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync(path.parent)


def publish_folder(partial: Path, final: Path) -> None:
    """Give a finished folder its final name, replacing what had it; files are fsynced first."""
    for file in sorted(partial.rglob("*")):
        sync(file)
    sync(partial)
    if final.exists():
        # A folder cannot be replaced in one rename; the old one steps aside under a name that
        # nothing reads, so the worst a kill can leave is neither, never a mixture.
        old = final.with_name(f"{final.name}.old.partial")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        partial.rename(final)
        shutil.rmtree(old)
    else:
        partial.rename(final)
    sync(final.parent)


def checksum(path: Path) -> str:
    """CRC-32 of a file's content, 8 hex digits: finds damage, at over 1 GB/s."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            crc = zlib.crc32(block, crc)
    return f"{crc:08x}"
