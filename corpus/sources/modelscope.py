"""Source: the ModelScope hub, at one commit for a whole run, every file checked.

    recipe ──resolved once──▶ commit ──▶ files with size and SHA-256
                                │           └── fetch, open: as of any web server (remote.py)
          commit.json in the    ▼
          scratch folder: an interrupted run stays with its commit

Its public HTTP API, as its own client speaks it: `/api/v1/datasets/OWNER/NAME/repo/tree` lists,
`/api/v1/datasets/OWNER/NAME/repo?FilePath=…` gives a file. The environment says where and who:
MODELSCOPE_ENDPOINT (formerly MODELSCOPE_DOMAIN), MODELSCOPE_API_TOKEN.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub.utils._paths import filter_repo_objects

from common.errors import ConfigError, DataError
from common.files import write_json
from common.paths import display
from common.recipes import recipe_path
from corpus.recipes import ModelScopeSource, how_to_obtain, modelscope_source
from corpus.sources.remote import UrlSource

ENDPOINT = "https://modelscope.cn"

PAGE = 200
"""Files that one answer lists at most."""

MAX_FILES = 1_000_000
"""Files of a repository at most."""

COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def endpoint() -> str:
    """The hub's address, from the environment or its usual one. Raises ConfigError."""
    given = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or ENDPOINT
    given = given.strip().rstrip("/")
    address = given if "://" in given else f"https://{given}"
    if not re.fullmatch(r"https?://[^/\s@]+(?:/[^\s?#]*)?", address):
        raise ConfigError(f"MODELSCOPE_ENDPOINT is no web address such as {ENDPOINT}")
    return address


def check_modelscope(kind: str, name: str) -> ModelScopeSource:
    """The recipe's `modelscope` part. Raises DataError when there is none."""
    endpoint()
    source = modelscope_source(kind, name)
    if source is None:
        raise DataError(
            f"Data set {name!r}: {display(recipe_path(kind, name))} names no ModelScope "
            f"repository. {how_to_obtain(kind, name)} Write `modelscope: {{repository: owner/name, "
            "files: […]}` into the recipe, or give another location."
        )
    return source


class ModelScopeRepository(UrlSource):
    """Files of a data set on ModelScope, at one commit."""

    remedy = (
        "Check the network, set MODELSCOPE_API_TOKEN if the data set is not public, or give a "
        "folder."
    )

    def __init__(self, source: ModelScopeSource, scratch: Path, pins: Mapping[str, str]) -> None:
        """
        Args:
            source: a recipe's `modelscope` part.
            scratch: folder that is kept across interruptions.
            pins: `sha256:…` by file name, from the recipe.

        Raises:
            DataError: the hub cannot be reached, or has no such repository or revision.
        """
        self._source = source
        self._api = f"{endpoint()}/api/v1/datasets/{quote(source.repository)}/repo"
        token = os.environ.get("MODELSCOPE_API_TOKEN", "").strip()
        # Clients drop this header where a download is sent on to another host; of a cookie not all
        # do, so none is sent.
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        super().__init__(self._api, scratch, pins, headers=headers)
        self.origin = source.repository
        self.revision = source.revision
        with self._clear_errors("cannot be listed"):
            self.commit = self._resolve(scratch)
        self.origin = f"modelscope.cn:{source.repository}@{self.commit or self.revision}"

    def _resolve(self, scratch: Path) -> str:
        """The commit of the revision: asked for once, then remembered in `scratch`."""
        if COMMIT.fullmatch(self.revision):
            return self.revision
        notes = scratch / "commit.json"
        asked = {"repository": self._source.repository, "revision": self.revision}
        if notes.exists():
            known: dict[str, str] = json.loads(notes.read_text(encoding="utf-8"))
            if known | asked == known:
                return known["commit"]
        commit = self._latest_commit()
        write_json(notes, {**asked, "commit": commit})
        return commit

    def _latest_commit(self) -> str:
        """Newest commit of the revision. Some answers name only its beginning: then the commit that
        has changed a file last and begins so. Raises DataError where none is named."""
        data = self._retry(lambda: self._page(self.revision, 1))
        latest = data.get("LatestCommitter") or {}
        if COMMIT.fullmatch(str(latest.get("Id", ""))):
            return str(latest["Id"])
        short = str(latest.get("ShortId") or "")
        files = list(self._retry(lambda: list(self._entries(self.revision))))
        files.sort(key=lambda file: float(file.get("CommittedDate") or 0), reverse=True)
        commits = [str(file.get("Revision", "")) for file in files]
        for commit in commits:
            if COMMIT.fullmatch(commit) and commit.startswith(short):
                return commit
        raise DataError(
            f"{self._source.repository}: ModelScope names no commit of {self.revision!r}. Write "
            "one as modelscope.revision into the recipe"
        )

    def _page(self, revision: str, number: int) -> Mapping[str, Any]:
        """One page of the listing. Raises DataError for what is no listing."""
        query = f"Revision={quote(revision)}&Recursive=True&PageNumber={number}&PageSize={PAGE}"
        content: bytes = self._fs.cat_file(f"{self._api}/tree?{query}")
        try:
            answer = json.loads(content)
            data = answer["Data"]
            if answer.get("Success") is False or not isinstance(data, Mapping):
                raise ValueError(str(answer.get("Message", "no listing"))[:200])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self._source.repository}: ModelScope's answer is no listing of files ({error})"
            ) from None
        return data

    def _entries(self, revision: str) -> Iterator[Mapping[str, Any]]:
        """All files of a revision, page by page; a page may hold fewer than were asked for."""
        number = 0
        seen: set[str] = set()
        while len(seen) <= MAX_FILES:
            number += 1
            page = self._page(revision, number)
            files = [f for f in page.get("Files") or [] if str(f.get("Path")) not in seen]
            yield from (file for file in files if file.get("Type") != "tree")
            seen.update(str(file.get("Path")) for file in files)
            total = page.get("TotalCount")
            if not files or (isinstance(total, int) and 0 < total <= len(seen)):
                return
        raise DataError(f"{self.origin}: more than {MAX_FILES:,} files")

    def _list(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        revision = self.commit
        entries = {str(file["Path"]): file for file in self._entries(revision)}
        wanted = set(filter_repo_objects(list(entries), allow_patterns=list(self._source.files)))
        if not wanted:
            raise DataError(
                f"{self.origin} has no file like {', '.join(self._source.files)}. Correct the "
                "recipe's modelscope.files."
            )
        return [
            (name, f"{self._api}?Revision={quote(revision)}&FilePath={quote(name)}", _info(file))
            for name, file in entries.items()
            if name in wanted
        ]


def _info(file: Mapping[str, Any]) -> dict[str, Any]:
    """Size, SHA-256 and version of a file, as fsspec's file systems would say them."""
    digest = str(file.get("Sha256") or "").lower()
    size = file.get("Size")
    return {
        "size": size if isinstance(size, int) and size >= 0 else None,
        "lfs": {"sha256": digest} if _SHA256.fullmatch(digest) else None,
        "ETag": str(file.get("Revision") or ""),
    }
