"""`make install`: the settings it takes over from pip, its log, its errors, its interruption."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from common.paths import ROOT
from tests.processes import default_sigint, wait_until


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", ROOT / "deployments" / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LOG", tmp_path / "logs" / "install.log")
    return module


def test_uv_is_told_what_pip_is_told(install: ModuleType) -> None:
    lines = [
        "global.index-url='https://mirror.example/simple'",
        "global.extra-index-url='file:///one file:///two'",
        ":env:.find-links='/opt/a /opt/b'",
        "install.trusted-host='mirror.example'",
        ":env:.default-timeout='180'",
        "global.cert='/etc/ssl/own.pem'",
        "global.no-such-thing='x'",
    ]
    assert install.from_pip(lines) == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "file:///one file:///two",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/opt/a,/opt/b",
        "UV_INSECURE_HOST": "mirror.example",
        "UV_HTTP_TIMEOUT": "180",
        "SSL_CERT_FILE": "/etc/ssl/own.pem",
    }
    assert install.from_pip([]) == {}


@pytest.mark.parametrize(
    ("printed", "shown", "remedy"),
    [
        (
            "  x Failed to build `simhash-pybind==0.0.3`\n   error: command 'g++' failed: No such",
            "command 'g++' failed",
            "apt-get install g++",
        ),
        ("error: No space left on device (os error 28)", "No space left", "the disk is full"),
        (
            "error: Failed to fetch: `https://pypi.org/simple/torch/`\n  Caused by: dns error",
            "dns error",
            "global.index-url",
        ),
        ("  invalid peer certificate: UnknownIssuer, failed", "UnknownIssuer", "global.cert"),
    ],
)
def test_a_failure_shows_the_lines_that_matter(
    install: ModuleType, printed: str, shown: str, remedy: str, tmp_path: Path
) -> None:
    log = tmp_path / "install.log"
    noise = "\n".join(f"Downloading package-{n} (1.0MiB)" for n in range(1000))
    log.write_text(f"{noise}\n{printed}\n")
    lines = install.explain(log, ["python", "-m", "uv"])
    assert len(lines) < 20
    text = "\n".join(lines)
    assert shown in text and remedy in text and str(log) in text
    assert "Downloading" not in text


def fake_python(folder: Path, program: str) -> Path:
    """A virtual environment whose python runs a program instead of pip and uv."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!{sys.executable}\nimport sys\nwords = sys.argv[1:]\n{program}")
    python.chmod(0o755)
    return folder


WORKS = "if words[0] == '-c': print(True)\n"


def test_pip_does_what_uv_cannot(
    install: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = fake_python(
        tmp_path / "venv",
        f"{WORKS}elif words[1] == 'uv': sys.exit('error: uv cannot')\n"
        f"else: open({str(tmp_path / 'calls')!r}, 'a').write(' '.join(words) + chr(10))\n",
    )
    (venv / ".complete-dev").touch()
    assert install.Installation(venv, development=False).run() == 0
    assert (venv / ".complete").exists()
    assert not (venv / ".complete-dev").exists()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[-1].startswith("-m pip install") and calls[-1].endswith("--editable .[tokenizer]")
    assert "uv could not do it" in install.LOG.read_text()
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") < 8


def test_a_failed_installation_is_not_complete(
    install: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = f"{WORKS}elif words[2] == 'install': sys.exit('error: No space left on device')\n"
    venv = fake_python(tmp_path / "venv", program)
    (venv / ".complete").touch()
    assert install.Installation(venv, development=True).run() == 1
    assert not list(venv.glob(".complete*"))
    assert "try: the disk is full" in capsys.readouterr().err


def test_an_interrupted_installation_ends_its_program_and_is_not_complete(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = (
        f"{WORKS}elif words[1] == 'uv':\n"
        f"    import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)\n"
    )
    venv = fake_python(tmp_path / "venv", program)
    script = (
        "import sys; sys.path.insert(0, 'deployments'); import install, pathlib\n"
        f"install.LOG = pathlib.Path({str(tmp_path / 'log')!r})\n"
        f"sys.exit(install.Installation(pathlib.Path({str(venv)!r}), development=False).run())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_sigint,
    )
    with process:
        assert process.stderr is not None
        assert any("unpack the libraries" in line for line in process.stderr), "it watches uv now"
        wait_until(lambda: pid.exists() and pid.read_text(), "uv works", process=process)
        process.send_signal(signal.SIGINT)
        error = process.stderr.read()
    assert process.returncode == 130
    assert "stopped; the same command continues" in error
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert not (venv / ".complete").exists()


def test_a_broken_environment_is_made_anew(install: ModuleType, tmp_path: Path) -> None:
    venv = fake_python(tmp_path / "venv", "sys.exit(1)")
    assert not install.Installation(venv, development=False).works()
    assert not install.Installation(tmp_path / "nothing", development=False).works()
    good = fake_python(tmp_path / "good", WORKS)
    assert install.Installation(good, development=False).works()


def test_everything_that_is_installed_has_its_version_in_the_lock(install: ModuleType) -> None:
    """requirements.lock is the one truth: a package without a line there could be any version."""
    from importlib import metadata

    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = {
        canonicalize_name(Requirement(line).name)
        for line in lines
        if line and not line.startswith("#")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    waiting = [
        *project["dependencies"],
        *extras[install.DEFAULT],
        *(line for extra in install.DEVELOPMENT.split(",") for line in extras[extra]),
    ]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        name, wanted = canonicalize_name(requirement.name), tuple(sorted(requirement.extras))
        if (name, wanted) in seen:
            continue
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        seen.add((name, wanted))
        for text in metadata.requires(name) or ():
            inner = Requirement(text)
            asked = [{"extra": extra} for extra in ("", *wanted)]
            if inner.marker is None or any(inner.marker.evaluate(e) for e in asked):
                waiting.append(f"{inner.name}[{','.join(inner.extras)}]")
    # A CUDA build of torch brings its own libraries of CUDA, and build tools are no libraries.
    free = re.compile(r"nvidia-.*|cuda-.*|setuptools|pip|wheel")
    missing = {name for name, _ in seen if name not in pins and not free.fullmatch(name)}
    assert not missing
