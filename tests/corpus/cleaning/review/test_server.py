"""The review's server: verdicts from its own page only, and nothing for anybody else."""

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corpus.cleaning.review.server import HOST, LONGEST_BODY, Review, ReviewServer, in_turn
from corpus.cleaning.review.verdicts import read_verdicts
from tests.corpus.cleaning.review.test_markup import HOSTILE, Reader, example

ROWS = [
    example("changed", id="s/a#1", before=HOSTILE, after="乙"),
    example("changed", id="s/a#2", before="甲", after="乙"),
    example("dropped", id="s/a#3", operator="b_filter", before="短"),
    example("kept", id="s/a#4", operator="(kept)", before="好文章"),
]


def opened(path: Path, rows: list[dict[str, Any]] = ROWS) -> Review:
    return Review.open(rows, stage="key", sizes={}, path=path)


@contextlib.contextmanager
def serving(review: Review) -> Iterator[ReviewServer]:
    with ReviewServer(review) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReviewServer]:
    with serving(opened(tmp_path / "verdicts.jsonl")) as running:
        yield running


def ask(
    server: ReviewServer, place: str, body: Any = None, *, token: str | None = None, **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(HOST, server.server_port)
    method = "GET" if body is None else "POST"
    if body is not None:
        headers.setdefault("Origin", server.origin)
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
    path = f"/{server.token if token is None else token}/{place}"
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, answer.headers


def number_of(server: ReviewServer, document: str) -> int:
    state = json.loads(ask(server, "state")[1])
    return next(row["number"] for row in state["documents"] if row["id"] == document)


def test_a_verdict_is_recorded_and_counted(server: ReviewServer) -> None:
    number = number_of(server, "s/a#1")
    status, body, _ = ask(
        server, "verdict", {"number": number, "verdict": "damaged", "note": "公式没了"}
    )
    state = json.loads(body)
    assert (status, state["judged"]) == (200, 1)
    assert state["documents"][number]["verdict"] == "damaged"
    assert [(s["name"], s["bad"]) for s in state["shares"]["operator"]] == [
        ("all", 1),
        ("a_mapper", 1),
    ]
    (row,) = read_verdicts(server.review.path).values()
    assert (row["id"], row["note"], row["stage"]) == ("s/a#1", "公式没了", "key")
    assert "text" not in row


def test_a_review_goes_on_where_it_stopped(server: ReviewServer, tmp_path: Path) -> None:
    ask(server, "verdict", {"number": number_of(server, "s/a#3"), "verdict": "unsure", "note": ""})
    later = opened(tmp_path / "verdicts.jsonl").state()
    assert {r["id"]: r["verdict"] for r in later["documents"]} == {
        "s/a#1": "",
        "s/a#2": "",
        "s/a#3": "unsure",
        "s/a#4": "",
    }
    other = [row | {"before": row["before"] + "改"} for row in ROWS]
    assert opened(tmp_path / "verdicts.jsonl", other).state()["judged"] == 0


def test_a_hostile_document_is_text(server: ReviewServer) -> None:
    status, body, headers = ask(server, f"document/{number_of(server, 's/a#1')}")
    read = Reader(body.decode())
    assert status == 200
    assert "script" not in read.tags and "<script>" in read.text
    assert "default-src 'none'; script-src 'self'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]


@pytest.mark.parametrize("place", ["", "review.js", "page.css", "state", "document/0"])
def test_pages_need_the_token(server: ReviewServer, place: str) -> None:
    assert ask(server, place)[0] == 200
    for token in ("", "x", server.token[:-1], server.token + "x", "%00"):
        status, body, _ = ask(server, place, token=token)
        assert (status, body) == (404, b"Not Found")


@pytest.mark.parametrize("host", ["evil.example", f"{HOST}.evil.example", "localhost", ""])
def test_other_names_of_the_machine_are_refused(server: ReviewServer, host: str) -> None:
    """A page of another site may let its own name point here."""
    assert ask(server, "state", Host=host)[0] == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", f"http://{HOST}", ""])
def test_verdicts_of_other_pages_are_refused(server: ReviewServer, origin: str) -> None:
    body = {"number": 0, "verdict": "unsure", "note": ""}
    assert ask(server, "verdict", body, Origin=origin)[0] == 403
    assert ask(server, "verdict", body, token="x")[0] == 404
    assert not server.review.path.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 20_000,
        {"number": 99, "verdict": "unsure", "note": ""},
        {"number": -1, "verdict": "unsure", "note": ""},
        {"number": True, "verdict": "unsure", "note": ""},
        {"number": 0, "verdict": "nonsense", "note": ""},
        {"number": 0, "verdict": "unsure", "note": 5},
        {"number": 0, "verdict": "unsure"},
    ],
)
def test_what_is_no_verdict_is_refused(server: ReviewServer, body: Any) -> None:
    assert ask(server, "verdict", body)[0] == 400
    assert ask(server, "state")[0] == 200
    assert not server.review.path.exists()


def test_a_verdict_that_cannot_be_written_is_not_counted(server: ReviewServer) -> None:
    server.review.path.mkdir()
    assert ask(server, "verdict", {"number": 0, "verdict": "unsure", "note": ""})[0] == 507
    assert json.loads(ask(server, "state")[1])["judged"] == 0


def test_a_body_without_end_is_not_read(server: ReviewServer) -> None:
    connection = http.client.HTTPConnection(HOST, server.server_port)
    connection.putrequest("POST", f"/{server.token}/verdict")
    for name, value in (("Origin", server.origin), ("Content-Length", str(LONGEST_BODY + 1))):
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize("place", ["document/99", "document/-1", "document/٣", "../secret", "x"])
def test_what_is_not_there_is_not_found(server: ReviewServer, place: str) -> None:
    from urllib.parse import quote

    assert ask(server, quote(place))[0] == 404


def test_every_stratum_has_its_turn() -> None:
    rows = [
        example("changed", id=f"{source}/{n}", source=source, operator=operator)
        for operator in ("a_mapper", "b_mapper")
        for source in "st"
        for n in range(3)
    ]
    ordered = [(row["operator"], row["source"]) for row in in_turn(rows)]
    for turn in range(3):
        assert len(set(ordered[4 * turn : 4 * turn + 4])) == 4
