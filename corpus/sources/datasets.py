"""One data set brought into a folder: its native files, or a sample of them.

    "sample-data"         ── generated (corpus/sample_data) ───────────┐
    path, folder or glob  ── read where it lies (local.py) ────────────┤  moved, copied or
    "hub", "modelscope"   ── the recipe's files at one commit ─────────┼─ unpacked ──▶ <name>/…
    s3://, https://, …    ── through fsspec (remote.py) ───────────────┘  (transfer.py, archives.py)
                                                                          or sampled (sampling.py)

After an interruption complete files are kept, and half ones continued.
"""

import contextlib
import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from common.disk import format_bytes, is_disk_full, total_bytes
from common.errors import ConfigError, DataError, SteelError
from common.files import write_json
from common.paths import display
from common.reading.files import shown_path
from common.recipes import read_yaml, recipe_path
from common.urls import identity, is_url, scheme
from corpus.benchmarks.evaluation_splits import is_named_after_benchmark, refuse_test_split
from corpus.recipes import corpus, pinned_checksums
from corpus.sample_data import DatasetKind, SampleDataConfig, generator_files, write_dataset
from corpus.sources import hub, modelscope
from corpus.sources.local import LocalSource, check_local, lies_in, local_files
from corpus.sources.remote import UrlSource, check_url
from corpus.sources.sampling import write_sample
from corpus.sources.source import Source, StoredFile
from corpus.sources.transfer import (
    Destination,
    check_names,
    cleared,
    share_disk,
    transfer_all,
    unpacked_bytes,
)

SAMPLE_DATA = "sample-data"
HUB = "hub"
MODELSCOPE = "modelscope"
"""Locations that are neither a path nor a URL."""

HUBS = (HUB, MODELSCOPE)
"""Those of which a recipe names the repository."""

SAMPLE_DATA_BYTES = 4 * 1024**2
"""Generous size of one generated data set at scale 1."""


@dataclass(frozen=True, kw_only=True)
class AcquiredDataset:
    """Origin and size of a data set that stands complete in its folder."""

    origin: str
    """Location without secrets; with the commit where there is one."""
    files: int = 0
    """Number of files."""
    bytes: int = 0
    """Their size."""
    sample: str = ""
    """Records and files that a sample consists of; empty where everything was taken."""
    revision: dict[str, str] | None = None
    """Revision that was asked for, and its commit; None outside of a hub."""
    files_taken_over: int = 0
    """Number of the source's files that an earlier acquisition had."""
    bytes_taken_over: int = 0
    """Size of what they became here."""
    files_fetched: int = 0
    """Number of the source's other files; 0 for a sample."""
    identities: dict[str, str] = field(default_factory=dict)
    """File at its source -> its identity there (`Source.identity`); not of a sample."""


_NAMED = (SAMPLE_DATA, HUB, MODELSCOPE)


def check_location(
    kind: DatasetKind, name: str, location: str, generator: SampleDataConfig | None
) -> None:
    """Check, without the network, that a data set can be brought in from a location.

    Raises ConfigError for an unknown data set or protocol, DataError for missing or empty files.
    """
    if not location.strip():
        raise ConfigError(
            f"Data set {name!r} has an empty location; give {SAMPLE_DATA!r}, {HUB!r}, "
            f"{MODELSCOPE!r}, a path or a URL"
        )
    read_yaml(recipe_path(kind, name))  # names the known ones when it does not exist
    pinned_checksums(kind, name)
    if location == "sample-world":
        raise ConfigError(
            f"{name}: the location 'sample-world' is now called {SAMPLE_DATA!r}; write that"
        )
    if location == SAMPLE_DATA:
        if generator is None:
            raise ConfigError(
                f"Data set {name!r} is at {SAMPLE_DATA!r}, which needs `sample_data`, "
                "for example `sample_data: {seed: 7, scale: 1.0}`"
            )
    elif location == HUB:
        hub.check_hub(kind, name)
    elif location == MODELSCOPE:
        modelscope.check_modelscope(kind, name)
    elif is_url(location):
        check_url(name, location)
        if scheme(location) == "hf":
            hub.check_hf_url(name, location)
    else:
        check_local(kind, name, location)
    if kind in ("sft", "preferences") and location not in _NAMED:
        _refuse_test_splits(kind, name, location)


def _refuse_test_splits(kind: Literal["sft", "preferences"], name: str, location: str) -> None:
    """Raise ConfigError for a set whose location, or a file of it there, names a test split."""
    refuse_test_split([location], f"Data set {name!r}", location=True)
    if is_url(location):
        return
    wanted = _wanted_by(kind, name)
    benchmark = is_named_after_benchmark(location)
    for path, below in local_files(location):
        where = f"Data set {name!r} at {location}"
        if wanted(below):
            refuse_test_split([below], where, benchmark=benchmark)
            if path.is_symlink():
                refuse_test_split([str(path.resolve())], f"{where}: {below}", location=True)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = [f"{path.stem}/{member}" for member in archive.namelist()]
            refuse_test_split(filter(wanted, members), where, benchmark=benchmark)


