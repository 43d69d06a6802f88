"""The commands of `steel`, one module for each group.

    pipeline.py   run, check, report, explain      a configuration and its results
    ablations.py  kernel-ablation, ffn-ablation    runs that differ in one setting
    data.py       verify, verify-order             proofs about what lies in a store
    training.py   append, reschedule, profile      requests to a pretraining, running or stopped
    models.py     export, chat, import             models: ours, and published ones

A module's `add(commands)` declares its commands; each sets `run`, a function from the parsed
arguments to the exit code. Imports that take long stand inside these functions, so that
`steel --help` is instant.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Name = TypeVar("Name", bound=str)

DONE = 0
FAILED = 1
"""A stage could not finish, or a proof did not hold."""
BAD_INPUT = 2
"""Input that the user can correct; one message says how."""

RENAMED = {"horizon": "reschedule"}
"""Old names of commands."""

OPTIONS: dict[str, dict[str, Any]] = {
    "store": {"default": "store", "help": "folder of all results (default: store)"},
    "set": {
        "dest": "overrides",
        "action": "append",
        "default": [],
        "metavar": "SECTION.KEY=VALUE",
        "help": "change the configuration; may be given several times",
    },
    "fraction": {"metavar": "F", "help": "take only this share of each corpus, for example 0.01"},
    "limit": {"metavar": "N", "help": "take at most N records of each corpus (lines, items, rows)"},
    "weight": {
        "action": "append",
        "default": [],
        "metavar": "SOURCE=EPOCHS",
        "help": "epochs of a source of the data (default: 1)",
    },
    "json": {"action": "store_true", "help": "print the result as JSON"},
}
"""Options that several commands have."""


def add_options(command: argparse.ArgumentParser, *names: str) -> None:
    """Give a command some of `OPTIONS`."""
    for name in names:
        command.add_argument(f"--{name}", **OPTIONS[name])


def choices(option: str, text: str, known: Sequence[Name]) -> list[Name]:
    """`a,b` as names, each of them one of the known."""
    from common.errors import ConfigError

    by_name = {str(name): name for name in known}
    for name in text.split(","):
        if name not in by_name:
            raise ConfigError(f"{option}: there is no {name!r}; choose from {', '.join(by_name)}")
    return [by_name[name] for name in text.split(",")]


def whole_numbers(option: str, text: str) -> list[int]:
    """`8,4,8` as numbers."""
    from common.errors import ConfigError

    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise ConfigError(
            f"{option} {text!r}: give whole numbers with commas between; it must look like 1,8"
        ) from None


def progress_line(what: str) -> Callable[[int, int], None] | None:
    """A line on the terminal that counts; None where there is no terminal."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        print(f"\r{done:,} of {total:,} {what}", end=end, file=sys.stderr, flush=True)

    return show


def print_table(rows: list[dict[str, Any]], *, title: str | None = None, width: int) -> None:
    """Print rows as a table; `width` is that of a log file, which has room for whole names."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console = Console()
    (console if console.is_terminal else Console(width=width)).print(table)


def weights(texts: list[str]) -> dict[str, float]:
    """`SOURCE=EPOCHS` options as a mapping."""
    from common.errors import ConfigError

    weights = {}
    for text in texts:
        source, _, epochs = text.partition("=")
        try:
            weights[source] = float(epochs)
        except ValueError:
            raise ConfigError(f"--weight {text!r} must look like SOURCE=EPOCHS") from None
    return weights
