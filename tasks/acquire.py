"""Stage `acquire`: bring data sets into the store, whole or a sample of them (corpus/sources).

One instance per kind of data set. The stage's manifest records size and MD5 of every file, and
sources.json what each was at its source: the next acquisition takes it over while it is the same
there. After an interruption complete files are kept, and half ones continued.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from common.config import NOT_IN_KEY, StageConfig, errors_of
from common.disk import format_bytes, require_free_space
from common.errors import SteelError
from common.files import write_json
from common.names import Name
from common.ranges import Gt, Le, NonNegativeInt
from corpus.recipes import (
    HubSource,
    ModelScopeSource,
    corpus,
    hub_source,
    modelscope_source,
    pinned_checksums,
)
from corpus.refresh.earlier import RECORD, Earlier
from corpus.sample_data import DatasetKind, SampleDataConfig
from corpus.sources.datasets import (
    HUB,
    HUBS,
    AcquiredDataset,
    acquire_dataset,
    check_location,
    dataset_bytes,
    is_absent,
    location_fingerprint,
)
from corpus.sources.transfer import Destination
from tasks.core.stage import StageRun, plain, stage
from tasks.core.store import newest_first


@dataclass(frozen=True, kw_only=True)
class AcquireConfig(StageConfig):
    """Data sets of one kind to bring in, their locations, and how much of them to take."""

    kind: DatasetKind
    """Kind of the data sets: the folder of data_recipes/ that describes them."""
    datasets: Mapping[Name, str]
    """Name -> location: "sample-data", "hub", "modelscope", a file, folder or glob (relative ones
    start at the project's root), or a URL of one that fsspec can read."""
    sample_data: SampleDataConfig | None = None
    """Settings of the generator; needed where a location is "sample-data"."""
    fraction: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of each corpus to take, in bytes as stored; above 0, at most 1. Only for corpora."""
    limit: NonNegativeInt = 0
    """Records (lines, items, rows) of each corpus at most; 0 for all. Only for corpora."""
    optional: tuple[Name, ...] = field(default=(), metadata=NOT_IN_KEY)
    """Corpora that may be missing or empty, beside those whose recipe says so."""

    commits: Mapping[Name, str] = field(default_factory=dict, metadata=NOT_IN_KEY)
    """Commit of a repository on a hub, in the place of its recipe's revision; of a URL, a digest of
    the files behind it. In the key where one is given."""

    def is_optional(self, name: str) -> bool:
        """True for a corpus that may be missing or empty."""
        return self.kind == "corpora" and (name in self.optional or corpus(name).optional)

    def _may_be_absent(self, name: str) -> bool:
        try:
            return self.is_optional(name)
        except SteelError:
            return False  # its recipe is wrong, and reported

    @property
    def samples(self) -> bool:
        """True if only a part is taken."""
        return self.fraction < 1 or self.limit > 0

    def fingerprint(self) -> dict[str, Any]:
        """State of everything outside of the config: files at the locations, generator's code, and
        what the recipes say of the hub and of checksums."""
        return {
            name: [
                plain(self._repository(name, location)) or location_fingerprint(location),
                pinned_checksums(self.kind, name),
                *([self.commits[name]] if name in self.commits else []),
            ]
            for name, location in self.datasets.items()
        }

    def _repository(self, name: str, location: str) -> HubSource | ModelScopeSource | None:
        """The repository that a recipe names for a location on a hub."""
        if location not in HUBS:
            return None
        found = hub_source if location == HUB else modelscope_source
        return found(self.kind, name)

    def check(self) -> Iterator[SteelError]:
        assert self.kind == "corpora" or not self.samples, "only corpora are sampled"
        for name, location in self.datasets.items():
            wrong = list(errors_of(check_location, self.kind, name, location, self.sample_data))
            if not (wrong and is_absent(location) and self._may_be_absent(name)):
                yield from wrong

    def bytes_needed(self) -> int:
        """Bytes that the stage writes, as far as that can be known without the network."""
        return int(
            sum(
                dataset_bytes(self.kind, location, self.sample_data, self.fraction)
                for location in self.datasets.values()
            )
        )


VERSION = 2
"""Raised when the same files at a source become others here."""


def _earlier(run: StageRun, config: AcquireConfig) -> dict[str, list[Earlier]]:
    """The data sets in earlier acquisitions of this store, the newest first."""
    found: dict[str, list[Earlier]] = {name: [] for name in config.datasets}
    streams = config.kind == "corpora"
    for result in newest_first(run.store, "acquire") if run.store is not None else ():
        then, files = result.manifest["config"], result.manifest.get("files", [])
        if then.get("kind") != config.kind or result.manifest.get("stage_version") != VERSION:
            continue
        for name in found.keys() & then.get("datasets", {}):
            found[name].append(Earlier.read(result.folder, name, files, streams=streams))
    return found


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number:,} files"


@stage(version=VERSION, keeps="complete files")
def acquire(run: StageRun, config: AcquireConfig) -> None:
    """Write `<name>/…` for every data set, and sources.json. Raises DataError for a full disk."""
    earlier = _earlier(run, config)
    # What is taken over takes no room; each data set asks again when it knows what that is.
    had = sum(max((one.num_bytes for one in found), default=0) for found in earlier.values())
    needed = max(0, config.bytes_needed() - had)
    require_free_space(run.folder, needed, f"acquire ({config.kind})")
    acquired: dict[str, AcquiredDataset] = {}
    for name, location in config.datasets.items():
        run.progress(len(acquired), len(config.datasets), f"of {config.kind} ({name})")
        scratch = run.scratch / name
        scratch.mkdir(exist_ok=True)
        destination = Destination(
            name=name,
            folder=run.folder / name,
            scratch=scratch,
            decompress=config.kind == "corpora",
            progress=run.progress,
            warn=run.log.warning,
            earlier=earlier[name],
        )
        got = acquired[name] = acquire_dataset(
            destination,
            config.kind,
            location,
            generator=config.sample_data,
            fraction=config.fraction,
            limit=config.limit,
            optional=config.is_optional(name),
            commit=config.commits.get(name, ""),
        )
        run.log.info(
            "%s: %s, %s from %s", name, _files(got.files), format_bytes(got.bytes), got.origin
        )
        if got.files_taken_over:
            run.log.info(
                "%s: %s, %s taken over from an earlier acquisition, %s fetched",
                name,
                _files(got.files_taken_over),
                format_bytes(got.bytes_taken_over),
                _files(got.files_fetched),
            )
    run.progress(len(acquired), len(acquired), f"of {config.kind}")
    run.count(
        datasets=len(acquired),
        files=sum(got.files for got in acquired.values()),
        bytes=sum(got.bytes for got in acquired.values()),
        files_taken_over=sum(got.files_taken_over for got in acquired.values()),
        bytes_taken_over=sum(got.bytes_taken_over for got in acquired.values()),
        files_fetched=sum(got.files_fetched for got in acquired.values()),
    )
    if identities := {name: got.identities for name, got in acquired.items() if got.identities}:
        write_json(run.folder / RECORD, identities)
    run.note(
        origins={name: got.origin for name, got in acquired.items()},
        revisions={name: got.revision for name, got in acquired.items() if got.revision},
    )
    if config.samples:
        run.note(sample={name: got.sample for name, got in acquired.items()})
    rows = [
        {"data set": name, "from": got.origin}
        | ({"sample": got.sample} if config.samples else {})
        | {"files": got.files, "bytes": got.bytes}
        for name, got in acquired.items()
    ]
    run.table(f"acquired {config.kind}", rows, "Data sets that were brought in, and their origins")
