"""Image and compose file: what they name exists, agrees, and is closed to the outside."""

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from flows.environment import MLFLOW_PORT, PREFECT_PORT
from flows.services import worker


@pytest.fixture
def folder(root: Path) -> Path:
    return root / "deployments" / "containers"


@pytest.fixture
def compose(folder: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((folder / "compose.yaml").read_text()))


def instructions(folder: Path) -> list[tuple[str, str]]:
    """(instruction, what follows), continued lines joined, comments left out."""
    lines = (folder / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", text)
    return [(line.split()[0], line.split(None, 1)[1]) for line in joined.splitlines() if line]


def stages(folder: Path) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for name, rest in instructions(folder):
        if name == "FROM":
            found[rest.split()[-1]] = []
        elif found:
            found[list(found)[-1]].append((name, rest))
    return found


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_base_is_pinned_by_digest_and_has_a_python_that_the_project_takes(
    root: Path, folder: Path
) -> None:
    arguments = dict(rest.split("=", 1) for name, rest in instructions(folder) if name == "ARG" and "=" in rest)  # fmt: skip  # noqa: E501
    match = re.fullmatch(r"python:(3\.\d+\.\d+)-slim-\w+@sha256:[0-9a-f]{64}", arguments["BASE"])
    assert match is not None
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    least = tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    assert tuple(map(int, match[1].split("."))) >= least
    assert least == loaded(root / "deployments" / "install.py").OLDEST
    assert arguments["DEVICE"] == "cuda"


def test_the_final_image_has_no_compiler_and_no_root(folder: Path) -> None:
    final = stages(folder)["steel"]
    commands = " ".join(rest for name, rest in final if name == "RUN")
    assert "apt-get" not in commands and "pip" not in commands
    base = " ".join(rest for name, rest in stages(folder)["base"] if name == "RUN")
    assert not re.search(r"\b(gcc|g\+\+|cmake|build-essential|python3-dev)\b", base)
    assert [rest for name, rest in final if name == "USER"] == ["10001"]
    assert {name for name, _ in final} >= {"HEALTHCHECK", "ENTRYPOINT", "CMD"}


def test_versions_come_from_the_lock_alone(root: Path, folder: Path) -> None:
    build = " ".join(rest for _, rest in stages(folder)["build"])
    assert not re.search(r"[a-z]==\d", build), "a version stands in requirements.lock only"
    extras = set(",".join(re.findall(r"extras=([a-z,-]+)", build)).split(","))
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert {"tokenizer", "mlflow-servers"} <= extras <= set(project["optional-dependencies"])
    lock = (root / "requirements.lock").read_text()
    for extra in extras:
        for requirement in project["optional-dependencies"][extra]:
            name = re.split(r"[<>=\[ ]", requirement)[0]
            assert re.search(rf"^{re.escape(name)}==", lock, re.M), f"{name} has no version"


def test_files_that_are_copied_exist_and_no_secret_is_among_them(root: Path, folder: Path) -> None:
    for name, content in stages(folder).items():
        for instruction, rest in content:
            if instruction == "COPY" and "--from" not in rest:
                for path in rest.split()[:-1]:
                    assert (root / path).exists(), f"{name}: {path}"
    ignored = (root / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "**", "all but what is named stays out"
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert all((root / path).exists() for path in kept)
    packages = {"flows", "tasks", "corpus", "model", "common", "data_recipes", "deployments"}
    assert packages | {"prefect.yaml", "prefect.toml", "requirements.lock"} <= kept
    assert "**/.env" in ignored
    assert ".env" in (root / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize(
    ("command", "where"),
    [
        ("tini -- prefect server start --host 0.0.0.0", "http://127.0.0.1:4200/api/health"),
        ("tini -- /opt/steel/.venv/bin/mlflow server --port 5000", "http://127.0.0.1:5000/health"),
        ("tini -- python -m flows.services.worker --store /store", "http://127.0.0.1:8080/health"),
        ("tini -- steel run deployments/smoke.yaml --stages data", None),
        ("tini -- python -m prefect.engine", None),
        ("", None),
    ],
)
def test_health_asks_what_the_container_was_started_for(
    folder: Path, command: str, where: str | None
) -> None:
    assert loaded(folder / "health.py").address(command.split()) == where


def test_only_loopback_is_published_and_no_secret_is_written_down(
    folder: Path, compose: dict[str, Any]
) -> None:
    published = [port for one in compose["services"].values() for port in one.get("ports", [])]
    assert published == [
        f"127.0.0.1:${{STEEL_PREFECT_PORT:-{PREFECT_PORT}}}:4200",
        f"127.0.0.1:${{STEEL_MLFLOW_PORT:-{MLFLOW_PORT}}}:5000",
    ] or (PREFECT_PORT, MLFLOW_PORT) != (4200, 5000)
    assert len(published) == 2 and all(port.startswith("127.0.0.1:") for port in published)
    text = (folder / "compose.yaml").read_text()
    for key, value in re.findall(r"^\s*(\S*(?:PASSWORD|SECRET|ACCESS_KEY)\S*): (.+)$", text, re.M):
        assert re.fullmatch(r"\$\{STEEL_\w+:\?[^}]+\}", value), f"{key} is written down"
    example = (folder / ".env.example").read_text()
    assert set(re.findall(r"\$\{(STEEL_\w+)", text)) <= set(re.findall(r"^#?(\w+)=", example, re.M))
    assert re.findall(r"^(\w+)=(.*)$", example, re.M) == [
        (name, "") for name in sorted(set(re.findall(r"\$\{(\w+):\?", text)), key=example.index)
    ]


def test_services_start_in_order_and_wait_for_health(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {
        "postgres", "s3", "prepare", "prefect", "mlflow", "register", "worker"
    }  # fmt: skip
    once = {name for name, one in services.items() if one.get("restart") == "no"}
    assert once == {"prepare", "register"}
    for name, one in services.items():
        for other, wish in one.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other in once else "service_healthy"
            assert wish["condition"] == wanted, f"{name} -> {other}"
        if not one["image"].startswith("${STEEL_IMAGE"):
            assert re.search(r":[^:@]+@sha256:[0-9a-f]{64}$", one["image"]), f"{name} is not pinned"
            assert "test" in one["healthcheck"]
    reached, todo = set(), ["worker"]
    while todo:
        reached.add(now := todo.pop())
        todo += services[now].get("depends_on", {})
    assert reached == set(services)


def test_commands_of_the_services_exist(
    root: Path, compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, one in compose["services"].items():
        command = [str(word) for word in one.get("command", [])]
        if command[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(command[2]), name
        elif command[:1] == ["python"]:
            assert (root / command[1]).is_file(), name
    named = compose["services"]["worker"]["command"]
    given = worker.arguments_of(named[3:])
    assert str(given.store) == "/store" and given.arguments[:2] == ["--name", "steel-compose"]
    assert "--with-healthcheck" in given.arguments
    grace = compose["services"]["worker"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) >= worker.STOP_SECONDS + 30
    volumes = compose["services"]["worker"]["volumes"]
    assert {"store:/store", "state:/opt/steel/.steel"} <= set(volumes)


def test_gpus_are_added_to_the_worker_alone(folder: Path, compose: dict[str, Any]) -> None:
    added = yaml.safe_load((folder / "compose.gpu.yaml").read_text())["services"]
    assert set(added) == {"worker"} <= set(compose["services"])
    [device] = added["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
    assert added["worker"]["build"]["args"] == {"DEVICE": "cuda"}


def test_lines_of_the_dockerfile_that_start_a_shell_are_valid(folder: Path) -> None:
    import subprocess

    for name, rest in instructions(folder):
        if name == "RUN":
            script = re.sub(r"^(--mount=\S+\s+)+", "", rest)
            shlex.split(script)
            subprocess.run(["sh", "-n"], input=script.encode(), check=True)
