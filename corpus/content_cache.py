"""Files that are made once for the same content: kept in a store's folder `cache`, under a hash.

    everything that decides about them ─▶ <cache>/<name>-<hash>/ the files, checksums.json

Where the hash covers the inputs, the code and the versions of libraries, what is found is what
would be made, and never stale. What is damaged is made again; the folder may be deleted at any
time. Processes that make the same at once write the same, each by one rename.
"""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from common.files import PARTIAL, complete_file, hash_of, sha256_of_file, sync, write_json
from common.paths import ROOT

CHECKSUMS = "checksums.json"


def made_once(
    cache: Path, name: str, material: object, folder: Path, make: Callable[[], Sequence[str]]
) -> bool:
    """Put files into `folder`: copies of those in the cache, or made, and kept there.

    Args:
        cache: folder of everything that is kept; made when it is not there.
        name: beginning of the entry's name.
        material: all that decides about the files, as JSON.
        folder: where the files go.
        make: makes them there, and returns their names.

    Returns True if they were in the cache.
    """
    entry = cache / f"{name}-{hash_of(material)}"
    if _copied(entry, folder):
        return True
    _keep(entry, folder, make())
    return False


def _copied(entry: Path, folder: Path) -> bool:
    """Copy the files of an entry; False, and none of them, where one is missing or damaged."""
    try:
        sums: dict[str, str] = json.loads((entry / CHECKSUMS).read_bytes())
        found = {name: (entry / name).read_bytes() for name in sums}
    except (OSError, ValueError):
        return False
    if any(hashlib.sha256(found[name]).hexdigest() != sums[name] for name in sums):
        return False
    for name, content in found.items():
        with complete_file(folder / name) as file:
            file.write(content)
    return True


def _keep(entry: Path, folder: Path, names: Sequence[str]) -> None:
    partial = entry.with_name(f"{entry.name}.{os.getpid()}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    sums = {}
    for name in names:
        content = (folder / name).read_bytes()
        (partial / name).write_bytes(content)
        sync(partial / name)
        sums[name] = hashlib.sha256(content).hexdigest()
    write_json(partial / CHECKSUMS, sums)
    shutil.rmtree(entry, ignore_errors=True)  # it is damaged, or the same
    try:
        partial.rename(entry)
    except OSError:  # another process was faster
        shutil.rmtree(partial, ignore_errors=True)
    sync(entry.parent)


@functools.cache
def code_digest(folder: str) -> str:
    """Hash of all Python files below a folder of the project."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT).as_posix()} {sha256_of_file(path)}\n".encode())
    return digest.hexdigest()


def files_digest(files: Sequence[Path]) -> list[list[str]]:
    """Name and hash of each of some small files."""
    return [[path.name, sha256_of_file(path)] for path in files]


@functools.cache
def library_versions() -> dict[str, str]:
    """Version of every installed package: an operator may import any of them."""
    return dict(sorted(_versions()))


def _versions() -> Iterator[tuple[str, str]]:
    for package in metadata.distributions():
        yield package.metadata["Name"], package.version
