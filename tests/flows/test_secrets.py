"""Secrets given at every entry are in nothing that the commands print, log or store."""

import base64
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from common.redaction import RedactingStream
from corpus.sample_data import SampleDataConfig, write_dataset
from flows.cli import parser
from flows.commands.find_model import FoundModel
from flows.environment import answers
from flows.runs.watchdog import LOG
from model.entry.chat import Answer, Conversation
from tests.corpus.sources.fake_web import Web, serving
from tests.loopback import Answering, answering
from tests.processes import started_with

CORPUS = "wikipedia_cn"
OFF = """
import common.redaction, common.urls
for module in (common.redaction, common.urls):
    module.redact = lambda text, *more: text
common.redaction.redacted = lambda value: value
"""
"""Switches the redaction off: these tests must fail then."""
COMMANDS = """
import json, sys
from flows.cli import main
statuses = []
for sys.argv[1:] in json.loads(sys.argv[1]):
    try:
        statuses.append(main())
    except SystemExit as error:
        statuses.append(error.code)
sys.exit(max(statuses) if min(statuses) == max(statuses) else f"statuses: {statuses}")
"""
"""Several commands in one process: starting it takes longer than they do."""


@dataclass
class World:
    """A web server that wants a password, a configuration, and secrets of its own."""

    folder: Path
    web: Web
    seeded: dict[str, str] = field(default_factory=dict)
    """Entry -> the secret that was given there."""
    printed: list[str] = field(default_factory=list)
    shown: set[bytes] = field(default_factory=set)
    """Command lines of the processes that the commands start."""
    off: bool = False

    def secret(self, entry: str) -> str:
        """A new secret, with characters that URLs and YAML write in other ways."""
        return self.seeded.setdefault(entry, f"s3c/r%t+{secrets.token_hex(6)}ä")

    def url(self, entry: str, path: str = f"{CORPUS}.json") -> str:
        """Address of a file, with a password and a token that are secrets."""
        password, token = self.secret(f"{entry} password"), self.secret(f"{entry} query")
        userinfo = f"me:{quote(password, safe='')}"
        self.web.password = base64.b64encode(f"me:{password}".encode("latin-1")).decode()
        host = self.web.url.partition("://")[2]
        return f"http://{userinfo}@{host}/{path}?access_token={quote(token, safe='')}"

    def config(self, name: str, **changes: object) -> Path:
        """A configuration of one corpus."""
        path = self.folder / "configs" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        root = Path(__file__).resolve().parents[2]
        data = {
            "base": str(root / "deployments" / "small.yaml"),
            "name": name,
            "corpora": {CORPUS: self.url(f"{name} corpus")},
            "clean": {"language_model": {"sources": [CORPUS]}},
            "dpo": None,
            **changes,
        }
        path.write_text(json.dumps(data))
        return path

    def steel(self, *commands: list[object], status: int) -> str:
        """Run commands that all end with a status; returns what they print."""
        environment = {
            **{name: v for name, v in os.environ.items() if name != "PREFECT_API_URL"},
            "PREFECT_HOME": str(self.folder / "written" / "prefect"),
            "STEEL_PREFECT_PORT": "9",
            "TMPDIR": str(self.folder / "written" / "tmp"),
            "HF_HUB_OFFLINE": "1",
            **{
                name: self.secret(f"environment {name}")
                for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_API_KEY", "SOME_PASSWORD")
            },
            "MLFLOW_TRACKING_URI": f"http://me:{quote(self.secret('MLflow'), safe='')}"
            f"@127.0.0.1:{self.closed_port}/",
            "HTTPS_PROXY": f"http://me:{quote(self.secret('proxy'), safe='')}@127.0.0.1:9",
        }
        (self.folder / "written" / "tmp").mkdir(parents=True, exist_ok=True)
        arguments = json.dumps([list(map(str, command)) for command in commands])
        code = (OFF if self.off else "") + COMMANDS
        with subprocess.Popen(
            [sys.executable, "-c", code, arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            while True:
                try:
                    text, _ = process.communicate(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    self.command_lines(environment["TMPDIR"], process.pid)
        self.printed.append(text)
        assert process.returncode == status, text
        return text

    def command_lines(self, tmpdir: str, given: int) -> None:
        """Note what `ps` shows of the processes that a command has started."""
        for pid in started_with("TMPDIR", tmpdir):
            with contextlib.suppress(OSError):
                if pid != given:  # whose arguments are the user's
                    self.shown.add(Path(f"/proc/{pid}/cmdline").read_bytes())

    closed_port: int = 9

    def store(self) -> list[str]:
        """Options that name the store."""
        return ["--store", str(self.folder / "written" / "store")]

    def found(self) -> dict[str, list[str]]:
        """Entries whose secrets were written anywhere -> where."""
        texts = {"printed": "\n".join(self.printed).encode(), "ps": b"\n".join(self.shown)}
        written = [path for path in (self.folder / "written").rglob("*") if path.is_file()]
        texts |= {str(path): path.read_bytes() for path in written}
        if LOG.exists():
            texts[str(LOG)] = LOG.read_bytes()
        found: dict[str, list[str]] = {}
        for entry, secret in self.seeded.items():
            forms = {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]}
            # A piece is a secret too: what is cut for a message may begin within it.
            forms.add(secret.partition("+")[2][:10])
            for where, text in texts.items():
                if any(form.encode() in text for form in forms):
                    found.setdefault(entry, []).append(where)
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    write_dataset("corpora", CORPUS, tmp_path / "raw", SampleDataConfig(seed=7, scale=0.05))
    (raw,) = [path for path in (tmp_path / "raw").rglob("*") if path.is_file()]
    with serving(Web(files={f"{CORPUS}.json": raw.read_bytes()})) as web, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        (tmp_path / "written").mkdir()
        yield World(tmp_path, web, closed_port=closed.getsockname()[1])


def test_messages_about_bad_input(world: World) -> None:
    config, store = world.config("sound"), world.store()
    changes = {
        "without equals": "URL",
        "not YAML": "corpora.x=[URL",
        "unknown key": "corporaa.x=URL",
        "wrong type": "pretrain.steps=URL",
        "unknown protocol": f"corpora.{CORPUS}=nosuch+URL",
        "unknown corpus": "corpora.nonesuch=URL",
        "key": "URL.x=3",
    }
    commands: list[list[object]] = [
        ["check", config, "--set", change.replace("URL", world.url(f"--set {entry}")), *store]
        for entry, change in changes.items()
    ]
    files = {
        "broken": f"name: x\ncorpora: {{{CORPUS}: '{world.url('broken file')}'\n  a: [b\n",
        "base": f"base: '{world.url('base')}'\n",
        "text": f"name: x\npretrain: '{world.url('text')}'\n",
    }
    for name, text in files.items():
        path = world.folder / "configs" / f"{name}.yaml"
        path.write_text(text)
        commands.append(["check", path, *store])
    commands.append(["check", world.url("configuration"), *store])
    commands.append(["check", config, "--store", world.url("store")])
    commands.append(["chat", world.url("chat")])
    commands.append(["run", config, world.url("one argument too many")])
    world.steel(*commands, status=2)
    assert world.found() == {}
    assert "127.0.0.1" in world.printed[0] and "is a URL; give a path" in world.printed[0]
    assert world.printed[0].count("***") >= len(commands) - 2


def test_these_tests_can_fail(world: World) -> None:
    world.off = True
    config = world.config("sound")
    world.steel(["check", config, "--set", world.url("--set"), *world.store()], status=2)
    assert "--set password" in world.found()


@pytest.mark.slow
def test_runs_that_fail_and_succeed(world: World) -> None:
    store = [*world.store(), "--stages", "data"]
    assert "is sound" in world.steel(["check", world.config("sound"), *world.store()], status=0)
    # The server has no such file.
    config = world.config("one")
    missing = f"corpora.{CORPUS}={world.url('missing', 'missing.json')}"
    failed = world.steel(["run", config, *store, "--set", missing], status=2)
    assert "missing.json" in failed
    # The password is wrong: the server's is that of the newest URL.
    config = world.config("two")
    world.url("newer")
    world.steel(["run", config, *store], status=2)
    # And one that succeeds.
    config = world.config("three")
    given = f"corpora.{CORPUS}={world.url('good')}"
    done = world.steel(["run", config, *store, "--set", given, "--json"], status=0)
    assert '"stages"' in done
    assert len(list((world.folder / "written" / "store").rglob("manifest.json"))) >= 4
    assert (world.folder / "written" / "prefect" / "prefect.db").is_file()
    assert any(b"watchdog" in line for line in world.shown), "nothing was looked at"
    assert world.found() == {}


def test_texts_of_documents_and_answers_are_printed_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "见 http://u:pw@h/中文?q=1，Authorization: Basic YWJjZGVm\nCookie: a recipe, password=1234"
    )
    monkeypatch.setenv("SOME_PASSWORD", "recipe")
    found = {"id": "zhihu/1", "normalized": {"folder": "f", "bytes": 9, "text": text}}
    monkeypatch.setattr("tasks.core.explain.explain", lambda *_: found)
    monkeypatch.setattr(
        "flows.commands.find_model.find_model", lambda *_: FoundModel(place=Path(), words="")
    )
    monkeypatch.setattr("flows.commands.chat._load", lambda place: None)
    answer = Answer(text=text, finish="end", prompt_tokens=1, answer_tokens=1, left_out=0)
    monkeypatch.setattr(Conversation, "ask", lambda self, message, show, _: show(text) or answer)
    monkeypatch.setattr(sys, "stdout", RedactingStream(sys.stdout))
    for command in (["explain", "zhihu/1"], ["explain", "zhihu/1", "--json"], ["chat", "m"]):
        arguments = parser().parse_args([*command, *(["--prompt", "x"] * (command[0] == "chat"))])
        assert arguments.run(arguments) == 0
    quoted, _, rest = capsys.readouterr().out.partition("{\n")
    assert "".join(f"    | {line}\n" for line in text.split("\n")) in quoted
    assert json.dumps(text, ensure_ascii=False) in rest and rest.endswith(f"{text}\n")


def test_user_and_password_in_the_address_of_prefect_are_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Guarded(Answering):
        def answer(self, *, body: bool) -> None:
            pair = base64.b64encode("me:p@ss/wörd".encode()).decode()
            right = self.headers.get("Authorization") == f"Basic {pair}"
            self.send_response(200 if right else 500)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"true")

    for name in ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)
    with answering(Guarded) as url:
        userinfo = f"me:{quote('p@ss/wörd', safe='')}"
        assert answers(url.replace("://", f"://{userinfo}@"), 5)
        assert not answers(url.replace("://", "://me:wrong@"), 5)
        assert not answers(url, 5)
