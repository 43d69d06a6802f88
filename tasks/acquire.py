"""Bring data sets into the store, their native files untouched.

    "sample-world"         ── generated here (tasks/_sample_world) ──────────▶ <name>/…
    "hub"                  ── the recipe's repository, files and revision ──▶ <name>/…
    path, folder or glob   ── copied ───────────────────────────────────────▶ <name>/…

One instance per kind of data set. The stage's manifest records size and MD5 of every file. After an
interruption files that stand complete are kept.
"""

import glob
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils._paths import filter_repo_objects

from model.errors import ConfigError, DataError
from tasks._corpora import HubSource, how_to_obtain, hub_source
from tasks._disk import human, require_free_space, total_bytes
from tasks._files import complete_file
from tasks._recipes import ROOT, display, read_yaml, recipe_path, resolve
from tasks._sample_world import SampleWorldConfig, write_dataset
from tasks._stage import StageRun, stage

AcquireKind = Literal["corpora", "sft", "preferences", "evals"]

SAMPLE_WORLD = "sample-world"
HUB = "hub"

SAMPLE_WORLD_BYTES = 4 * 1024**2
"""Generous size of one generated data set at scale 1."""


@dataclass(frozen=True, kw_only=True)
class AcquireConfig:
    """Which data sets of one kind to bring in, and from where."""

    kind: AcquireKind
    """Kind of the data sets: the folder of data_recipes/ that describes them."""
    datasets: Mapping[str, str]
    """Name -> location: "sample-world", "hub", or a file, folder or glob (relative ones start at
    the project's root)."""
    sample_world: SampleWorldConfig | None = None
    """The generated world; needed where a location is "sample-world"."""

    def recipe_files(self) -> list[Path]:
        """The recipes that say what to take from the hub."""
        return [recipe_path(self.kind, name) for name, at in self.datasets.items() if at == HUB]

    def fingerprint(self) -> dict[str, Any]:
        """What the result depends on outside of the config: files there, the generator's code."""
        outside: dict[str, Any] = {}
        for name, location in self.datasets.items():
            if location == SAMPLE_WORLD:
                outside[name] = _generator_digest()
            elif location != HUB:
                outside[name] = [
                    [relative, (stat := path.stat()).st_size, stat.st_mtime_ns]
                    for path, relative in local_files(location)
                ]
        return outside


def check(config: AcquireConfig) -> None:
    """Raise ConfigError for an unknown data set, DataError for one that is missing or empty."""
    for name, location in config.datasets.items():
        read_yaml(recipe_path(config.kind, name))  # names the known ones when it does not exist
        if location == SAMPLE_WORLD:
            if config.sample_world is None:
                raise ConfigError(
                    f"acquire.datasets.{name} is {SAMPLE_WORLD!r}, which needs `sample_world`, "
                    "for example `sample_world: {seed: 7, scale: 1.0}`"
                )
        elif location == HUB:
            _check_hub(config.kind, name)
        else:
            _check_local(config.kind, name, location)


def _check_local(kind: str, name: str, location: str) -> None:
    files = list(local_files(location))
    at = display(resolve(location))
    remedy = (
        f"Put its files there, or set {kind}.{name} to where they are, to {HUB!r} or to "
        f"{SAMPLE_WORLD!r}. {how_to_obtain(kind, name)}"
    ).strip()
    if not files:
        missing = "matches no file" if _is_glob(location) else "does not exist"
        if resolve(location).is_dir():
            missing = "holds no file"
        raise DataError(f"Data set {name!r}: {at} {missing}. {remedy}")
    if not total_bytes(path for path, _ in files):
        raise DataError(f"Data set {name!r} is empty: all files of {at} have 0 bytes. {remedy}")


def _check_hub(kind: str, name: str) -> HubSource:
    source = hub_source(kind, name)
    if source is None:
        raise DataError(
            f"Data set {name!r}: {display(recipe_path(kind, name))} names no hub repository. "
            f"{how_to_obtain(kind, name) or 'Give a folder instead of `hub`.'}"
        )
    if huggingface_hub.constants.HF_HUB_OFFLINE and _cached(source) is None:
        raise DataError(
            f"Data set {name!r} comes from the hub ({source.repository}), but HF_HUB_OFFLINE is "
            "set and the files are not in the local hub cache. Unset it, or give a folder."
        )
    return source


def bytes_needed(config: AcquireConfig) -> int:
    """Bytes the stage will write, as far as that can be known without the network."""
    scale = config.sample_world.scale if config.sample_world else 0.0
    total = 0
    for location in config.datasets.values():
        if location == SAMPLE_WORLD:
            total += int(scale * SAMPLE_WORLD_BYTES)
        elif location != HUB:
            total += total_bytes(path for path, _ in local_files(location))
    return total


