"""Provenance of a result: the project's commit, versions of libraries, the processor."""

import contextlib
import functools
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from common.paths import ROOT

LIBRARIES = (
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "fastokens",
    "py-data-juicer",
    "datasets",
    "trl",
    "lm-eval",
    "liger-kernel",
    "flash-attn",
    "prefect",
    "mlflow",
)
"""Libraries whose versions are recorded where they are installed: they shape results or speed."""


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    versions: dict[str, str] = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def software_versions() -> dict[str, str]:
    """Versions of Python, of the installed `LIBRARIES`, and of CUDA once torch is loaded."""
    # Not cached: torch may be loaded between two calls.
    cuda = getattr(getattr(sys.modules.get("torch"), "version", None), "cuda", None)
    python = {"python": platform.python_version()}
    return python | package_versions(LIBRARIES) | ({"cuda": cuda} if cuda else {})


@functools.cache
def git_commit() -> str | None:
    """The project's commit, with `+` when the work tree differs from it; None if it is not known.

    Outside git it is what `STEEL_COMMIT` says, which an image was built with.
    """
    try:
        commit = _git("rev-parse", "HEAD").strip()
        changed = _git("status", "--porcelain", "--untracked-files=no").strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("STEEL_COMMIT") or None
    return commit + ("+" if changed else "")


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def processor_name() -> str:
    """Model name of the processor."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    return platform.processor() or platform.machine()
