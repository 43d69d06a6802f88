"""Report of a benchmark: its figures with command, versions and machine."""

import argparse
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common.files import write_json
from common.processes import PARENT, die_with_parent
from common.provenance import git_commit, package_versions, processor_name, software_versions


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--json FILE`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def end_with_parent() -> None:
    """End when the program that started this one as its `Child` is gone, whatever ended it."""
    if PARENT in os.environ:
        die_with_parent()


def publish(
    figures: dict[str, Any],
    module: str,
    argv: Sequence[str] | None,
    to: Path | None,
    *,
    table: str | None = None,
    packages: Iterable[str] = (),
) -> dict[str, Any]:
    """Print figures and write them to a file, with what it takes to judge and repeat them.

    Args:
        figures: JSON values.
        module: the benchmark.
        argv: its arguments; None for those of this process.
        to: the file; None for none.
        table: text to print instead of the figures as JSON.
        packages: distributions whose versions are added where they are installed.

    Returns:
        The content of the file.
    """
    report = save(figures, module, argv, to, packages=packages)
    print(json.dumps(report, indent=1, ensure_ascii=False) if table is None else table)
    return report


def save(
    figures: dict[str, Any],
    module: str,
    argv: Sequence[str] | None,
    to: Path | None,
    *,
    packages: Iterable[str] = (),
) -> dict[str, Any]:
    """As `publish`, without printing: also in the middle, so that a benchmark that is cut off keeps
    what it has measured. The file is replaced as a whole."""
    given = sys.argv[1:] if argv is None else argv
    words = [word for word in given if word != "--json" and word != str(to)]
    report = {
        "command": shlex.join(["python", "-m", f"benchmarks.{module}", *words]),
        **figures,
        "software": software_versions() | package_versions(packages),
        "machine": _machine(),
    }
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        write_json(to, report)
    return report


def count(text: str) -> int:
    """Parse `100M`, `1.5B` or `20k` as a whole number; the `type` of an option."""
    found = re.fullmatch(r"([\d.]+)([kmb]?)", text.lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number; write for example 100M")
    return round(float(found[1]) * {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}[found[2]])


def _machine() -> dict[str, Any]:
    """Processor, cores, memory, and how busy others keep it."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "commit": git_commit(),
    }
