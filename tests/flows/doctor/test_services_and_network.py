"""Ports and servers of others, versions that differ, hubs that do not answer."""

import email.utils
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flows.doctor import network, services
from flows.doctor.finding import Finding
from tests.loopback import Answering, answering
from tests.processes import PATIENCE_SECONDS


@contextmanager
def server(**answers: Any) -> Iterator[str]:
    """A server on loopback: path without slashes -> (status, text); any other path is 404."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/").replace("/", "_") or "root"
            status, text = answers.get(name, (404, "nothing"))
            self.send_response_only(status)
            self.send_header("Date", answers.get("date", email.utils.formatdate(usegmt=True)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(text.encode())

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{made.server_port}"
        finally:
            made.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def nothing_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "HF_HUB_OFFLINE", "HF_ENDPOINT",
                 "TRANSFORMERS_OFFLINE"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        monkeypatch.setattr(services, "PREFECT_PORT", one.getsockname()[1])
        monkeypatch.setattr(services, "MLFLOW_PORT", two.getsockname()[1])
    monkeypatch.setattr(services, "running_services", dict)
    for module in (services, network):  # the servers here are threads of a process that may wait
        monkeypatch.setattr(module, "SECONDS", PATIENCE_SECONDS)


def bad(found: Iterator[Finding]) -> list[Finding]:
    return [one for one in found if one.level != "ok"]


def test_free_ports_are_fine() -> None:
    assert bad(services.findings()) == []


def test_a_port_that_another_program_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(services, "PREFECT_PORT", port)
        monkeypatch.setattr(services, "SECONDS", 0.2)
        found = bad(services.findings())
    assert "pytest" in found[0].text and str(port) in found[0].text
    assert f"STEEL_PREFECT_PORT={port + 10}" in found[0].mend


def test_a_service_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "running_services", lambda: {"prefect": {"pid": 2**22 + 1}})
    (found,) = bad(services.findings())
    assert "does not listen" in found.text and "make up" in found.mend


def test_servers_of_another_version_and_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    own = services.metadata.version("prefect")
    with server(api_admin_version=(200, json.dumps(own)), version=(200, "2.9.1")) as url:
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        (found,) = bad(services.findings())
        assert "mlflow server" in found.text and "is 2.9.1" in found.text
        monkeypatch.setenv("PREFECT_API_URL", url)
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        (found,) = bad(services.findings())
        assert "no prefect server: it answers 404" in found.text
    (found,) = bad(services.findings())
    assert "does not answer" in found.text and "unset PREFECT_API_URL" in found.mend


def test_a_server_that_asks_for_a_password_is_not_shown_the_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with server(api_admin_version=(401, "no")) as url:
        address = url.replace("http://", "http://me:geheimes-wort@")
        monkeypatch.setenv("PREFECT_API_URL", f"{address}/api")
        (found,) = bad(services.findings())
    assert "refuses this user (401)" in found.text and "geheimes-wort" not in found.text


@pytest.mark.parametrize("place", ["address", "environment"])
def test_mlflow_is_asked_with_its_own_password_and_never_with_prefects(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str | None] = []

    class Guarded(Answering):
        def answer(self, *, body: bool) -> None:
            sent.append(self.headers["Authorization"])
            text = services.metadata.version("mlflow").encode()
            self.send_response(200 if sent[-1] else 401)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    monkeypatch.setenv("PREFECT_API_KEY", "prefects-key")
    with answering(Guarded) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        (found,) = bad(services.findings())
        assert "refuses this user (401)" in found.text and sent == [None]
        if place == "address":
            address = url.replace("http://", "http://me:geheim@")
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        else:
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "geheim")
        assert bad(services.findings()) == []
    assert sent[1:] == ["Basic bWU6Z2VoZWlt"]


def test_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(root=(200, "")) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setattr(network, "MODELSCOPE", url)
        assert bad(network.findings()) == []
        monkeypatch.setattr(network, "MODELSCOPE", "http://127.0.0.1:9")
        (found,) = bad(network.findings())
        assert found.level == "note" and "127.0.0.1:9 is not reached" in found.text
    found_two = bad(network.findings())
    assert [one.level for one in found_two] == ["note", "note"]
    assert "HF_ENDPOINT=https://hf-mirror.com" in found_two[0].mend


@pytest.mark.parametrize(("offline", "variable"), [(True, ""), (False, "HF_HUB_OFFLINE")])
def test_nobody_is_asked_offline(
    offline: bool, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(network, "ask", lambda url: pytest.fail("asked"))
    (found,) = network.findings(offline=offline)
    assert found.level == "note" and "not asked" in found.text


def test_a_wrong_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(root=(200, ""), date=email.utils.formatdate(time.time() - 900, usegmt=True)) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setattr(network, "MODELSCOPE", url)
        (found,) = bad(network.findings())
    assert found.level == "problem" and "s fast" in found.text


def test_a_server_that_never_answers_costs_its_limit_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        reached, why, _ = network.ask(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert not reached and why
