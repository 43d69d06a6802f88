"""Libraries: what is missing, what is not what requirements.lock has, what does not work together.

pyproject.toml says what Steel needs and between which versions, requirements.lock which versions
were tested. Both are read here, so nothing about versions is said twice; `KNOWN_BAD` adds what
neither can say: which versions failed, and how.
"""

import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from common.paths import ROOT
from flows.doctor.finding import Finding, note, ok, problem

AREA = "versions"
LOCK = ROOT / "requirements.lock"
PROJECT = ROOT / "pyproject.toml"
FOR_SOME_GPUS = ("flash-attn", "flash-attn-4")
"""Optional parts that are named where there is a GPU that they fit (flows/doctor/gpu.py)."""
PIP = ".venv/bin/python -m pip install"

KNOWN_BAD: tuple[tuple[str, str, str, str], ...] = (
    (
        "sqlalchemy",
        ">=2.1",
        "prefect>=3.8,<3.9",
        "the server's scheduler fails each minute, so that no schedule ever fires",
    ),
    ("fastapi", ">=0.151", "prefect>=3.8,<3.9", "the server does not start, or answers 422"),
    (
        "prefect",
        ">=3.9",
        "prefect",
        "Steel's services and their recorded states are tested with 3.8",
    ),
    ("certifi", "<2026", "prefect>=3.9", "Prefect 3.9 wants a newer certifi"),
    (
        "flash-attn",
        "<2.8",
        "torch>=2.11",
        "its binary is built for an older torch and does not load",
    ),
    (
        "triton",
        "<3.6",
        "torch>=2.11",
        "torch.compile and Steel's kernels need the Triton of their torch",
    ),
)
"""(package, versions, with which other one, what happens)."""


def findings(
    installed: Mapping[str, str] | None = None, project: Path = PROJECT, lock: Path = LOCK
) -> Iterator[Finding]:
    """Findings about libraries.

    installed: version of each package by its canonical name; None: those of this Python.
    """
    there = installed_packages() if installed is None else installed
    settings = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    needed = _requirements(settings["dependencies"])
    pins = _pins(lock)
    yield from _python(settings["requires-python"])
    bad = list(_known_bad(there, pins))
    missing, wrong = [], []
    for requirement in needed:
        name = canonicalize_name(requirement.name)
        if name not in there:
            missing.append(name)
        elif not _within(there[name], requirement.specifier) and name not in dict(bad):
            wrong.append((name, requirement.specifier))
    for _, finding in bad:
        yield finding
    if missing:
        yield problem(
            AREA, f"not installed: {', '.join(missing)}", f"{PIP} {_pinned(missing, pins)}"
        )
    for name, specifier in wrong:
        yield problem(
            AREA,
            f"{name} {there[name]} is installed; Steel needs {specifier}",
            f"{PIP} {_pinned([name], pins)}",
        )
    others = {n: v for n, v in there.items() if n in pins and not _same(v, pins[n])}
    others = {n: v for n, v in others.items() if n not in dict(bad) and n not in dict(wrong)}
    if others:
        shown = ", ".join(f"{n} {v} (tested: {pins[n]})" for n, v in sorted(others.items())[:6])
        more = f" and {len(others) - 6} more" if len(others) > 6 else ""
        yield note(
            AREA,
            f"other versions than the tested ones: {shown}{more}",
            f"{PIP} {_pinned(sorted(others)[:6], pins)}" if not more else "make install",
        )
    if not (missing or wrong or bad):
        main = ", ".join(f"{n} {there[n]}" for n in ("torch", "prefect", "mlflow") if n in there)
        yield ok(AREA, f"{len(needed)} libraries that Steel needs are there and fit: {main}")
    yield from _extras(settings.get("optional-dependencies", {}), there)


def installed_packages(paths: Iterable[str] | None = None) -> dict[str, str]:
    """Version of each installed package, by canonical name; the first on the path counts."""
    found: dict[str, str] = {}
    for package in metadata.distributions(path=list(sys.path if paths is None else paths)):
        name = package.metadata["Name"]
        if name:
            found.setdefault(canonicalize_name(name), package.version)
    return found


def _python(specifier: str) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if not _within(version, SpecifierSet(specifier)):
        yield problem(
            AREA, f"Python {version}; Steel needs {specifier}", "make install PYTHON=python3.11"
        )
    else:
        yield ok(AREA, f"Python {version}")


def _known_bad(there: Mapping[str, str], pins: Mapping[str, str]) -> Iterator[tuple[str, Finding]]:
    for name, versions, other, effect in KNOWN_BAD:
        beside = Requirement(other)
        with_ = there.get(canonicalize_name(beside.name))
        if name not in there or with_ is None or not _within(with_, beside.specifier):
            continue
        if _within(there[name], SpecifierSet(versions)):
            together = "" if beside.name == name else f" with {beside.name} {with_}"
            yield (
                name,
                problem(
                    AREA,
                    f"{name} {there[name]}{together} does not work: {effect}",
                    f"{PIP} {_pinned([name], pins)}",
                ),
            )


def _extras(extras: Mapping[str, list[str]], there: Mapping[str, str]) -> Iterator[Finding]:
    """Optional parts that are not installed, as one note."""
    absent = []
    for extra, lines in sorted(extras.items()):
        if extra in FOR_SOME_GPUS:
            continue
        wanted = [canonicalize_name(r.name) for r in _requirements(lines)]
        if any(name not in there for name in wanted):
            absent.append(extra)
    if absent:
        yield note(
            AREA,
            f"optional parts that are not installed: {', '.join(absent)}",
            f"{PIP} -c requirements.lock -e '.[{absent[0]}]'",
        )


def _requirements(lines: Iterable[str]) -> list[Requirement]:
    """Requirements that apply to this system."""
    found = [Requirement(line) for line in lines]
    return [one for one in found if one.marker is None or one.marker.evaluate()]


def _pins(lock: Path) -> dict[str, str]:
    """Versions of requirements.lock that apply to this system, by canonical name."""
    pins: dict[str, str] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            pins[canonicalize_name(requirement.name)] = str(requirement.specifier).lstrip("=")
    return pins


def _pinned(names: Iterable[str], pins: Mapping[str, str]) -> str:
    return " ".join(f"{name}=={pins[name]}" if name in pins else name for name in names)


def _within(version: str, specifier: SpecifierSet) -> bool:
    try:
        return specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _same(version: str, pinned: str) -> bool:
    """True for the pinned version, whatever it was built for (`2.13.0+cpu`)."""
    return version.split("+")[0] == pinned.split("+")[0]
