"""A web server on this machine that behaves, or misbehaves, as it is told."""

import contextlib
import email.utils
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

from tests.loopback import Answering, answering


@dataclass
class Web:
    """Files and behaviour of the server."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Path without the leading slash -> content."""
    ranges: bool = True
    """If true, ranges of a file can be requested."""
    etags: bool = True
    """If true, answers carry an ETag and a time."""
    sizes: bool = True
    """If true, answers carry the size of a file."""
    links: dict[str, list[str] | None] = field(default_factory=dict)
    """Folder -> the links on its page, instead of its files; None: there is no such page."""
    headers: dict[str, str] = field(default_factory=dict)
    """Given with every file."""
    headers_of: Callable[[bytes], dict[str, str]] = lambda data: {}
    """Content -> what is given with it."""
    before: Callable[[str, str], None] = lambda method, path: None
    """Called with a request before it is answered."""
    password: str = ""
    """`user:password` in base64, if one is needed."""
    spoil: Callable[[str, int, bytes], bytes | None] = lambda path, start, data: data
    """(path, first byte, what it would send) -> what it sends; None cuts the connection."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path with query, Range) of every request."""
    sent: int = 0
    """Bytes of files sent so far."""
    url: str = ""


@contextlib.contextmanager
def serving(web: Web) -> Iterator[Web]:
    """Run the server for the length of the block."""

    class Handler(Answering):
        def answer(self, *, body: bool) -> None:
            wanted = self.headers.get("Range", "")
            web.requests.append((self.command, self.path, wanted))
            web.before(self.command, self.path)
            if web.password and self.headers.get("Authorization") != f"Basic {web.password}":
                self._empty(401)
                return
            path = unquote(self.path.partition("?")[0]).lstrip("/")
            if path in web.files:
                self._file(path, wanted, body)
            elif (path.endswith("/") or not path) and web.links.get(path, []) is not None:
                self._page(path, body)
            else:
                self._empty(404)

        def _empty(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _page(self, path: str, body: bool) -> None:
            below = {name[len(path) :] for name in web.files if name.startswith(path)}
            entries = {name.partition("/")[0] + ("/" * ("/" in name)) for name in below}
            links = web.links.get(path) or ["?C=N;O=D", "../", *sorted(entries)]
            page = "".join(f'<a href="{link}">{link}</a>\n' for link in links).encode()
            self._send(200, page, len(page), {"Content-Type": "text/html"}, body)

        def _file(self, path: str, wanted: str, body: bool) -> None:
            data = web.files[path]
            headers = {"Content-Type": "application/octet-stream", **web.headers}
            headers |= web.headers_of(data)
            if web.etags:
                headers.setdefault("ETag", f'"v-{hashlib.sha1(data).hexdigest()}"')
                headers["Last-Modified"] = email.utils.formatdate(0, usegmt=True)
            start, status = 0, 200
            if not web.ranges:
                headers["Accept-Ranges"] = "none"
            elif match := re.fullmatch(r"bytes=(\d+)-(\d+)", wanted):
                start, end = int(match[1]), min(int(match[2]), len(data) - 1)
                status = 206
                headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
                data = data[start : end + 1]
            self._send(status, data, len(data), headers, body, path, start)

        def _send(
            self,
            status: int,
            data: bytes,
            size: int,
            headers: dict[str, str],
            body: bool,
            path: str = "",
            start: int = 0,
        ) -> None:
            given = web.spoil(path, start, data) if path and body else data
            self.send_response(status)
            if web.sizes or not path:
                self.send_header("Content-Length", str(size))
            else:
                self.send_header("Connection", "close")
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(data[: size // 2] if given is None else given)
                web.sent += len(given or b"") if path else 0
            if given is None or not web.sizes:
                self.close_connection = True

    with answering(Handler) as web.url:
        yield web
