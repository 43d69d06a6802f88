"""MLflow that is away: work goes on, waits are bounded, and what it lacks is made up later."""

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from mlflow.tracking import MlflowClient

from common.files import write_json
from model.train.run.folder import METRICS_FILE
from tasks.core import patience
from tasks.core.patience import within
from tasks.core.tracking import MODELS, Tracker, client, default_uri, experiment_links
from tasks.core.tracking.client import Client, Unreachable
from tasks.core.tracking.unsent import unsent
from tests.loopback import Answering, answering
from tests.processes import PATIENCE_SECONDS

LONGEST = PATIENCE_SECONDS
"""Seconds: a hang, not a slow machine. MLflow's own retries took 494 s for one stage."""


CODES = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    429: "REQUEST_LIMIT_EXCEEDED",
}
"""MLflow's names of some answers."""


class ServerError(Answering):
    """Answers every request with one status and counts them."""

    status: ClassVar[int] = 500
    requests: ClassVar[list[str]] = []

    def answer(self, *, body: bool) -> None:
        self.requests.append(self.path)
        code = CODES.get(self.status)
        text = json.dumps({"error_code": code, "message": "no"}).encode() if code else b"<html>"
        self.send_response(self.status)
        self.send_header("Retry-After", "3600")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(body=True)


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def trickle() -> Iterator[str]:
    """A server that sends one byte a second for ever: no timeout of HTTP ends that."""

    class Trickling(Answering):
        def answer(self, *, body: bool) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(600):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    if ended.wait(1):
                        return

        do_POST = Answering.do_GET

    ended = threading.Event()
    with answering(Trickling) as url:
        yield url
        ended.set()


