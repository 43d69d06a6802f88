"""`make install`: the virtual environment .venv, with the versions of requirements.lock.

    python3 deployments/install.py           what the pipeline needs
    python3 deployments/install.py --dev     and the tools of `make check` and `make test`
    python3 deployments/install.py --extras tokenizer,s3      these optional parts of pyproject.toml

uv fetches, builds and unpacks many packages at once, from where pip would fetch them: pip's own
settings (index, mirror, certificates, folders of wheels) are handed to it. Where uv cannot do it,
pip does. Everything that they print is in .steel/logs/install.log; the terminal has one line.

Needs the standard library alone: nothing is installed yet. docs/adr/0080
"""

import argparse
import ast
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
OLDEST = (3, 11, 5)
"""Before it, `re` finds wrong matches for possessive quantifiers (docs/FOOTGUNS.md)."""
LOG = ROOT / ".steel" / "logs" / "install.log"
DEFAULT = "tokenizer"
"""Extra that the demonstration needs."""
DEVELOPMENT = "tokenizer,dev"
"""Extras with the tools for changing Steel."""

FROM_PIP = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
"""Setting of pip -> the environment variable that tells uv the same."""

TELLING = re.compile(
    r"error|×|failed|failure|not found|no such|no matching|no solution|because|cannot|could not|"
    r"unable|denied|no space|timed? ?out|unreachable|╰─▶|hint|conflict|fatal|requires",
    re.IGNORECASE,
)
"""Lines of a log that say why something went wrong."""
MAX_TELLING = 15

REMEDIES = (
    (
        r"No space left|Disk quota|os error 28",
        "the disk is full: free 6 GB; `TMPDIR=/other/disk make install` builds elsewhere",
    ),
    (
        r"cmake|g\+\+|gcc|Python\.h|command 'c\+\+'|No CMAKE_CXX_COMPILER",
        "a C++ compiler is missing: apt-get install g++ cmake python3-dev",
    ),
    (
        r"certificate|SSL|TLS",
        "the certificate of the package index is not accepted: pip config set global.cert FILE",
    ),
    (
        r"resolve host|name resolution|dns error|timed out|unreachable|Connection refused|proxy",
        "the package index is not reached: check the network, or choose a mirror: "
        "pip config set global.index-url URL",
    ),
    (r"[Pp]ermission denied", "this user may not write there: check the owner of the folder"),
)
"""Pattern of a log -> the remedy."""


