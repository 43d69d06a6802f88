"""Every stage that stands in a store, finished, running or interrupted.

STORE/<stage>/<key>/             finished: manifest.json
STORE/<stage>/<key>.partial/     running where <key>.lock is held, else interrupted
    .scratch/begun.json          label, inputs and configuration of one that is not finished
"""

import contextlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from common.errors import SteelError
from common.files import PARTIAL
from common.paths import resolve
from tasks.core.lock import is_held
from tasks.core.manifest import BEGUN, StageResult

KEY = re.compile(r"[0-9a-f]{16}")

State = Literal["finished", "running", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A stage in a store."""

    stage: str
    """Name of the stage."""
    key: str
    """Hash of everything the result depends on."""
    folder: Path
    """Its place, with `.partial` while it is not finished."""
    state: State
    """Finished, running (a live process holds its lock), or interrupted."""
    at: float
    """Time, in seconds since 1970: of the end, or of the last change."""
    about: Mapping[str, Any] = field(repr=False)
    """The manifest, or as much of it as is known of one that is not finished."""

    @property
    def label(self) -> str:
        """Tells several of one stage apart: the mixture, the configuration, the data set."""
        return str(self.about.get("label") or "")

    @property
    def title(self) -> str:
        """Name of the configuration in a report."""
        config = self.about.get("config")
        return str(config.get("title") or "") if isinstance(config, Mapping) else ""

    @property
    def words(self) -> str:
        """`stage/key, label`."""
        return f"{self.stage}/{self.key}" + (f", {self.label}" if self.label else "")

    @cached_property
    def lock(self) -> Path:
        """The file that a process holds while it works on this key."""
        return self.folder.with_name(f"{self.key}.lock")

    @cached_property
    def num_bytes(self) -> int:
        """Bytes of its files."""
        files = self.about.get("files") if self.state == "finished" else None
        if isinstance(files, list):
            return sum(int(entry["bytes"]) for entry in files)
        return folder_bytes(self.folder)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder, or of a file; what vanishes meanwhile counts nothing."""
    total = 0
    for path in [folder, *folder.rglob("*")]:
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
    return total


def entries(store: Path, stages: Collection[str] = ()) -> list[Entry]:
    """The stages of a store (of these kinds; default: all), oldest first.

    A folder whose manifest cannot be read is left out: `steel verify` and `steel doctor` name it.
    """
    store = resolve(store)
    found = []
    for place in sorted(store.glob("*/*")):
        if stages and place.parent.name not in stages:
            continue
        with contextlib.suppress(OSError, SteelError):
            entry = _entry(place)
            if entry is not None:
                found.append(entry)
    return sorted(found, key=lambda entry: entry.at)


def finished_folders(store: Path, stage: str = "*") -> Iterator[Path]:
    """Yield the folders of the finished stages of a store, or of those of one name."""
    for manifest in store.glob(f"{stage}/*/manifest.json"):
        if manifest.parent.suffix != PARTIAL:
            yield manifest.parent


def folders_by_key(store: Path) -> dict[str, Path]:
    """Key -> folder of every finished stage of a store."""
    return {folder.name: folder for folder in finished_folders(store)}


def finished_at(folder: Path) -> float:
    """Time at which a stage was finished, in seconds since 1970."""
    return (folder / "manifest.json").stat().st_mtime


def _entry(place: Path) -> Entry | None:
    if place.suffix == "" and (place / "manifest.json").is_file():
        result = StageResult.read(place)
        return Entry(
            stage=place.parent.name,
            key=result.key,
            folder=place,
            state="finished",
            at=finished_at(place),
            about=result.manifest,
        )
    key = place.name.removesuffix(PARTIAL)
    if place.suffix != PARTIAL or not place.is_dir() or "." in key:
        return None
    about: Mapping[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        about = json.loads((place / BEGUN).read_text(encoding="utf-8"))
    return Entry(
        stage=place.parent.name,
        key=key,
        folder=place,
        state="running" if is_held(place.with_name(f"{key}.lock")) else "interrupted",
        at=_changed(place),
        about=about if isinstance(about, dict) else {},
    )


def _changed(folder: Path) -> float:
    """The last change of a folder or of a file directly in it."""
    times = [folder.stat().st_mtime]
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def mentioned(entry: Entry, known: Collection[str]) -> set[str]:
    """Keys of other stages that a stage names: its inputs, models and appended data that its
    settings and its journal say.

    known: keys that the store has; other words of 16 digits are none.
    """
    return set(_keys_in(entry)) & set(known) - {entry.key}


def _keys_in(entry: Entry) -> Iterator[str]:
    if entry.state == "finished":
        shown = {key: value for key, value in entry.about.items() if key != "files"}
        yield from KEY.findall(json.dumps(shown, default=str))
    else:
        yield from KEY.findall(json.dumps(dict(entry.about), default=str))
    for pattern in ("*.json", "manifests/*.json", "requests/*.json", ".scratch/*.json"):
        for path in entry.folder.glob(pattern):
            if path.name == "manifest.json" or path.stat().st_size > 20_000_000:
                continue
            with contextlib.suppress(OSError):
                yield from KEY.findall(path.read_text(encoding="utf-8", errors="replace"))
    for link in entry.folder.glob(".scratch/inputs/*/*"):
        with contextlib.suppress(OSError):
            yield from KEY.findall(str(link.resolve()))


def links_of(everything: Collection[Entry]) -> dict[str, set[str]]:
    """Key of each stage -> keys of the others that it names."""
    known = {entry.key for entry in everything}
    return {entry.key: mentioned(entry, known) for entry in everything}


def with_inputs(start: Collection[str], links: Mapping[str, set[str]]) -> set[str]:
    """Keys, and the keys of all that they were made from.

    links: key -> keys that it was made from; those that it does not have are left out.
    """
    found: set[str] = set()
    waiting = [key for key in start if key in links]
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += links[key]
    return found
