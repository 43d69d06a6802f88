"""Hostile programs in the sandbox: each tries something, and passes if it was kept from it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from textwrap import dedent

import pytest

from common.errors import ConfigError, DataError
from common.paths import ROOT
from common.processes import process_start
from model.evaluate import sandbox
from model.evaluate.sandbox import Limits, check_sandbox, run_program
from tests.processes import PATIENCE_SECONDS


@pytest.fixture(autouse=True, scope="module")
def needs_a_sandbox() -> None:
    try:
        check_sandbox()
    except ConfigError as error:
        pytest.skip(str(error))


def outcome(program: str, **limits: float) -> str:
    """End of a program, whose time is over only where a test says so, on a busy machine too."""
    return run_program(dedent(program), Limits(**{"seconds": PATIENCE_SECONDS, **limits}))  # type: ignore[arg-type]


REFUSED = """
def refused(attempt, *arguments):
    try:
        attempt(*arguments)
    except (OSError, ValueError, MemoryError, RuntimeError):
        return
    raise AssertionError(arguments)
"""


def test_a_program_passes_if_it_runs_to_its_end() -> None:
    assert outcome("assert sum([1, 2]) == 3") == "passed"
    assert outcome("import json, math, re, heapq\nassert json.loads('[1]') == [1]") == "passed"
    assert (
        outcome("open('/tmp/a', 'w').write('b'); assert open('/tmp/a').read() == 'b'") == "passed"
    )


@pytest.mark.parametrize(
    "program",
    [
        "assert sum([1, 2]) == 4",
        "def f(:",
        "exit(0)",
        "raise SystemExit(0)",
        "import os; os._exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV); 1 / 0",
        "import ctypes; ctypes.string_at(0)",
        "f = lambda: f()\nf()",
        "raise BaseException",
        "(" * 5000,
    ],
    ids=lambda program: program[:30],
)
def test_a_program_that_ends_early_has_not_passed(program: str) -> None:
    assert outcome(program) == "failed"


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time; time.sleep(1000)",
        "import signal\nfor n in range(1, 32):\n  try: signal.signal(n, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\nwhile True: pass",
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        "import os, sys\ntry: os.setsid()\nexcept OSError: pass\nwhile True: print('x' * 9999)",
        "import os, time\nos.setsid()\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\ntime.sleep(10**6)",
        "import os\nfor n in range(1, 32):\n  try: os.kill(1, n)\n  except OSError: pass\n"
        "  if n == 31: __import__('time').sleep(10**6)",
    ],
    ids=[
        "loop",
        "sleep",
        "ignores signals",
        "catches all",
        "own session, much output",
        "own session, asleep",
        "attacks",
    ],
)
def test_a_program_without_end_is_killed(program: str) -> None:
    named = f"import ctypes\nctypes.CDLL(None).prctl(15, b'steel-hostile', 0, 0, 0)\n{program}"
    assert outcome(named, seconds=0.5) == "timed out"
    while processes_named("steel-hostile"):  # the kernel takes a moment; without end it hangs here
        time.sleep(0.01)


def processes_named(name: str) -> list[int]:
    """Living processes of this machine that go by a name."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            named = (path / "comm").read_text().strip() == name
            if named and process_start(int(path.name)) is not None:  # a zombie runs no more
                found.append(int(path.name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def test_there_is_no_network() -> None:
    calls = []
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as local,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        local.bind(f"\0steel-test-{os.getpid()}")  # a name without a file
        local.listen()
        udp.bind(("127.0.0.1", 0))
        for listening in (server, local):
            listening.settimeout(0.05)

        program = f"""
            {REFUSED.replace(chr(10), chr(10) + " " * 12)}
            import socket
            port, other = {server.getsockname()[1]}, {udp.getsockname()[1]}
            refused(socket.create_connection, ("127.0.0.1", port), 2)
            refused(socket.create_connection, ("1.1.1.1", 53), 2)
            refused(socket.getaddrinfo, "example.org", 80)
            datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            refused(datagram.sendto, b"secret", ("127.0.0.1", other))
            refused(socket.socket(socket.AF_UNIX).connect, "\\0steel-test-{os.getpid()}")
            refused(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
            assert [name for _, name in socket.if_nameindex()] == ["lo"]
        """
        assert outcome(program) == "passed"
        for waiting in (server, local):
            with contextlib.suppress(TimeoutError):
                calls.append(waiting.accept())
        udp.settimeout(0.05)
        with pytest.raises(TimeoutError):
            udp.recv(10)
    assert not calls


def test_there_is_no_further_process_or_thread() -> None:
    program = f"""
        {REFUSED.replace(chr(10), chr(10) + " " * 8)}
        import ctypes, os, subprocess, threading, multiprocessing
        for _ in range(100):
            refused(os.fork)
        refused(os.forkpty)
        refused(os.posix_spawn, "/bin/true", ["true"], {{}})
        refused(subprocess.run, ["/bin/true"])
        refused(threading.Thread(target=print).start)
        assert ctypes.CDLL(None).fork() == -1
        assert ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0) == -1  # clone
        assert os.getpid() == 2
    """
    assert outcome(program) == "passed"


def test_memory_is_limited() -> None:
    program = f"""
        {REFUSED.replace(chr(10), chr(10) + " " * 8)}
        import mmap
        refused(bytearray, 1 << 30)
        refused(mmap.mmap, -1, 1 << 30)
        hoard = []
        try:
            while True:
                hoard.append(bytearray(1 << 20))
        except MemoryError:
            pass
        assert len(hoard) < 256
    """
    assert outcome(program, memory=1 << 28) == "passed"
    assert outcome("x = [0]\nwhile True: x += x", memory=1 << 28) == "failed"


def test_files_are_limited() -> None:
    program = """
        import os, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        written = 0
        try:
            for number in range(1000):
                with open(f"/tmp/{number}", "wb") as file:
                    written += file.write(b"x" * 100_000)
        except OSError:
            pass
        assert written <= 1 << 20, written
        opened = []
        try:
            while True:
                opened.append(os.dup(0))
        except OSError:
            pass
        assert len(opened) < 40
    """
    assert outcome(program, file_bytes=1 << 20) == "passed"


def test_nothing_outside_is_written_or_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("token")
    secret.chmod(0o666)
    tmp_path.chmod(0o777)
    shown = next(f for f in sandbox._library_folders() if Path(f).is_dir())
    name = f"steel-written-{os.getpid()}"
    program = f"""
        {REFUSED.replace(chr(10), chr(10) + " " * 8)}
        import os
        for path in ({str(secret)!r}, {__file__!r}, "/etc/passwd", "/proc/self/environ",
                     "/proc/1/root/etc/passwd", "/dev/mem", "/sys/kernel", "/bin/sh"):
            refused(open, path)
        for folder in ("/", {str(tmp_path)!r}, {str(ROOT)!r}, {shown!r}, {sys.base_prefix!r},
                       "/dev", os.path.dirname(os.__file__), "/root", "/home", "/tmp/.."):
            refused(open, folder + "/{name}", "w")
        refused(os.unlink, os.__file__)
        refused(os.chmod, os.__file__, 0o777)
        open("/tmp/{name}", "w").write("inside")
        os.symlink({str(secret)!r}, "/tmp/link")
        refused(open, "/tmp/link")
        assert set(os.listdir("/")) <= {{"tmp", "usr", "lib", "lib64", "root", "home", "opt"}}
    """
    assert outcome(program) == "passed"
    assert secret.read_text() == "token"
    for folder in (Path("/"), tmp_path, ROOT, Path(shown), Path(tempfile.gettempdir())):
        assert not (folder / name).exists()


def test_no_secret_is_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    read, write = os.pipe()
    os.set_inheritable(read, True)
    program = f"""
        import os, sys
        assert set(os.environ) == {{"HOME", "TMPDIR", "LANG"}}, dict(os.environ)
        assert "hf_secret" not in repr(sys.argv) + repr(os.environ)
        try:
            os.fstat({read})
        except OSError:
            pass
        else:
            assert {read} < 8, "a file of the parent"
        libc = __import__("ctypes").CDLL(None)
        libc.getenv.restype = __import__("ctypes").c_char_p
        assert libc.getenv(b"HF_TOKEN") is None
    """
    assert outcome(program) == "passed"
    os.close(read)
    os.close(write)


def test_privileges_cannot_be_gained() -> None:
    program = f"""
        {REFUSED.replace(chr(10), chr(10) + " " * 8)}
        import ctypes, os, resource
        libc = ctypes.CDLL(None)
        for kind in (resource.RLIMIT_NPROC, resource.RLIMIT_AS, resource.RLIMIT_CPU):
            refused(resource.setrlimit, kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        refused(os.chroot, "/tmp")
        refused(os.mknod, "/tmp/disk", 0o60600, os.makedev(8, 0))
        assert libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None) == -1
        assert libc.umount2(b"/tmp", 2) == -1
        assert libc.unshare(0x00020000) == -1  # a mount namespace
        assert libc.unshare(0x40000000) == -1  # a network namespace
        assert libc.sethostname(b"x", 1) == -1
        assert libc.ptrace(16, 1, 0, 0) == -1
        assert os.getuid() != 0 or libc.setuid(1) == -1
    """
    assert outcome(program) == "passed"


def test_other_processes_cannot_be_reached() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    program = f"""
        {REFUSED.replace(chr(10), chr(10) + " " * 8)}
        import os, signal
        for pid in ({sleeper.pid}, {os.getpid()}):
            refused(os.kill, pid, signal.SIGKILL)
        refused(os.kill, -1, signal.SIGKILL)
    """
    try:
        assert outcome(program) == "passed"
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_answers_that_are_not_the_token_are_no_pass() -> None:
    program = """
        import os
        for number in range(64):
            try:
                for _ in range(100):
                    os.write(number, b"ready\\n" + b"0" * 1000)
            except OSError:
                pass
    """
    assert outcome(program) == "failed"


def test_a_machine_without_the_means_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_sandbox.cache_clear()
    which = shutil.which
    monkeypatch.setattr(
        shutil, "which", lambda name, **kw: None if name == "unshare" else which(name, **kw)
    )
    with pytest.raises(ConfigError, match=r"cannot be run apart .* no program `unshare`"):
        check_sandbox()
    with pytest.raises(DataError, match="was not run"):
        run_program("pass")
    monkeypatch.undo()
    check_sandbox.cache_clear()


@pytest.mark.parametrize("told", ["pass", "pass" + "\n" * 200_000], ids=["soon", "too late"])
def test_a_namespace_that_cannot_be_made_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str
) -> None:
    """As on a machine that forbids user namespaces, or in a container without the right to.

    The second program fits into no pipe: the sandbox has ended before it has heard all of it.
    """
    refusing = tmp_path / "unshare"
    refusing.write_text(
        "#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n"
    )
    refusing.chmod(0o755)
    which = shutil.which
    monkeypatch.setattr(
        shutil,
        "which",
        lambda name, **kw: str(refusing) if name == "unshare" else which(name, **kw),
    )
    with pytest.raises(DataError, match="Operation not permitted"):
        run_program(told)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a process number without limit")
def test_a_user_whose_processes_cannot_be_limited_is_refused() -> None:
    with pytest.raises(sandbox.SandboxError, match="number of processes"):
        sandbox._run("pass", Limits(), user_namespace=True)


@pytest.mark.slow
def test_a_program_ends_even_if_its_starter_was_killed() -> None:
    name = f"steel-{os.getpid()}"
    program = (
        f"import ctypes, time\nctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)\ntime.sleep(999)"
    )
    code = (
        "from model.evaluate import sandbox\n"
        "sandbox.STARTUP_SECONDS = 1\n"
        f"sandbox.run_program({program!r}, sandbox.Limits(seconds=3))"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not processes_named(name):
        assert starter.poll() is None
        time.sleep(0.05)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    while processes_named(name):
        time.sleep(0.1)
