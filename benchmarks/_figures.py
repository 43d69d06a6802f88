"""Report of a benchmark: its figures with command, versions and machine."""

import argparse
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.provenance import git_commit, processor_name


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--json FILE`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def publish(
    figures: dict[str, Any], module: str, argv: list[str], packages: Iterable[str], to: Path | None
) -> None:
    """Print figures as JSON with what it takes to judge and repeat them; write them to a file.

    packages: distributions whose versions matter; absent ones are left out.
    """
    given = [text for text in argv if text != "--json" and text != str(to)]
    report = {
        "command": f"python -m {module} {' '.join(given)}".strip(),
        **figures,
        "versions": {"python": platform.python_version(), **dict(versions(packages))},
        "machine": machine(),
    }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    print(text)
    if to is not None:
        to.write_text(text + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, and how busy others keep it."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "commit": git_commit(),
    }


def versions(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Yield (name, version) of the distributions that are installed."""
    for name in packages:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
