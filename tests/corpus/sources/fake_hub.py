"""A hub on this machine: repositories with branches, commits and large files."""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import unquote

from tests.loopback import Answering, answering

COMMIT = "c" * 40
API = r"/api/(?:datasets|models)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?"


@dataclass
class Hub:
    """Files of the hub, and the requests it got."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit -> files; the same for every repository."""
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    """Branch or tag -> commit."""
    spoil: Callable[[str, bytes], bytes | None] = lambda name, data: data
    """(file, what it would send) -> what it sends; None cuts the connection."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, Range) of every request."""
    prefix: str = ""
    """Path below which a mirror has the hub."""
    elsewhere: bool = False
    """If true, files are on another host, to which requests for them are sent on."""
    storage_headers: list[dict[str, str]] = field(default_factory=list)
    """Headers that the other host got."""
    sent: int = 0
    """Bytes of files sent so far."""
    url: str = ""

    def downloads(self) -> set[str]:
        """Names of the files whose content was asked for."""
        return {
            path.split("/resolve/")[1].partition("/")[2]
            for method, path, _ in self.requests
            if method == "GET" and "/resolve/" in path
        }


def is_large(name: str) -> bool:
    """True if the hub keeps a file as a large one, with its SHA-256."""
    return not name.endswith((".md", ".small"))


def blob_id(data: bytes) -> str:
    """Git's id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _lfs(data: bytes) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    return {"sha256": digest, "oid": digest, "size": len(data), "pointerSize": 130}


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Run the hub for the length of the block."""

    class Handler(Answering):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = unquote(self.path.partition("?")[0])
            path = path.removeprefix(hub.prefix) if path.startswith(hub.prefix) else "/nothing"
            hub.requests.append((self.command, path, self.headers.get("Range", "")))
            if match := re.fullmatch(r"(?:/datasets)?/[^/]+/[^/]+/resolve/([^/]+)/(.+)", path):
                commit, name = match.groups()
                files = hub.commits.get(hub.branches.get(commit, commit), {})
                if name in files:
                    self._file(hub.branches.get(commit, commit), name, files[name], body)
                    return
            elif match := re.fullmatch(API, path):
                repository, what, revision, below = match.groups()
                commit = hub.branches.get(revision or "main", revision or "main")
                if commit in hub.commits:
                    self._api(repository, what, commit, below or "", body)
                    return
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _api(
            self, repository: str, what: str | None, commit: str, below: str, body: bool
        ) -> None:
            files = hub.commits[commit]
            if what == "tree":
                top = f"{below}/" if below else ""
                inside = {name: data for name, data in files.items() if name.startswith(top)}
                folders = {str(p) for name in inside for p in PurePosixPath(name).parents}
                answer: object = [
                    entry
                    for entry in (
                        *(
                            {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
                            for path in sorted(folders)
                            if path.startswith(top) and path != "."
                        ),
                        *(
                            {"type": "file", "path": name, "size": len(data), "oid": blob_id(data)}
                            | ({"lfs": _lfs(data)} if is_large(name) else {})
                            for name, data in inside.items()
                        ),
                    )
                    if "recursive=true" in self.path.lower()
                    or "/" not in str(entry["path"])[len(top) :]
                ]
            else:
                siblings = [
                    {"rfilename": name, "size": len(data), "blobId": blob_id(data)}
                    | ({"lfs": _lfs(data)} if is_large(name) else {})
                    for name, data in files.items()
                ]
                answer = {
                    "id": repository,
                    "sha": commit,
                    "siblings": siblings,
                    "private": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "gated": False,
                }
            self._send(json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)

        def _file(self, commit: str, name: str, data: bytes, body: bool) -> None:
            etag = _lfs(data)["sha256"] if is_large(name) else blob_id(data)
            if hub.elsewhere:
                moved = {"Location": f"{storage}/{commit}/{name}", "X-Linked-Size": str(len(data))}
                moved |= {"X-Linked-ETag": f'"{etag}"', "X-Repo-Commit": commit}
                self._send(b"", moved, body, 302)
                return
            self.give(commit, name, data, body, {"ETag": f'"{etag}"'})

        def give(
            self, commit: str, name: str, data: bytes, body: bool, headers: dict[str, str]
        ) -> None:
            headers = {**headers, "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            status, size = 200, len(data)
            if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                start = int(match[1])
                end = min(int(match[2] or size), size - 1)
                data, status = data[start : end + 1], 206
                headers["Content-Range"] = f"bytes {start}-{end}/{size}"
            given = hub.spoil(name, data) if body else data
            hub.sent += len(given or b"") if body else 0
            self._send(data if given is None else given, headers, body, status, cut=given is None)

        def _send(
            self,
            data: bytes,
            headers: dict[str, str],
            body: bool,
            status: int = 200,
            *,
            cut: bool = False,
        ) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self.close_connection = True

    class Storage(Handler):
        def answer(self, *, body: bool) -> None:
            hub.storage_headers.append(dict(self.headers))
            _, commit, name = unquote(self.path).split("/", 2)
            self.give(commit, name, hub.commits[commit][name], body, {"ETag": '"other"'})

    with answering(Storage) as storage, answering(Handler) as url:
        hub.url = url + hub.prefix
        yield hub
