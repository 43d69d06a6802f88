"""The Hugging Face hub: one commit for a whole run, every file checked.

recipe: repository, files, revision ──resolved once──▶ commit ──▶ files with size and SHA-256
                                                         │           ├── fetch: whole files
                                   commit.json in the    ▼           └── open: ranges only
                                   scratch folder: an interrupted run stays with its commit
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import huggingface_hub
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils._paths import filter_repo_objects
from huggingface_hub.utils.tqdm import disable_progress_bars

from common.disk import disk_full
from common.errors import ConfigError, DataError
from common.files import write_json
from common.paths import display
from common.recipes import recipe_path
from corpus.recipes import HubSource, how_to_obtain, hub_source
from corpus.sources.remote import UrlSource
from corpus.sources.retry import explained
from corpus.sources.source import StoredFile, safe_name, verify

COMMIT = re.compile(r"[0-9a-f]{40}")


def offline() -> bool:
    """Whether the hub must not be asked."""
    return bool(huggingface_hub.constants.HF_HUB_OFFLINE)


def endpoint() -> str | None:
    """The hub's address, where the environment gives one; also after the library's import."""
    return os.environ.get("HF_ENDPOINT")


def check_hub(kind: str, name: str) -> HubSource:
    """What the recipe says about the hub. Raises DataError when it has nothing to give."""
    source = hub_source(kind, name)
    if source is None:
        raise DataError(
            f"Data set {name!r}: {display(recipe_path(kind, name))} names no hub repository. "
            f"{how_to_obtain(kind, name) or 'Give a folder instead of `hub`.'}"
        )
    if offline() and cached(source) is None:
        raise DataError(
            f"Data set {name!r} comes from the hub ({source.repository}), but HF_HUB_OFFLINE is "
            "set and the files are not in the local hub cache. Unset it, or give a folder."
        )
    return source


def cached(source: HubSource) -> Path | None:
    """The data set's folder in the local hub cache, if all that is asked for was downloaded."""
    try:
        folder = huggingface_hub.snapshot_download(
            source.repository,
            repo_type="dataset",
            revision=source.revision,
            allow_patterns=list(source.files),
            local_files_only=True,
        )
    except LocalEntryNotFoundError:
        return None
    found = Path(folder)
    return found if any(path.is_file() for path in found.rglob("*")) else None


class HubRepository:
    """A data set's repository at one commit."""

    owned = True

    def __init__(self, source: HubSource, scratch: Path, pins: Mapping[str, str]) -> None:
        """
        Args:
            source: repository, files and revision.
            scratch: folder that is kept across interruptions.
            pins: `sha256:…` by file name, from the recipe.

        Raises:
            DataError: the hub cannot be reached, or has no such repository or revision.
        """
        self._source, self._scratch, self._pins = source, scratch, pins
        with clear_hub_errors(source.repository):
            self.commit = pinned_commit("dataset", source.repository, source.revision, scratch)
        url = f"hf://datasets/{source.repository}@{self.commit}"
        self._ranges = UrlSource(url, scratch, pins, endpoint())
        self.origin = f"{source.repository}@{self.commit}"

    def files(self) -> list[StoredFile]:
        """The files that the recipe's patterns name, and no others."""
        repository = self._source.repository
        with clear_hub_errors(repository):
            info = huggingface_hub.HfApi(endpoint=endpoint()).dataset_info(
                repository, revision=self.commit, files_metadata=True
            )
        siblings = {file.rfilename: file for file in info.siblings or []}
        wanted = sorted(filter_repo_objects(siblings, allow_patterns=list(self._source.files)))
        if not wanted:
            raise DataError(
                f"{repository}@{self._source.revision} has no file like "
                f"{', '.join(self._source.files)}. Correct the recipe's hub.files."
            )
        return [self._stored(siblings[name]) for name in wanted]

    def _stored(self, file: Any) -> StoredFile:
        checksum = f"git:{file.blob_id}" if file.blob_id else ""
        if file.lfs:
            checksum = f"sha256:{file.lfs.sha256}"
        return StoredFile(
            name=safe_name(file.rfilename, self.origin),
            size=file.lfs.size if file.lfs else file.size,
            checksum=checksum,
            version=self.commit,
            handle=file.rfilename,
        )

    def open(self, file: StoredFile) -> IO[bytes]:
        """Read parts of a file."""
        at = f"datasets/{self._source.repository}@{self.commit}/{file.handle}"
        return self._ranges.open(replace(file, handle=at))

    def fetch(self, file: StoredFile) -> Path:
        """Download a file; the library continues what it has left half, if it can."""
        disable_progress_bars()  # the stage shows its own
        for last in (False, True):
            with clear_hub_errors(f"{self._source.repository}: {file.name}"):
                path = Path(
                    huggingface_hub.hf_hub_download(
                        self._source.repository,
                        file.handle,
                        repo_type="dataset",
                        revision=self.commit,
                        local_dir=self._scratch / "fetched",
                        endpoint=endpoint(),
                        force_download=last,
                    )
                )
            try:
                verify(path, file, self._pins.get(file.name, ""), self.origin)
                return path
            except DataError:
                path.unlink()
                if last:
                    raise
        raise AssertionError

    def cancel(self) -> None:
        """The library's downloads run to their end."""


def pinned_commit(kind: str, repository: str, revision: str, scratch: Path) -> str:
    """The commit of a branch or tag: asked for once, then remembered in `scratch`."""
    notes = scratch / "commit.json"
    asked = {"repository": repository, "revision": revision}
    if notes.exists():
        known: dict[str, str] = json.loads(notes.read_text(encoding="utf-8"))
        if known | asked == known:
            return known["commit"]
    info = huggingface_hub.HfApi(endpoint=endpoint()).repo_info(
        repository, repo_type=kind, revision=revision
    )
    commit = str(info.sha)
    write_json(notes, {**asked, "commit": commit})
    return commit


def pin_url(location: str, scratch: Path) -> tuple[str, str, str]:
    """An hf:// URL at a commit, with the revision asked for and the commit; empty for buckets."""
    fs = huggingface_hub.HfFileSystem(endpoint=endpoint(), skip_instance_cache=True)
    with clear_hub_errors(location):
        at: Any = fs.resolve_path(location)
        if not hasattr(at, "repo_id"):
            return location, "", ""
        kind, repository, revision = at.repo_type, at.repo_id, at.revision
        commit = pinned_commit(kind, repository, revision, scratch)
    prefix = huggingface_hub.constants.REPO_TYPES_URL_PREFIXES.get(kind, "")
    path = at.path_in_repo + ("/" if location.endswith("/") else "")
    return f"hf://{prefix}{repository}@{commit}/{path}", revision, commit


def check_hf_url(name: str, location: str) -> None:
    """Raise when the hub must not be asked."""
    if offline():
        raise ConfigError(
            f"Data set {name!r} comes from the hub ({location}), but HF_HUB_OFFLINE is set. Unset "
            "it, or give a folder."
        )


@contextlib.contextmanager
def clear_hub_errors(what: str) -> Iterator[None]:
    """Turn whatever the hub's library raises into one message."""
    try:
        yield
    except DataError:
        raise
    # Of any kind: what a lost connection raises depends on the HTTP client below the library.
    except Exception as error:
        if disk_full(error):
            raise
        raise DataError(
            f"{what} could not be downloaded: {explained(error)}. Check the network, log in with "
            "`hf auth login` if the data set is gated, or give a folder."
        ) from None
