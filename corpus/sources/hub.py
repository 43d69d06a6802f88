"""Source: the Hugging Face hub, at one commit for a whole run, every file checked.

recipe, hf:// URL ──resolved once──▶ commit ──▶ files with size and SHA-256
                                       │           ├── fetch: whole files, by huggingface_hub
                 commit.json in the    ▼           └── open: ranges, by HfFileSystem (remote.py)
                 scratch folder: an interrupted run stays with its commit
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils._paths import filter_repo_objects
from huggingface_hub.utils.tqdm import disable_progress_bars

from common.errors import ConfigError, DataError
from common.files import write_json
from common.paths import display
from common.recipes import recipe_path
from corpus.recipes import HubSource, how_to_obtain, hub_source
from corpus.sources.remote import UrlSource
from corpus.sources.retry import as_data_error
from corpus.sources.source import StoredFile

ANSWER_SECONDS = 30.0
"""Longest wait for the hub to name a commit; the library itself waits for ever."""

COMMIT = re.compile(r"[0-9a-f]{40}")

REMEDY = (
    "Check the network, log in with `hf auth login` if the data set is gated, or give a folder."
)


def is_offline() -> bool:
    """True if the environment forbids requests to the hub."""
    return bool(huggingface_hub.constants.HF_HUB_OFFLINE)


def endpoint() -> str | None:
    """The hub's address, where the environment gives one; also after the library's import."""
    return os.environ.get("HF_ENDPOINT")


def check_hub(kind: str, name: str) -> HubSource:
    """The recipe's `hub` part. Raises DataError when there is none, or the hub is out of reach."""
    source = hub_source(kind, name)
    if source is None:
        raise DataError(
            f"Data set {name!r}: {display(recipe_path(kind, name))} names no hub repository. "
            f"{how_to_obtain(kind, name) or 'Give a folder instead of `hub`.'}"
        )
    if is_offline() and cached_snapshot(source) is None:
        raise DataError(
            f"Data set {name!r} comes from the hub ({source.repository}), but HF_HUB_OFFLINE is "
            "set and the files are not in the local hub cache. Unset it, or give a folder."
        )
    return source


def check_hf_url(name: str, location: str) -> None:
    """Raise ConfigError when the environment forbids requests to the hub."""
    if is_offline():
        raise ConfigError(
            f"Data set {name!r} comes from the hub ({location}), but HF_HUB_OFFLINE is set. Unset "
            "it, or give a folder."
        )


def cached_snapshot(source: HubSource) -> Path | None:
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


class HubRepository(UrlSource):
    """Files of a repository on the hub, at one commit."""

    remedy = REMEDY

    def __init__(self, source: HubSource | str, scratch: Path, pins: Mapping[str, str]) -> None:
        """
        Args:
            source: a recipe's `hub` part, or an hf:// URL.
            scratch: folder that is kept across interruptions.
            pins: `sha256:…` by file name, from the recipe.

        Raises:
            DataError: the hub cannot be reached, or has no such repository or revision.
        """
        self._patterns: list[str] | None = None
        if isinstance(source, str):
            location, self.revision, self.commit = _resolve_url(source, scratch)
            super().__init__(location, scratch, pins, endpoint=endpoint())
        else:
            self._patterns, self.revision = list(source.files), source.revision
            self.commit = resolve_commit("dataset", source.repository, source.revision, scratch)
            location = f"hf://datasets/{source.repository}@{self.commit}"
            super().__init__(location, scratch, pins, endpoint=endpoint())
            self.origin = f"{source.repository}@{self.commit}"

    def _list(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        listed = super()._list()
        if self._patterns is None:
            return listed
        wanted = set(
            filter_repo_objects([name for name, *_ in listed], allow_patterns=self._patterns)
        )
        if not wanted:
            raise DataError(
                f"{self.origin} has no file like {', '.join(self._patterns)}. Correct the recipe's "
                "hub.files."
            )
        return [entry for entry in listed if entry[0] in wanted]

    def _download(self, file: StoredFile, half: Path) -> None:
        at: Any = self._fs.resolve_path(file.handle)
        if not hasattr(at, "repo_id"):  # a bucket
            super()._download(file, half)
            return
        disable_progress_bars()  # the stage shows its own
        path = huggingface_hub.hf_hub_download(
            at.repo_id,
            at.path_in_repo,
            repo_type=at.repo_type,
            revision=at.revision,
            local_dir=self.scratch / "hub",  # an unfinished file there is continued
            endpoint=endpoint(),
        )
        Path(path).replace(half)


def resolve_commit(kind: str, repository: str, revision: str, scratch: Path) -> str:
    """The commit of a branch or tag: asked for once, then remembered in `scratch`."""
    notes = scratch / "commit.json"
    asked = {"repository": repository, "revision": revision}
    if notes.exists():
        known: dict[str, str] = json.loads(notes.read_text(encoding="utf-8"))
        if known | asked == known:
            return known["commit"]
    with as_data_error(f"{repository} could not be downloaded", REMEDY):
        info = huggingface_hub.HfApi(endpoint=endpoint()).repo_info(
            repository, repo_type=kind, revision=revision, timeout=ANSWER_SECONDS
        )
    commit = str(info.sha)
    write_json(notes, {**asked, "commit": commit})
    return commit


def _resolve_url(location: str, scratch: Path) -> tuple[str, str, str]:
    """An hf:// URL at a commit, the revision asked for and the commit; both empty for buckets."""
    fs = huggingface_hub.HfFileSystem(endpoint=endpoint(), skip_instance_cache=True)
    with as_data_error(f"{location} could not be downloaded", REMEDY):
        at: Any = fs.resolve_path(location)
    if not hasattr(at, "repo_id"):
        return location, "", ""
    commit = resolve_commit(at.repo_type, at.repo_id, at.revision, scratch)
    prefix = huggingface_hub.constants.REPO_TYPES_URL_PREFIXES.get(at.repo_type, "")
    path = at.path_in_repo + ("/" if location.endswith("/") else "")
    return f"hf://{prefix}{at.repo_id}@{commit}/{path}", at.revision, commit
