"""MLflow behind its server: pages in a browser that was never there, PostgreSQL, a bucket.

Long, and each skips where a program is absent: a Chromium, Debian's `postgresql`.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from flows.services.addresses import comparison_page, mlflow_command, service_environment
from model.train.run.folder import METRICS_FILE
from tasks.core.tracking import MODELS, Tracker
from tests.tasks.core import recorded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

START_SECONDS = 300
PAGE_MILLISECONDS = 300_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECRET = "hidden-Pa55word"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(store: Path, **settings: str) -> Iterator[str]:
    """MLflow's server as `make up` starts it; `settings`: what the user's environment has."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            patch.delenv(name, raising=False)
        for name, value in settings.items():
            patch.setenv(name, value)
        environment = service_environment(store)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        f"--port={port}" if p.startswith("--port") else p for p in mlflow_command(environment)
    ]
    assert SECRET not in " ".join(command)
    with (store / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**environment, "MLFLOW_TRACKING_URI": url},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{url}/health"):
            assert process.poll() is None, (store / "server.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (store / "server.log").read_text()[-3000:]
            time.sleep(0.5)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A store whose pipeline was recorded through a server, and the server's address."""
    store = tmp_path_factory.mktemp("served")
    with server(store) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", url)
        recorded.record(store)
        yield store, url


def browser() -> str:
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    pytest.skip(f"needs a browser: {', '.join(BROWSERS)}")


@contextlib.contextmanager
def page(width: int = 1500, height: int = 1300) -> Iterator[Any]:
    """A page of a browser with an empty profile."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = browser()
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        opened = started.new_page(viewport={"width": width, "height": height})
        opened.set_default_timeout(PAGE_MILLISECONDS)
        yield opened
        started.close()


def test_the_link_opens_the_chosen_charts_in_a_new_browser(
    served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, url = served
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    link = comparison_page(store, "demo")
    assert link.startswith(url)
    with page() as opened:
        opened.goto(link)
        opened.get_by_text("1 Accuracy, with 95 % intervals").first.wait_for()
        opened.get_by_text("2 Loss by tokens").first.wait_for()
        opened.locator(".js-plotly-plot").nth(3).wait_for(state="attached")
        shown = opened.inner_text("body")
        order = ["accuracy/ceval", "accuracy/mmlu", "interval_95/ceval", "2 Loss by tokens"]
        places = [shown.index(text) for text in order]
        assert places == sorted(places)
        for name in ("pretrain demo", "sft zh", "sft zh-en", "dpo"):
            assert name in shown
        assert "4 matching runs" in shown and "validation/tokens" in shown
        assert "Traces 0" not in shown and "stage/" not in shown
        # A second visit, after the user has looked at something else, is the same.
        opened.goto(f"{url}/#/experiments")
        opened.goto(link)
        opened.get_by_text("1 Accuracy, with 95 % intervals").first.wait_for()


def test_models_and_versions_have_their_pages(served: tuple[Path, str]) -> None:
    _, url = served
    with page() as opened:
        opened.goto(f"{url}/#/models/demo")
        opened.get_by_text("best-sft").first.wait_for()
        shown = opened.inner_text("body")
        assert "base" in shown and "dpo" in shown


def test_system_metrics_of_a_training_are_recorded(
    served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, url = served
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    monkeypatch.setattr("tasks.core.tracking.machine.SECONDS", 0.5)
    tracker = Tracker(store=store, pipeline="load", pipeline_id="p9")
    folder = store / "sft" / "k-load.partial"
    folder.mkdir(parents=True)
    with (
        tracker.stage(
            "sft", label="load", key="k-load", folder=folder, config={}, inputs={}, trains=True
        ) as track,
        track.follow(folder / METRICS_FILE),
    ):
        deadline = time.monotonic() + 120
        machine = folder / ".scratch" / "machine.jsonl"
        while not (machine.is_file() and machine.read_bytes().count(b"\n") > 2):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    metrics = MlflowClient(url).get_run(track.model_run_id).data.metrics
    assert metrics["system/system_memory_usage_percentage"] > 0
    assert "system/cpu_utilization_percentage" in metrics


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a database in a cluster of its own, with a password."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("needs PostgreSQL's own server (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg2")
    programs, place = found[-1].parent, tmp_path_factory.mktemp("postgresql")
    user: list[str] = []
    if os.getuid() == 0:  # it refuses to run as root
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        shutil.chown(place, "postgres")
        for parent in list(place.parents)[:3]:
            parent.chmod(parent.stat().st_mode | 0o011)
    password = place / "password"
    password.write_text(SECRET)
    password.chmod(0o644)
    data, port = place / "data", str(free_port())
    initdb = [programs / "initdb", "-D", data, "-U", "steel", "-A", "scram-sha-256"]
    run([*user, *initdb, f"--pwfile={password}", "--no-sync"])
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    control = [*user, programs / "pg_ctl", "-D", data, "-w"]
    run([*control, "-t", START_SECONDS, "-l", place / "data" / "log", "-o", options, "start"])
    try:
        yield f"postgresql://steel:{SECRET}@127.0.0.1:{port}/postgres"
    finally:
        run([*control, "-m", "immediate", "stop"])


def run(command: list[Any]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Settings of an empty bucket on a server that speaks S3."""
    pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    port = free_port()
    code = (
        "import sys; from moto.server import ThreadedMotoServer; "
        "s = ThreadedMotoServer(ip_address='127.0.0.1', port=int(sys.argv[1])); s.start(); "
        "sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(port)], stdin=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"
    settings = {
        "MLFLOW_S3_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "steel",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(url + "/moto-api/"):
            assert time.monotonic() < deadline
            time.sleep(0.3)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            boto3.client("s3", endpoint_url=url).create_bucket(Bucket="steel")
        yield settings
    finally:
        process.kill()
        process.communicate()


def objects(settings: Mapping[str, str]) -> set[str]:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=settings["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id="steel",
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    found = client.list_objects_v2(Bucket="steel").get("Contents", [])
    return {entry["Key"] for entry in found}


def test_postgresql_and_a_bucket_without_a_server_of_mlflow(
    postgresql: str,
    bucket: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgresql)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "s3://steel/direct")
    monkeypatch.setenv("STEEL_MLFLOW_WEIGHTS", "copy")
    monkeypatch.setattr("tasks.core.tracking.client.CALL_SECONDS", 120.0)
    tracker, _ = recorded.record(tmp_path)
    assert not tracker.incomplete and not list((tmp_path / "mlflow").glob("unsent/*"))
    client = MlflowClient(postgresql)
    number = client.get_experiment_by_name(MODELS).experiment_id
    runs = client.search_runs([number])
    assert len(runs) == 4
    assert client.get_model_version_by_alias("demo", "best-sft").tags["steel.key"] == "k-zh-en"
    kept = objects(bucket)
    assert any(key.startswith("direct/steel/") and key.endswith("manifest.json") for key in kept)
    assert any(key.endswith("weights/model.safetensors") for key in kept)
    everything = json.dumps([[run.data.params, run.data.tags] for run in runs]) + caplog.text
    everything += "".join(p.read_text() for p in tmp_path.rglob("*.json"))
    assert SECRET not in everything


def test_a_server_with_postgresql_hands_files_on_to_a_bucket(
    postgresql: str, bucket: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    for name in bucket:  # clients have no credentials
        monkeypatch.delenv(name, raising=False)
    settings = {
        **bucket,
        "MLFLOW_BACKEND_STORE_URI": postgresql.replace("/postgres", "/template1"),
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://steel/proxied",
    }
    with server(store, **settings) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        tracker, _ = recorded.record(store)
        client = MlflowClient(url)
        version = client.get_model_version_by_alias("demo", "dpo")
        assert version.tags["steel.key"] == "k-dpo"
        assert not tracker.incomplete
    assert any(key.startswith("proxied/") for key in objects(bucket))
    assert SECRET not in (store / "server.log").read_text()
