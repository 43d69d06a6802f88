"""The sample in the browser: a server on loopback that shows documents and records verdicts.

    GET  /<token>/               the page          GET  /<token>/review.js, page.css
    GET  /<token>/state          progress, documents in the order of judging, shares
    GET  /<token>/document/<n>   a document as HTML
    POST /<token>/verdict        {"number": n, "verdict": …, "note": …}

Texts of a corpus are hostile, and not for everybody. Every path begins with a random token, so that
no other user of the machine reads them; the name in `Host` and the origin of a POST must be the
server's own, so no other page in the browser does; texts are escaped here, and the page may run its
one script only.
"""

import http.server
import json
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from common.errors import DataError
from corpus.cleaning.review.markup import document_html
from corpus.cleaning.review.page import HERE, style
from corpus.cleaning.review.sample import rank
from corpus.cleaning.review.verdicts import (
    UNSURE,
    VERDICTS,
    Key,
    Stratum,
    append_verdict,
    key_of,
    read_verdicts,
    shares,
    stratum_of,
    verdict_row,
)

HOST = "127.0.0.1"
LONGEST_BODY = 64 * 1024
"""Bytes of a verdict with its note."""
LONGEST_NOTE = 10_000
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(kw_only=True)
class Review:
    """The documents of a sample, and the verdicts on them; threads of a server may share it."""

    stage: str
    """Key of the finished stage."""
    documents: list[dict[str, Any]]
    """The sample, in the order of judging."""
    sizes: Mapping[Stratum, int]
    """Documents of the corpus in each stratum."""
    path: Path
    """File of verdicts."""
    with_texts: bool = False
    """The file holds texts beside their hashes."""
    verdicts: dict[Key, dict[str, Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(
        cls,
        rows: Iterable[dict[str, Any]],
        *,
        stage: str,
        sizes: Mapping[Stratum, int],
        path: Path,
        with_texts: bool = False,
    ) -> "Review":
        """Start, or go on from the verdicts that are there. Raises DataError for a damaged file."""
        documents = in_turn(rows)
        verdicts = read_verdicts(path)
        return cls(
            stage=stage,
            documents=documents,
            sizes=sizes,
            path=path,
            with_texts=with_texts,
            verdicts={key: verdicts[key] for key in map(key_of, documents) if key in verdicts},
        )

    def judge(self, number: int, verdict: str, note: str) -> None:
        """Record a verdict. Raises ValueError for one that does not fit the document."""
        if not 0 <= number < len(self.documents):
            raise ValueError(f"there is no document {number}")
        row = verdict_row(
            self.documents[number],
            verdict,
            note[:LONGEST_NOTE],
            self.stage,
            with_texts=self.with_texts,
        )
        with self._lock:
            append_verdict(self.path, row)
            self.verdicts[key_of(row)] = row

    def state(self) -> dict[str, Any]:
        """Progress, the documents without their texts, and the shares so far, as JSON values."""
        with self._lock:
            verdicts = dict(self.verdicts)
        rows = []
        for number, document in enumerate(self.documents):
            verdict = verdicts.get(key_of(document), {})
            rows.append(
                {name: document[name] for name in ("kind", "operator", "family", "source", "id")}
                | {"number": number, "verdict": verdict.get("verdict", "")}
                | {"note": verdict.get("note", "")}
            )
        return {
            "documents": rows,
            "judged": len(verdicts),
            "choices": {kind: names | {UNSURE: "Unsure"} for kind, names in VERDICTS.items()},
            "shares": self.shares(verdicts.values()),
        }

    def shares(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        """Shares of bad documents, by operator and by family."""
        rows = list(rows)
        return {
            by: [share.row() for share in shares(rows, by, self.sizes)]
            for by in ("operator", "family")
        }


def in_turn(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Documents in the order of judging: one of each stratum, then the next of each, and so on, so
    that whoever stops early has judged as many of each."""
    turns: dict[Stratum, int] = defaultdict(int)
    ordered = []
    for row in rows:
        stratum = stratum_of(row)
        ordered.append((turns[stratum], rank(row["operator"], row["id"]), row["kind"], row))
        turns[stratum] += 1
    return [row for *_, row in sorted(ordered, key=lambda item: item[:3])]


class ReviewServer(http.server.ThreadingHTTPServer):
    """A review on a port of this machine; `url` opens it."""

    daemon_threads = True

    def __init__(self, review: Review, port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.review = review
        self.token = secrets.token_urlsafe(24)

    @property
    def origin(self) -> str:
        """Scheme, name and port."""
        return f"http://{HOST}:{self.server_port}"

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"{self.origin}/{self.token}/"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: ReviewServer
    server_version = "steel-review"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        place = self._place()
        if place is None:
            return
        review = self.server.review
        if place in ("", "review.js", "page.css"):
            self._static(place)
        elif place == "state":
            self._json(review.state())
        elif (number := self._number(place)) is not None:
            text = document_html(review.documents[number])
            self._send(text.encode("utf-8", "replace"), "text/html; charset=utf-8")
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        place = self._place()
        if place is None:
            return
        if self.headers.get("Origin") != self.server.origin:
            self._refuse(HTTPStatus.FORBIDDEN)
        elif place != "verdict":
            self._refuse(HTTPStatus.NOT_FOUND)
        else:
            self._judge()

    def _judge(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or int(length) > LONGEST_BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        try:
            body = json.loads(self.rfile.read(int(length)))
            number, verdict, note = body["number"], body["verdict"], body["note"]
            if not (type(number) is int and isinstance(verdict, str) and isinstance(note, str)):
                raise ValueError("a field has another type")
            self.server.review.judge(number, verdict, note)
        except (ValueError, KeyError, TypeError, RecursionError):
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        except (OSError, DataError):  # the disk is full, or the file cannot be written any more
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE)
            return
        self._json(self.server.review.state())

    def _place(self) -> str | None:
        """The path behind the token; None, and a refusal, where anything is not as it should be."""
        if self.headers.get("Host") != f"{HOST}:{self.server.server_port}":
            self._refuse(HTTPStatus.FORBIDDEN)
            return None
        token, slash, place = self.path.removeprefix("/").partition("/")
        if not slash or not secrets.compare_digest(
            token.encode("utf-8", "replace"), self.server.token.encode()
        ):
            self._refuse(HTTPStatus.NOT_FOUND)
            return None
        return place

    def _number(self, place: str) -> int | None:
        head, _, digits = place.partition("/")
        if head != "document" or not digits.isascii() or not digits.isdigit() or len(digits) > 9:
            return None
        return int(digits) if int(digits) < len(self.server.review.documents) else None

    def _static(self, place: str) -> None:
        if place == "page.css":
            self._send(style().encode(), "text/css; charset=utf-8")
            return
        name = place or "review_app.html"
        kind = "text/html" if name.endswith(".html") else "text/javascript"
        self._send((HERE / name).read_bytes(), f"{kind}; charset=utf-8")

    def _json(self, value: Any) -> None:
        body = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        self._send(body, "application/json")

    def _refuse(self, status: HTTPStatus) -> None:
        self.close_connection = True
        self._send(status.phrase.encode(), "text/plain; charset=utf-8", status)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the address holds the token."""