def main() -> int:
    """Make the environment; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="also what `make check` and tests need")
    parser.add_argument("--extras", help="optional parts instead of those; names with commas")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="default: .venv")
    arguments = parser.parse_args()
    if sys.version_info < OLDEST:
        version = ".".join(map(str, sys.version_info[:3]))
        print(
            f"Steel needs Python 3.11.5 or newer; this is {version}. Say which one: "
            "make PYTHON=python3.11 …",
            file=sys.stderr,
        )
        return 2
    venv = arguments.venv.absolute()
    return Installation(venv, development=arguments.dev, extras=arguments.extras).run()


class Installation:
    """One installation, with its log and its line on the terminal."""

    def __init__(self, venv: Path, *, development: bool, extras: str | None = None) -> None:
        self.venv, self.development = venv, development
        self.extras = extras or (DEVELOPMENT if development else DEFAULT)
        self.python = str(venv / "bin" / "python")
        self.log = LOG
        self.began = time.monotonic()
        self.shown = ""

    def run(self) -> int:
        """Make everything; returns the exit code. An interrupted one continues."""
        # Without the marker nothing takes this environment for whole.
        for name in (".complete", ".complete-dev"):
            (self.venv / name).unlink(missing_ok=True)
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self.log.write_text(f"{sys.version}\n")
            self.make()
        except OSError as error:
            self.say("failed", last=True)
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            self.say("stopped; the same command continues", last=True)
            return 130
        except subprocess.CalledProcessError as error:
            self.say("failed", last=True)
            print("\n".join(explain(self.log, error.cmd)), file=sys.stderr)
            return 1
        (self.venv / ".complete").touch()
        if self.development:
            (self.venv / ".complete-dev").touch()
        self.say(f"Steel is installed in {self.venv.name}; next: make demo", last=True)
        return 0

    def make(self) -> None:
        """The steps. Raises CalledProcessError."""
        if not self.works():
            self.call("make .venv", [sys.executable, "-m", "venv", "--clear", str(self.venv)])
        uv = pinned("uv")
        common = ["--constraint", str(LOCK), "--editable", f".[{self.extras}]"]
        try:
            self.call("fetch uv", [self.python, "-m", "pip", "install", "--quiet", uv])
            self.call(
                "fetch and unpack the libraries",
                [self.python, "-m", "uv", "pip", "install", "--python", self.python, *common],
                {**from_pip(self.pip_settings()), **os.environ},
            )
        except subprocess.CalledProcessError:
            self.note("uv could not do it: pip does")
            quiet = ["--progress-bar", "off", "--disable-pip-version-check"]
            self.call(
                "fetch and unpack the libraries with pip",
                [self.python, "-m", "pip", "install", *quiet, *common],
            )

    def works(self) -> bool:
        """True if an environment is there whose Python starts and has pip."""
        try:
            done = subprocess.run(
                [self.python, "-c", "import pip, sys; print(sys.version_info >= (3, 11, 5))"],
                capture_output=True,
                text=True,
            )
        except OSError:
            return False
        return done.stdout.strip() == "True"

    def pip_settings(self) -> list[str]:
        """Lines `section.key='value'` of pip's configuration."""
        done = subprocess.run(
            [self.python, "-m", "pip", "config", "list"], capture_output=True, text=True
        )
        return done.stdout.splitlines()

    def call(
        self, what: str, command: list[str], environment: Mapping[str, str] | None = None
    ) -> None:
        """Run a program into the log, with the line on the terminal. Raises CalledProcessError."""
        self.note(f"$ {' '.join(command)}")
        with self.log.open("ab") as output:
            start = output.tell()
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=output,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                while process.poll() is None:
                    self.say(f"{what}{self.newest(start)}")
                    time.sleep(0.2)
            except BaseException:
                process.terminate()
                process.wait()
                raise
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)

    def newest(self, start: int) -> str:
        """The last line that uv has printed, in brackets; empty where there is none."""
        with self.log.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - 400))
            lines = file.read().decode(errors="replace").strip().splitlines()
        line = lines[-1].strip() if lines else ""
        return f" ({line[:50]})" if line and not line.startswith("$") else ""

    def note(self, text: str) -> None:
        """Write a line into the log."""
        with self.log.open("a") as file:
            file.write(f"[{time.monotonic() - self.began:.0f} s] {text}\n")

    def say(self, text: str, *, last: bool = False) -> None:
        """Show the line: in its place on a terminal, else once for each step."""
        seconds = int(time.monotonic() - self.began)
        clock = f"{seconds // 60}:{seconds % 60:02}"
        if sys.stderr.isatty():
            end = "\n" if last else ""
            print(f"\r\033[K{clock}  {text}"[:110], end=end, file=sys.stderr, flush=True)
        elif last or (step := text.split(" (")[0]) != self.shown:
            self.shown = text if last else step
            print(f"{clock}  {self.shown}", file=sys.stderr, flush=True)


def pinned(name: str) -> str:
    """The line of requirements.lock that has a package's version."""
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if re.match(rf"{re.escape(name)}==", line, re.IGNORECASE):
            return line.split(";")[0].strip()
    raise SystemExit(f"{LOCK.name} has no line {name}==VERSION")


def from_pip(settings: Iterable[str]) -> dict[str, str]:
    """Environment variables that tell uv what pip is told by its configuration.

    settings: lines of `pip config list`; the later ones win, as there.
    """
    found: dict[str, str] = {}
    for line in settings:
        place, _, value = line.partition("=")
        name = FROM_PIP.get(place.rpartition(".")[2])
        if name is None:
            continue
        try:
            text = str(ast.literal_eval(value))
        except (SyntaxError, ValueError):
            text = value
        words = text.split()
        found[name] = ",".join(words) if name == "UV_FIND_LINKS" else " ".join(words)
    if "UV_INDEX" in found:
        # pip takes the best version of all indexes; uv would stop at the first that has any.
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return found


def explain(log: Path, command: Iterable[str]) -> list[str]:
    """The lines of a log that say why it failed, and what to do."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line.rstrip()[:300] for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if TELLING.search(line) and not line.startswith("[")]
    shown = list(dict.fromkeys(telling or lines))[-MAX_TELLING:]
    remedies = [remedy for pattern, remedy in REMEDIES if re.search(pattern, "\n".join(shown))]
    return [
        f"error: this did not work: {' '.join(command)[:300]}",
        *(f"  {line}" for line in shown),
        *(f"try: {remedy}" for remedy in remedies[:2]),
        f"All that was printed is in {log}; `make install` goes on from here.",
    ]


if __name__ == "__main__":
    sys.exit(main())