@contextlib.contextmanager
def status(number: int) -> Iterator[str]:
    """A server that answers everything with this status."""
    kind = type("Answer", (ServerError,), {"status": number})
    with answering(kind) as url:
        yield url


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """A port that is closed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{free.getsockname()[1]}"


@contextlib.contextmanager
def unknown_host() -> Iterator[str]:
    """A name that no DNS knows."""
    yield "http://tracker.invalid:5000"


AWAY = {
    "closed port": nobody,
    "black hole": black_hole,
    "trickle": trickle,
    "500": lambda: status(500),
    "429": lambda: status(429),
    "wrong password": lambda: status(401),
    "no permission": lambda: status(403),
    "not MLflow": lambda: status(404),
    "unknown host": unknown_host,
}


def stage_with_everything(tracker: Tracker, store: Path, key: str = "k1") -> Any:
    """A stage that trains, as tasks/core/stage.py drives one, published in the store."""
    partial = store / "sft" / f"{key}.partial"
    partial.mkdir(parents=True)
    config, inputs = {"lr": 2}, {"b": "k0"}
    with tracker.stage(
        "sft", label="zh", key=key, folder=partial, config=config, inputs=inputs, trains=True
    ) as track:
        with track.follow(partial / METRICS_FILE):
            lines = [{"step": s, "time": 1.0 + s, "metrics": {"loss": 3.0 - s}} for s in range(3)]
            (partial / METRICS_FILE).write_text("".join(json.dumps(x) + "\n" for x in lines))
        for number in range(10):
            track.table(f"t{number}.json", [{"a": 1}])
        track.text("x.md", "x")
        track.counts({"tokens": 5})
        manifest = finished(key)
        write_json(partial / "manifest.json", manifest)
        partial.rename(store / "sft" / key)
        track.manifest(manifest)
    return track


def finished(key: str) -> dict[str, Any]:
    """Manifest of that stage."""
    settled = {"steps": 3, "precision": "float32"}
    return {
        "stage": "sft",
        "label": "zh",
        "key": key,
        "config": {"lr": 2},
        "inputs": {"b": "k0"},
        "counts": {"tokens": 5, "steps": 3},
        "notes": {"settled": settled},
        "started": 1.0,
        "finished": 9.0,
    }


SCORES = {
    "inputs": {"benchmarks": {"ceval": "k9"}, "model": "k1"},
    "counts": {"accuracy/ceval": 0.5, "questions": 8.0, "ties": 0.0},
    "notes": {"accuracy": {"ceval": {"interval_95": [0.2, 0.8]}}},
}
"""Manifest of an evaluation."""


@pytest.fixture(autouse=True)
def shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CALL_SECONDS", 2.0)


@pytest.mark.parametrize("kind", AWAY)
def test_a_stage_succeeds_soon_and_one_warning_says_so(
    kind: str, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "steel.tracking")
    with AWAY[kind]() as url:
        address = url.replace("http://", "http://me:wr0ng-pass@")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        started = time.monotonic()
        tracker = Tracker(store=store, pipeline="demo", pipeline_id="p1")
        stage_with_everything(tracker, store)
        tracker.close("FINISHED")
        assert experiment_links(address) == {}
        assert time.monotonic() - started < LONGEST
    assert tracker.stages[0]["status"] == "FINISHED"
    begun, lacks, *rest = [r.getMessage() for r in caplog.records if r.name == "steel.tracking"]
    assert "does not take what is to be recorded" in begun and url.partition("//")[2] in begun
    assert "lacks: sft-k1" in lacks and "run the same command" in lacks
    assert len(rest) == 1 and "does not take" in rest[0], "of the pages asked for at the end"
    assert "wr0ng-pass" not in caplog.text
    assert [path.name for path in unsent(store)] == ["sft-k1.json"]
    assert "wr0ng-pass" not in unsent(store)[0].read_text()


def test_what_was_not_recorded_is_made_up_by_the_next_run(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nobody() as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        away = Tracker(store=store, pipeline="demo", pipeline_id="p1")
        stage_with_everything(away, store)
        away.scores(finished("k1"), SCORES)
        away.close("FINISHED")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracker = Tracker(store=store, pipeline="demo", pipeline_id="p2")
    tracker.close("FINISHED")
    assert unsent(store) == []
    answers = MlflowClient(default_uri(store))
    models = answers.get_experiment_by_name(MODELS)
    (run,) = answers.search_runs([models.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "sft zh"
    assert run.data.params["lr"] == "2" and run.data.params["precision"] == "float32"
    assert run.data.metrics["accuracy/ceval"] == 0.5
    history = [(m.step, m.value) for m in answers.get_metric_history(run.info.run_id, "loss")]
    assert history == [(0, 3.0), (1, 2.0), (2, 1.0)]
    data = [(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs]
    assert data == [("b", "k0"), ("ceval", "k9")]


def test_an_outage_in_the_middle_leaves_each_step_once(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(store=store, pipeline="demo", pipeline_id="p1")
    real = tracker.client.log_batch
    calls: list[int] = []

    def log_batch(run_id: str, metrics: Any = (), **more: Any) -> None:
        if metrics and metrics[0].key == "loss":
            calls.append(len(metrics))
            if len(calls) > 1:
                raise Unreachable
        real(run_id, metrics=metrics, **more)

    monkeypatch.setattr(tracker.client, "log_batch", log_batch)
    monkeypatch.setattr("tasks.core.tracking.metric_mirror.BATCH", 2)
    track = stage_with_everything(tracker, store)
    assert track.sent == {"loss": 1}, "one batch of two"
    assert [path.name for path in unsent(store)] == ["sft-k1.json"]
    monkeypatch.setattr(tracker.client, "log_batch", real)
    tracker.close("FINISHED")
    assert unsent(store) == []
    history = tracker.client.get_metric_history(track.model_run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(0, 3.0), (1, 2.0), (2, 1.0)]
    experiment = tracker.client.get_experiment_by_name(MODELS)
    assert len(tracker.client.search_runs([experiment.experiment_id])) == 1


def test_a_server_that_is_away_is_asked_once_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    ServerError.requests.clear()
    with status(503) as url:
        asked = Client(url)
        attempts = []
        for _ in range(40):
            before = len(ServerError.requests)
            with pytest.raises(Unreachable):
                asked.search_experiments()
            attempts.append(len(ServerError.requests) > before)
            now[0] += 30
    tried = [i for i, attempt in enumerate(attempts) if attempt]
    assert tried == [0, 2, 6, 14, 30], "after 60 s, then 120, 240, 480"


def test_a_refusal_of_one_call_is_no_outage() -> None:
    with status(400) as url:
        asked = Client(url)
        for _ in range(2):
            with pytest.raises(Exception, match="no") as error:
                asked.search_experiments()
            assert not isinstance(error.value, Unreachable)
        assert not asked.away


def test_a_call_ends_with_its_own_result_or_error() -> None:
    assert within(PATIENCE_SECONDS, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(PATIENCE_SECONDS, lambda: 1 // 0)
    with pytest.raises(TimeoutError):
        within(0.05, threading.Event().wait)
