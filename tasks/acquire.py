"""Bring data sets into the store: their native files, or a sample of them.

    "sample-data"         ── generated here (corpus/sample_data) ─────┐
    path, folder or glob  ── read where it lies (local.py) ────────────┤  moved, copied or
    "hub"                 ── the recipe's files at one commit (hub.py) ┼─ unpacked ──▶ <name>/…
    s3://, https://, …    ── through fsspec (remote.py) ───────────────┘  (transfer.py, archives.py)
                                                                          or sampled (sampling.py)

One instance per kind of data set. The stage's manifest records size and MD5 of every file. After an
interruption files that stand complete are kept, and half ones continued.
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.disk import disk_full, human, require_free_space, total_bytes
from common.errors import ConfigError, DataError
from common.files import write_json
from common.paths import display
from common.recipes import read_yaml, recipe_path
from common.urls import identity, is_url, scheme
from corpus.recipes import corpus
from corpus.sample_data import SampleDataConfig, generator_files, write_dataset
from corpus.sources import hub
from corpus.sources.local import LocalSource, check_local, local_files
from corpus.sources.remote import UrlSource, check_url
from corpus.sources.sampling import sample
from corpus.sources.source import Source, StoredFile
from corpus.sources.transfer import Place, check_names, forget, fresh, space, take_all
from tasks.core.stage import StageRun, stage

__all__ = [
    "HUB",
    "SAMPLE_DATA",
    "AcquireConfig",
    "AcquireKind",
    "acquire",
    "bytes_needed",
    "check",
    "local_files",
]

AcquireKind = Literal["corpora", "sft", "preferences", "evals"]

SAMPLE_DATA = "sample-data"
HUB = "hub"

SAMPLE_DATA_BYTES = 4 * 1024**2
"""Generous size of one generated data set at scale 1."""


@dataclass(frozen=True, kw_only=True)
class AcquireConfig:
    """Which data sets of one kind to bring in, from where, and how much of them."""

    kind: AcquireKind
    """Kind of the data sets: the folder of data_recipes/ that describes them."""
    datasets: Mapping[str, str]
    """Name -> location: "sample-data", "hub", a file, folder or glob (relative ones start at the
    project's root), or a URL of one that fsspec can read."""
    sample_data: SampleDataConfig | None = None
    """Settings of the generator; needed where a location is "sample-data"."""
    fraction: float = 1.0
    """Share of each corpus to take, in bytes as stored; above 0, at most 1. Only for corpora."""
    limit: int = 0
    """Records (lines, items, rows) of each corpus at most; 0 for all. Only for corpora."""

    @property
    def samples(self) -> bool:
        """Whether only a part is taken."""
        return self.fraction < 1 or self.limit > 0

    def recipe_files(self) -> list[Path]:
        """The recipes: what to take from the hub, and checksums."""
        return [
            recipe_path(self.kind, name)
            for name, at in self.datasets.items()
            if at == HUB or pins(self.kind, name)
        ]

    def fingerprint(self) -> dict[str, Any]:
        """What the result depends on outside of the config: files there, the generator's code."""
        outside: dict[str, Any] = {}
        for name, location in self.datasets.items():
            if location == SAMPLE_DATA:
                outside[name] = _generator_digest()
            elif is_url(location):
                # Not what is there: a finished stage is not asked for again. And no secrets.
                outside[name] = hashlib.sha256(identity(location).encode()).hexdigest()
            elif location != HUB:
                outside[name] = [
                    [relative, (stat := path.stat()).st_size, stat.st_mtime_ns]
                    for path, relative in local_files(location)
                ]
        return outside


def check(config: AcquireConfig) -> None:
    """Raise ConfigError for an unknown data set, DataError for one that is missing or empty."""
    _check_sample(config)
    for name, location in config.datasets.items():
        read_yaml(recipe_path(config.kind, name))  # names the known ones when it does not exist
        pins(config.kind, name)
        if location == "sample-world":
            raise ConfigError(
                f"{name}: the location 'sample-world' is now called {SAMPLE_DATA!r}; write that"
            )
        if location == SAMPLE_DATA:
            if config.sample_data is None:
                raise ConfigError(
                    f"acquire.datasets.{name} is {SAMPLE_DATA!r}, which needs `sample_data`, "
                    "for example `sample_data: {seed: 7, scale: 1.0}`"
                )
        elif location == HUB:
            hub.check_hub(config.kind, name)
        elif is_url(location):
            check_url(name, location)
            if scheme(location) == "hf":
                hub.check_hf_url(name, location)
        else:
            check_local(config.kind, name, location)


def _check_sample(config: AcquireConfig) -> None:
    if not 0 < config.fraction <= 1:
        raise ConfigError(
            f"sample.fraction must be above 0 and at most 1 (got {config.fraction}); it is the "
            "share of each corpus that is taken"
        )
    if config.limit < 0:
        raise ConfigError(f"sample.limit must be 0 (all records) or more (got {config.limit})")
    assert config.kind == "corpora" or not config.samples, "only corpora are sampled"


def pins(kind: str, name: str) -> dict[str, str]:
    """`sha256:…` by file name, as the recipe pins them. Raises ConfigError for anything else."""
    path = recipe_path(kind, name)
    pinned = read_yaml(path).get("sha256") or {}
    if not isinstance(pinned, dict):
        raise ConfigError(
            f"{display(path)}: 'sha256' must map file names to checksums (got {pinned!r})"
        )
    for file, digest in pinned.items():
        if not re.fullmatch("[0-9a-fA-F]{64}", str(digest)):
            raise ConfigError(
                f"{display(path)}: the sha256 of {file} must be 64 hexadecimal digits "
                f"(got {digest!r})"
            )
    return {str(file): f"sha256:{digest}" for file, digest in pinned.items()}


def bytes_needed(config: AcquireConfig) -> int:
    """Bytes the stage will write, as far as that can be known without the network."""
    scale = config.sample_data.scale if config.sample_data else 0.0
    streams = config.kind == "corpora"
    total = 0.0
    for location in config.datasets.values():
        if location == SAMPLE_DATA:
            total += scale * SAMPLE_DATA_BYTES
        elif location != HUB and not is_url(location):
            files = LocalSource(location).files()
            total += config.fraction * sum(
                space(file, streams=streams, local=True) for file in files
            )
    return int(total)


@stage(version=2)
def acquire(run: StageRun, config: AcquireConfig) -> None:
    """Write `<name>/…` for every data set. Raises what `check` does, DataError for a full disk."""
    check(config)
    require_free_space(run.folder, bytes_needed(config), f"acquire ({config.kind})")
    rows: list[dict[str, Any]] = []
    revisions: dict[str, dict[str, str]] = {}
    for position, (name, location) in enumerate(config.datasets.items()):
        run.progress(position, len(config.datasets), f"of {config.kind} ({name})")
        place = Place(run=run, name=name, streams=config.kind == "corpora")
        with _clear_disk_full(place):
            row = _dataset(place, config, location, revisions)
        files = [path for path in place.folder.rglob("*") if path.is_file()]
        size = total_bytes(files)
        if not size:
            raise DataError(f"Data set {name!r} is empty: {row['from']} gave no data")
        rows.append({**row, "files": len(files), "bytes": size})
        run.log.info("%s: %d files, %s from %s", name, len(files), human(size), row["from"])
    run.progress(len(rows), len(rows), f"of {config.kind}")
    run.count(
        datasets=len(rows),
        files=sum(row["files"] for row in rows),
        bytes=sum(row["bytes"] for row in rows),
    )
    run.note(origins={row["data set"]: row["from"] for row in rows}, revisions=revisions)
    if config.samples:
        run.note(sample={row["data set"]: row["sample"] for row in rows})
    run.table(f"acquired {config.kind}", rows, "What was brought in, and from where")


def _dataset(
    place: Place, config: AcquireConfig, location: str, revisions: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """Bring in one data set; returns the beginning of its row in the table."""
    name, done = place.name, place.scratch / "done.json"
    if done.exists():  # also: its commit, whatever the branch points at by now
        known: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        revisions |= known["revisions"]
        return dict(known["row"])
    if location == SAMPLE_DATA:
        source = _generated(place, config)
        if source is None:
            return {"data set": name, "from": location}
    else:
        source = _source(place, config, location, revisions)
    files = _listed(place, source)
    if absent := set(pins(config.kind, name)) - {file.name for file in files}:
        raise DataError(
            f"{display(recipe_path(config.kind, name))} pins the sha256 of "
            f"{', '.join(sorted(absent))}, which {source.origin} does not have"
        )
    check_names(files, source.origin, streams=place.streams)
    row = {"data set": name, "from": source.origin}
    if config.samples:
        records, used = sample(
            place,
            source,
            files,
            fraction=config.fraction,
            limit=config.limit,
            reading=corpus(name).reading,
        )
        row["sample"] = f"{records} records from {used} of {len(files)} files"
    else:
        take_all(place, source, files)
    write_json(done, {"row": row, "revisions": {k: v for k, v in revisions.items() if k == name}})
    for folder in ("fetched", "half", "versions", "world"):
        shutil.rmtree(place.scratch / folder, ignore_errors=True)
    return row


def _source(
    place: Place, config: AcquireConfig, location: str, revisions: dict[str, dict[str, str]]
) -> Source:
    """The place that a location names; its commit is noted where it has one."""
    name, pinned = place.name, pins(config.kind, place.name)
    if location == HUB:
        recipe = hub.check_hub(config.kind, name)
        if hub.offline():
            folder = hub.cached(recipe)
            assert folder is not None, "check_hub() lets no such source through"
            origin = f"{recipe.repository}@{folder.name} (local hub cache)"
            source: Source = LocalSource(str(folder), pins=pinned, origin=origin)
            commit = folder.name
        else:
            repository = hub.HubRepository(recipe, place.scratch, pinned)
            source, commit = repository, repository.commit
        asked = recipe.revision
        where = f"hub.revision: {commit} in {display(recipe_path(config.kind, name))}"
    elif is_url(location):
        asked = commit = where = ""
        if scheme(location) == "hf":
            location, asked, commit = hub.pin_url(location, place.scratch)
            where = location
        source = UrlSource(location, place.scratch, pinned, hub.endpoint())
    else:
        return LocalSource(location, pins=pinned)
    if commit:
        revisions[name] = {"asked": asked, "commit": commit}
        if not hub.COMMIT.fullmatch(asked):
            place.run.log.warning(
                "%s: %s is a name that moves; it is %s today. For the same data another day, "
                "write %s",
                name,
                asked,
                commit,
                where,
            )
    return source


def _listed(place: Place, source: Source) -> list[StoredFile]:
    """The files of a source; what an interrupted run has brought in stays only if they are same."""
    files = list(source.files())
    seen = [[file.name, file.size, file.checksum, file.version] for file in files]
    notes = place.scratch / "listing.json"
    if notes.exists() and json.loads(notes.read_text(encoding="utf-8")) != seen:
        place.run.log.warning(
            "%s: %s has changed since the interruption; it is taken anew", place.name, source.origin
        )
        forget(place)
    write_json(place.scratch / "listing.json", seen)
    return files


def _generated(place: Place, config: AcquireConfig) -> Source | None:
    """The generated data set: in place, or to take a sample of."""
    made = place.scratch / "world" if config.samples else place.folder
    if not made.exists():
        assert config.sample_data is not None, "check() lets no such config through"
        aside = fresh(place.scratch / "making")
        aside.mkdir()
        write_dataset(config.kind, place.name, aside, config.sample_data)
        aside.replace(made)
    return LocalSource(str(made), origin=SAMPLE_DATA) if config.samples else None


@contextlib.contextmanager
def _clear_disk_full(place: Place) -> Iterator[None]:
    """Say of a full disk what it means."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if not disk_full(error):
            raise
        free = human(shutil.disk_usage(place.run.folder).free)
        raise DataError(
            f"The disk of {display(place.run.folder)} is full ({free} left) while data set "
            f"{place.name!r} is brought in. What is finished is kept: free some space and run "
            "again, or choose another disk with --store."
        ) from None


def _generator_digest() -> str:
    """Hash of the generator's code and phrases: another generator writes other data."""
    digest = hashlib.sha256()
    for path in generator_files():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