def _wanted_by(kind: Literal["sft", "preferences"], name: str) -> Callable[[str], bool]:
    """Tells which files the recipe of a set takes, by their names below its folder."""
    from corpus.chats.recipes import load_set  # it imports all formats

    # A relative pattern matches a path's end, so in any folder.
    patterns = [pattern.removeprefix("**/") for pattern in load_set(kind, name).files]
    return lambda below: any(PurePosixPath(below).match(pattern) for pattern in patterns)


def check_outside(place: str, location: str, store: Path) -> None:
    """Refuse a store whose files would be taken for those of a data set.

    place: dotted key of the data set, for the message. Raises DataError.
    """
    if location in _NAMED or is_url(location):
        return
    try:
        inside = lies_in(store, location)
    except (SteelError, OSError):
        return  # the location is wrong, and reported
    if inside:
        raise DataError(
            f"{place}: the store {shown_path(store)} lies in the data set's own location "
            f"{shown_path(Path(location))}, so its files would be taken for data. Give another "
            "place with --store"
        )


def local_dataset(location: str) -> list[tuple[Path, str]]:
    """(path, name) of each file of a data set on this machine; none for one that is fetched, or
    whose files `check_location` refuses."""
    if location in _NAMED or is_url(location):
        return []
    try:
        return list(local_files(location))
    except DataError:
        return []


def is_absent(location: str) -> bool:
    """True for a location on this machine at which no file with content is."""
    if location in _NAMED or is_url(location):
        return False
    try:
        return not any(path.stat().st_size for path, _ in local_files(location))
    except DataError:
        return False  # no place of data at all: refused


def location_fingerprint(location: str) -> Any:
    """JSON value that changes when what lies at a location changes; None for the hub.

    Of a URL only the address counts: a finished data set is not asked for again.
    """
    if location == SAMPLE_DATA:
        digest = hashlib.sha256()
        for path in generator_files():
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]
    if is_url(location):
        return hashlib.sha256(identity(location).encode()).hexdigest()  # without secrets
    if location in HUBS:
        return None
    return [
        [relative, (stat := path.stat()).st_size, stat.st_mtime_ns]
        for path, relative in local_files(location)
    ]


def dataset_bytes(
    kind: DatasetKind, location: str, generator: SampleDataConfig | None, fraction: float
) -> float:
    """Bytes that a data set will take, as far as that can be known without the network."""
    if location == SAMPLE_DATA:
        return SAMPLE_DATA_BYTES * (generator.scale if generator else 0.0)
    if location in HUBS or is_url(location):
        return 0.0
    return fraction * sum(
        unpacked_bytes(file, streams=kind == "corpora", local=True)
        for file in LocalSource(location).files()
    )


def acquire_dataset(
    destination: Destination,
    kind: DatasetKind,
    location: str,
    *,
    generator: SampleDataConfig | None = None,
    fraction: float = 1.0,
    limit: int = 0,
    optional: bool = False,
    commit: str = "",
) -> AcquiredDataset:
    """Write a data set's files into `destination.folder`.

    Args:
        destination: name and folders of the data set.
        kind: folder of data_recipes/ that describes it.
        location: one that `check_location` lets through.
        generator: settings for the location "sample-data".
        fraction: share of its bytes to take, above 0, at most 1.
        limit: records to take at most; 0 for all.
        optional: it may be empty, or missing on this machine.
        commit: of a repository on a hub, in the place of the recipe's revision.

    Raises:
        DataError: it cannot be fetched, is damaged, empty or refused, or the disk is full.
    """
    if optional and is_absent(location):
        destination.warn(f"{destination.name}: nothing is at its location, as it may be")
        destination.folder.mkdir(parents=True, exist_ok=True)
        return AcquiredDataset(origin=location)
    with _disk_full_as_data_error(destination):
        acquired = _acquire(destination, kind, location, generator, fraction, limit, commit)
    paths = [path for path in destination.folder.rglob("*") if path.is_file()]
    share_disk(destination, paths)
    size = total_bytes(paths)
    if kind in ("sft", "preferences"):  # of a hub, a URL or an archive they are known only now
        wanted = _wanted_by(kind, destination.name)
        names = sorted(path.relative_to(destination.folder).as_posix() for path in paths)
        refuse_test_split(
            filter(wanted, names), f"Data set {destination.name!r} from {acquired.origin}"
        )
    if not size and not optional:
        raise DataError(f"Data set {destination.name!r} is empty: {acquired.origin} gave no data")
    return AcquiredDataset(**{**asdict(acquired), "files": len(paths), "bytes": size})