@stage(version=1)
def acquire(run: StageRun, config: AcquireConfig) -> None:
    """Write `<name>/…` for every data set. Raises what `check` does, DataError for a full disk."""
    check(config)
    require_free_space(run.folder, bytes_needed(config), f"acquire ({config.kind})")
    rows: list[dict[str, Any]] = []
    for position, (name, location) in enumerate(config.datasets.items()):
        run.progress(position, len(config.datasets), f"of {config.kind} ({name})")
        folder = run.folder / name
        origin = location
        if location == SAMPLE_WORLD:
            _generate(run, config, name, folder)
        elif location == HUB:
            origin = _download(run, _check_hub(config.kind, name), folder)
        else:
            for source, relative in local_files(location):
                _copy(source, folder / relative)
        files = [path for path in folder.rglob("*") if path.is_file()]
        size = total_bytes(files)
        if not size:
            raise DataError(f"Data set {name!r} is empty: {origin} gave no data")
        rows.append({"data set": name, "from": origin, "files": len(files), "bytes": size})
        run.log.info("%s: %d files, %s from %s", name, len(files), human(size), origin)
    run.progress(len(rows), len(rows), f"of {config.kind}")
    run.count(
        datasets=len(rows),
        files=sum(row["files"] for row in rows),
        bytes=sum(row["bytes"] for row in rows),
    )
    run.note(origins={row["data set"]: row["from"] for row in rows})
    run.table(f"acquired {config.kind}", rows, "What was brought in, and from where")


def local_files(location: str) -> Iterator[tuple[Path, str]]:
    """(file, name below the data set's folder) for a file, folder or glob, sorted."""
    path = resolve(location)
    if path.is_file():
        yield path, path.name
        return
    if path.is_dir():
        found, base = sorted(path.rglob("*")), path
    elif _is_glob(location):
        # Names start below the last folder that is written without a wildcard.
        cut = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
        base = Path(*path.parts[:cut])
        found = sorted(base.glob(str(Path(*path.parts[cut:]))))
    else:
        return
    for file in found:
        relative = file.relative_to(base)
        if file.is_file() and not any(part.startswith(".") for part in relative.parts):
            yield file, str(relative)


def _is_glob(location: str) -> bool:
    return glob.has_magic(location)


def _copy(source: Path, target: Path) -> None:
    if target.exists():  # only complete files ever stand under their own name
        return
    with source.open("rb") as data, complete_file(target) as file:
        shutil.copyfileobj(data, file, 1 << 20)


def _generate(run: StageRun, config: AcquireConfig, name: str, folder: Path) -> None:
    if folder.exists():
        return
    assert config.sample_world is not None, "check() lets no such config through"
    aside = run.scratch / name
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    write_dataset(config.kind, name, aside, config.sample_world)
    aside.replace(folder)


def _generator_digest() -> str:
    """Hash of the generator's code: another generator makes another world."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "tasks" / "_sample_world").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cached(source: HubSource) -> Path | None:
    """The data set's folder in the local hub cache, if all that is asked for was downloaded."""
    try:
        folder = huggingface_hub.snapshot_download(
            source.repository, repo_type="dataset", revision=source.revision,
            allow_patterns=list(source.files), local_files_only=True,
        )  # fmt: skip
    except LocalEntryNotFoundError:
        return None
    found = Path(folder)
    return found if any(path.is_file() for path in found.rglob("*")) else None


def _download(run: StageRun, source: HubSource, folder: Path) -> str:
    """Fetch a data set at one commit, resumably. Returns where it came from."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        cached = _cached(source)
        assert cached is not None, "_check_hub() lets no such source through"
        for path, relative in local_files(str(cached)):
            _copy(path, folder / relative)
        return f"{source.repository}@{cached.name} (local hub cache)"
    # An endpoint given in the environment after the library was imported counts too.
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        info = huggingface_hub.HfApi(endpoint=endpoint).dataset_info(
            source.repository, revision=source.revision, files_metadata=True
        )
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        wanted = list(filter_repo_objects(sizes, allow_patterns=list(source.files)))
        if not wanted:
            raise DataError(
                f"{source.repository}@{source.revision} has no file like "
                f"{', '.join(source.files)}. Correct the recipe's hub.files."
            )
        require_free_space(folder, sum(sizes[name] for name in wanted), source.repository)
        run.log.info("downloading %d files of %s", len(wanted), source.repository)
        huggingface_hub.snapshot_download(
            source.repository, repo_type="dataset", revision=info.sha, local_dir=folder,
            allow_patterns=list(source.files), endpoint=endpoint,
        )  # fmt: skip
    except DataError:
        raise
    # Of any kind: what a lost connection raises depends on the HTTP client below the library.
    except Exception as error:
        raise DataError(
            f"{source.repository} could not be downloaded: {error}. Check the network, log in with "
            "`hf auth login` if the data set is gated, or give a folder."
        ) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the library's resume notes
    return f"{source.repository}@{info.sha}"
