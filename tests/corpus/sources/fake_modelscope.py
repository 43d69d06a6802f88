"""A ModelScope on this machine: data sets with branches, commits and files on another host."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from tests.loopback import Answering, answering

COMMIT = "a" * 40


@dataclass
class ModelScope:
    """Files of the hub, and the requests it got."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit -> files; the same for every repository."""
    branches: dict[str, str] = field(default_factory=lambda: {"master": COMMIT})
    names_commit: bool = True
    """If false, listings give only the beginning of the newest commit, as real ones do at times."""
    token: str = ""
    """Token without which nothing is given."""
    most: int = 1000
    """Files that a page lists at most, however many are asked for."""
    busy: int = 0
    """Requests that are still answered by 429, and when to ask again."""
    spoil: Callable[[str, bytes], bytes | None] = lambda name, data: data
    """(file, what it would send) -> what it sends; None cuts the connection."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path with query, Range) of every request."""
    storage_headers: list[dict[str, str]] = field(default_factory=list)
    """Headers that the other host, which has the files, got."""
    url: str = ""
    storage: str = ""


@contextlib.contextmanager
def serving(hub: ModelScope) -> Iterator[ModelScope]:
    """Run the hub, and the host with its files, for the length of the block."""

    def send(
        handler: Answering,
        data: bytes,
        body: bool,
        status: int = 200,
        cut: bool = False,
        **headers: str,
    ) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        if body:
            with contextlib.suppress(ConnectionError):
                handler.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            handler.close_connection = True

    class Storage(Answering):
        def answer(self, *, body: bool) -> None:
            hub.storage_headers.append(dict(self.headers))
            _, commit, name = unquote(self.path).split("/", 2)
            data = hub.commits[commit][name]
            size, status, headers = len(data), 200, {}
            asked = self.headers.get("Range", "")
            if asked.startswith("bytes="):
                start, _, end = asked.removeprefix("bytes=").partition("-")
                last = min(int(end or size), size - 1)
                headers["Content_Range"] = f"bytes {start}-{last}/{size}"
                data, status = data[int(start) : last + 1], 206
            given = hub.spoil(name, data) if body else data
            tag = hashlib.md5(hub.commits[commit][name], usedforsecurity=False).hexdigest()
            headers |= {"ETag": f'"{tag}"', "Accept_Ranges": "bytes"}
            send(self, data if given is None else given, body, status, given is None, **headers)

    class Handler(Answering):
        def answer(self, *, body: bool) -> None:
            hub.requests.append((self.command, self.path, self.headers.get("Range", "")))
            query = {key: value[0] for key, value in parse_qs(urlsplit(self.path).query).items()}
            path = urlsplit(self.path).path
            if hub.busy:
                hub.busy -= 1
                send(self, b"{}", body, 429, Retry_After="0")
                return
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                send(self, b"{}", body, 403)
                return
            commit = hub.branches.get(query.get("Revision", ""), query.get("Revision", ""))
            files = hub.commits.get(commit)
            if files is None or not path.startswith("/api/v1/datasets/owner/name/repo"):
                send(self, b'{"Code": 404, "Success": false}', body, 404)
            elif path.endswith("/repo/tree"):
                self._tree(commit, files, query, body)
            elif query.get("FilePath") in files:
                place = f"{hub.storage}/{commit}/{query['FilePath']}"
                send(self, b"", body, 302, Location=place)
            else:
                send(self, b"", body, 404)

        def _tree(
            self, commit: str, files: dict[str, bytes], query: dict[str, str], body: bool
        ) -> None:
            entries: list[dict[str, object]] = [
                {"Path": "data", "Type": "tree", "Revision": commit, "CommittedDate": 3}
            ] + [
                {
                    "Path": name,
                    "Type": "blob",
                    "Size": len(data),
                    "Sha256": hashlib.sha256(data).hexdigest(),
                    "Revision": commit if number == 0 else "b" * 40,
                    "CommittedDate": 2 - number,
                }
                for number, (name, data) in enumerate(files.items())
            ]
            number, size = int(query["PageNumber"]), min(int(query["PageSize"]), hub.most)
            latest = {"Id": commit if hub.names_commit else "", "ShortId": commit[:8]}
            part = entries[(number - 1) * size : number * size]
            answer = {
                "Code": 200,
                "Success": True,
                "Data": {"Files": part, "LatestCommitter": latest},
            }
            send(self, json.dumps(answer).encode(), body, Content_Type="application/json")

    with answering(Storage) as hub.storage, answering(Handler) as hub.url:
        yield hub