def _acquire(
    destination: Destination,
    kind: DatasetKind,
    location: str,
    generator: SampleDataConfig | None,
    fraction: float,
    limit: int,
    commit: str,
) -> AcquiredDataset:
    name, done = destination.name, destination.scratch / "done.json"
    if done.exists():  # also: its commit, whatever the branch points at by now
        return AcquiredDataset(**json.loads(done.read_text(encoding="utf-8")))
    sampled, revision = fraction < 1 or limit > 0, None
    if location == SAMPLE_DATA:
        assert generator is not None, "check_location() lets no such call through"
        made = destination.scratch / "generated" if sampled else destination.folder
        if not made.exists():
            unfinished = cleared(destination.scratch / "generating")
            write_dataset(kind, name, unfinished, generator)
            unfinished.replace(made)
        if not sampled:
            return AcquiredDataset(origin=SAMPLE_DATA)
        source: Source = LocalSource(str(made), origin=SAMPLE_DATA)
    else:
        source, revision = _open_source(destination, kind, location, commit)
    files = _list_files(destination, source)
    if absent := set(pinned_checksums(kind, name)) - {file.name for file in files}:
        raise DataError(
            f"{display(recipe_path(kind, name))} pins the sha256 of "
            f"{', '.join(sorted(absent))}, which {source.origin} does not have"
        )
    check_names(files, source.origin, streams=destination.decompress)
    sample, taken, identities = "", (0, 0), {}
    if sampled:
        records, used = write_sample(
            destination, source, files, fraction=fraction, limit=limit, reading=corpus(name).reading
        )
        sample = f"{records} records from {used} of {len(files)} files"
    else:
        taken = transfer_all(destination, source, files)
        identities = {file.name: found for file in files if (found := source.identity(file))}
    acquired = AcquiredDataset(
        origin=source.origin,
        sample=sample,
        revision=revision,
        files_taken_over=taken[0],
        bytes_taken_over=taken[1],
        files_fetched=0 if sampled else len(files) - taken[0],
        identities=identities,
    )
    write_json(done, asdict(acquired))
    for folder in ("fetched", "half", "versions", "hub", "generated", "taken"):
        shutil.rmtree(destination.scratch / folder, ignore_errors=True)
    return acquired


def _open_source(
    destination: Destination, kind: DatasetKind, location: str, newest: str
) -> tuple[Source, dict[str, str] | None]:
    """Open the source that a location names. Returns its revision and commit, if it has any."""
    name, scratch = destination.name, destination.scratch
    pins = pinned_checksums(kind, name)
    if location == HUB:
        recipe = hub.check_hub(kind, name)
        recipe = replace(recipe, revision=newest or recipe.revision)
        revision = recipe.revision
        if hub.is_offline():
            folder = hub.cached_snapshot(recipe)
            assert folder is not None, "check_hub() lets no such source through"
            commit, origin = folder.name, f"{recipe.repository}@{folder.name} (local hub cache)"
            source: Source = LocalSource(str(folder), pins=pins, origin=origin)
        else:
            repository = hub.HubRepository(recipe, scratch, pins)
            source, commit = repository, repository.commit
        pinned = f"hub.revision: {commit} in {display(recipe_path(kind, name))}"
    elif location == MODELSCOPE:
        asked = modelscope.check_modelscope(kind, name)
        asked = replace(asked, revision=newest or asked.revision)
        stored = modelscope.ModelScopeRepository(asked, scratch, pins)
        source, revision, commit = stored, asked.revision, stored.commit
        pinned = f"modelscope.revision: {commit} in {display(recipe_path(kind, name))}"
    elif scheme(location) == "hf":
        source = repository = hub.HubRepository(location, scratch, pins)
        revision, commit, pinned = repository.revision, repository.commit, repository.location
    elif is_url(location):
        return UrlSource(location, scratch, pins), None
    else:
        return LocalSource(location, pins=pins), None
    if not commit:
        return source, None
    if not hub.COMMIT.fullmatch(revision):
        destination.warn(
            f"{name}: {revision} is a name that moves; it is {commit} today. For the same data "
            f"another day, write {pinned}"
        )
    return source, {"asked": revision, "commit": commit}


def _list_files(destination: Destination, source: Source) -> Sequence[StoredFile]:
    """List a source; what an interrupted run has brought in stays only if the list is the same."""
    files = source.files()
    listing = [[file.name, file.size, file.checksum, file.version] for file in files]
    before = destination.scratch / "listing.json"
    if before.exists() and json.loads(before.read_text(encoding="utf-8")) != listing:
        destination.warn(
            f"{destination.name}: {source.origin} has changed since the interruption; it is taken "
            "anew"
        )
        destination.clear()
    write_json(before, listing)
    return files


@contextlib.contextmanager
def _disk_full_as_data_error(destination: Destination) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        free = format_bytes(shutil.disk_usage(destination.scratch).free)
        raise DataError(
            f"The disk of {display(destination.folder)} is full ({free} left) while data set "
            f"{destination.name!r} is brought in. What is finished is kept: free some space and "
            "run again, or choose another disk with --store."
        ) from None
