"""Running of a program that a model wrote, apart from everything else. Linux only.

    this process ──program──▶ timeout ▶ unshare ▶ model/evaluate/sandboxed.py ▶ program
          ▲                                                       │
          └──────────── "ready", a token if it ran to its end ◀───┘

Guaranteed, or refused with a reason before any program runs:

- no network: a network namespace without an interface, and no socket file in sight;
- no files: it sees Python's libraries, read-only, and an empty /tmp in memory that ends with it;
- no secrets: an empty environment, no inherited file, no /proc, no other process;
- no further process or thread, and limits of memory, processor time, file size and open files;
- an end: after the limit of time it is killed, by `timeout` also if this process has died.

Not guaranteed: protection from faults of the kernel itself, and honesty. The token is in the
program's own interpreter, and one that looks for it can claim to have passed. docs/adr/0059
"""

import contextlib
import json
import os
import secrets
import selectors
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal

from common.child import Child
from common.errors import ConfigError, DataError

READY = b"ready\n"
STARTUP_SECONDS = 20.0
"""Time for namespaces and Python itself, on a busy machine."""
MAX_ANSWER_BYTES = 4096

Outcome = Literal["passed", "failed", "timed out"]


class SandboxError(Exception):
    """A sandbox that could not be made."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one program."""

    seconds: float = 5.0
    """Time, and processor time rounded up."""
    memory: int = 1 << 30
    """Address space, bytes."""
    file_bytes: int = 1 << 24
    """Size of a file, and of all files together, bytes."""


def run_program(program: str, limits: Limits | None = None) -> Outcome:
    """Run a Python program in a sandbox; passed if it ran to its end without an error.

    Raises DataError where the sandbox cannot be made.
    """
    limits = limits or Limits()
    try:
        return _run(program, limits, user_namespace=os.geteuid() != 0)
    except SandboxError as error:
        raise DataError(f"a program was not run: {error}") from error


@cache
def check_sandbox() -> None:
    """Raise ConfigError on a machine where programs cannot be run apart."""
    try:
        outcome = _run(_TRIAL, Limits(), user_namespace=os.geteuid() != 0)
    except SandboxError as error:
        raise ConfigError(
            f"programs that a model wrote cannot be run apart on this machine ({error}): leave "
            "out the benchmarks that run code, or evaluate on a Linux machine (5.14 or newer) "
            "with unprivileged user namespaces"
        ) from error
    if outcome != "passed":
        raise ConfigError(
            f"programs cannot be run apart on this machine: one that only imports Python's "
            f"modules {outcome}. May every user read {sys.base_prefix}? Is the machine very busy?"
        )


_TRIAL = "import collections, hashlib, heapq, itertools, json, math, re, string, typing"
"""A program that needs what others do: modules of Python, and libraries of the system."""


def _run(program: str, limits: Limits, *, user_namespace: bool) -> Outcome:
    token = secrets.token_hex(16)
    whole = limits.seconds + STARTUP_SECONDS
    with tempfile.TemporaryDirectory(prefix="steel-sandbox-") as root:
        job = {
            "program": program,
            "token": token,
            "root": os.path.realpath(root),
            "shown": _library_folders(),
            "memory": limits.memory,
            "seconds": -(-int(limits.seconds * 1000) // 1000) + 1,
            "file_bytes": limits.file_bytes,
            "change_user": not user_namespace,
        }
        options: dict[str, Any] = {"stdin": -1, "stdout": -1, "stderr": -1, "close_fds": True}
        command = _command(whole + 5, user_namespace=user_namespace)
        # Nothing of this process's environment: only what the programs of the command need.
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        with Child(command, None, env=environment, grace=0, cwd="/", **options) as child:
            given, answer, errors = (
                child.process.stdin,
                child.process.stdout,
                child.process.stderr,
            )
            assert given is not None and answer is not None and errors is not None
            with answer, errors:
                # One that has ended before it was told says why, like one that ends behind it.
                with contextlib.suppress(BrokenPipeError), given:
                    given.write(json.dumps(job).encode())
                return _outcome(child, answer, errors, token, limits.seconds)


def _outcome(
    child: Child, stdout: IO[bytes], stderr: IO[bytes], token: str, seconds: float
) -> Outcome:
    """Follow a program until its time is over. Raises SandboxError if it was never begun."""
    answer = _Reader(stdout)
    with answer.selector:
        if not answer.until(READY, STARTUP_SECONDS):
            child.stop()
            said = answer.content + stderr.read(MAX_ANSWER_BYTES)
            late = "the sandbox ended" if answer.ended else "the sandbox did not start in time"
            raise SandboxError(_first_line(said) or late)
        wanted = READY + token.encode()
        if answer.until(wanted, seconds):
            return "passed"
        came = answer.ended or len(answer.content) >= len(wanted)
        return "failed" if came else "timed out"


def _command(seconds: float, *, user_namespace: bool) -> list[str]:
    """Command that starts `sandboxed.py` in namespaces of its own. Raises SandboxError."""
    programs = {name: shutil.which(name, path="/usr/bin:/bin") for name in ("timeout", "unshare")}
    for name, path in programs.items():
        if path is None or sys.platform != "linux":
            raise SandboxError(f"there is no program `{name}` of Linux")
    return [
        *(str(programs["timeout"]), "--signal=KILL", f"{seconds:.0f}"),
        *(str(programs["unshare"]), *(["--user", "--map-root-user"] if user_namespace else [])),
        *("--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child=SIGKILL"),
        *(os.path.realpath(sys.executable), "-I", "-S", "-B"),
        str(Path(__file__).resolve().with_name("sandboxed.py")),
    ]


def _library_folders() -> list[str]:
    """Folders that Python reads its modules and their libraries from."""
    own = [f"{sys.base_prefix}/lib", f"{sys.base_prefix}/lib64"]
    return [*dict.fromkeys(["/usr/lib", "/usr/lib64", "/lib", "/lib64", *own])]


def _first_line(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[0][:200] if lines else ""


class _Reader:
    """Reads a pipe with a limit of time and size."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.pipe, self.content, self.ended = pipe, b"", False
        self.selector = selectors.DefaultSelector()
        self.selector.register(pipe, selectors.EVENT_READ)

    def until(self, wanted: bytes, seconds: float) -> bool:
        """Read until exactly `wanted` has come, or it cannot come any more."""
        end = time.monotonic() + seconds
        while not self.ended and len(self.content) < len(wanted):
            left = end - time.monotonic()
            if left <= 0 or not self.selector.select(left):
                return False
            piece = os.read(self.pipe.fileno(), MAX_ANSWER_BYTES)
            self.content += piece
            self.ended = not piece or len(self.content) > MAX_ANSWER_BYTES
        return self.content[: len(wanted)] == wanted
