"""The commands of `steel`, one module for each group.

    pipeline.py    run, start, check, report, …    a configuration and its results
    planning.py    plan                            what a configuration will take
    ablations.py   mixture-, kernel-, … -ablation  runs that differ in one thing
    data.py        verify, verify-order, review    proofs about what lies in a store, verdicts on it
    questions.py   contamination                   benchmark questions that training texts contain
    training.py    append, reschedule, profile     requests to a pretraining, running or stopped;
                   evaluate-checkpoints            its checkpoints
    chat.py        chat                            a conversation with a model
    models.py      export, import                  models: ours, and published ones
    store.py       list, gc                        what a store holds, and what may go
    operations.py  doctor, status                  this machine: what is wrong, what happens
    examples.py                                    the examples at the end of each --help

find_model.py finds the model that a word or a path on the command line means.

A module's `add(commands)` declares its commands; each sets `run`, a function from the parsed
arguments to the exit code. Imports that take long stand inside these functions, so that
`steel --help` is instant.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Name = TypeVar("Name", bound=str)

DONE = 0
FAILED = 1
"""A stage could not finish, or a proof did not hold."""
BAD_INPUT = 2
"""Input that the user can correct; one message says how."""

NAMES_HELP = (
    "newest, newest:STAGE, a label, a configuration's name, a key or its beginning, or a path"
)
"""Words that mean a stage of a store, wherever one is asked for (tasks/core/results/names.py)."""

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


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    """Changes to the configuration that the command line gives, as `section.key=value`."""
    sample = {name: getattr(arguments, name, None) for name in ("fraction", "limit")}
    given = [f"sample.{key}={value}" for key, value in sample.items() if value is not None]
    return [*arguments.overrides, *given]


def run_steel(name: str, arguments: argparse.Namespace, /, **fields: Any) -> dict[str, Any]:
    """Run a flow of flows/steel.py for a command; returns its summary. All that can be checked
    without a Prefect server is to be checked before.

    name: of its function; arguments: have its store, and its configuration if it takes one;
    fields: its other parameters.
    """
    from flows.runs.prefect_run import ask_for_server, run_flow

    ask_for_server()  # it starts while Prefect is imported here
    from flows.runs.first_look import shown

    flow = getattr(importlib.import_module("flows.steel"), name)
    fields["store"] = arguments.store
    if "config" in arguments:
        fields |= {"config": arguments.config, "overrides": shown(overrides_of(arguments))}
    summary: dict[str, Any] = run_flow(flow, **fields)
    return summary


def choices(option: str, text: str, known: Sequence[Name]) -> list[Name]:
    """`a,b` as names, each of them one of the known."""
    from common.errors import ConfigError

    by_name = {str(name): name for name in known}
    for name in text.split(","):
        if name not in by_name:
            raise ConfigError(f"{option}: there is no {name!r}; choose from {', '.join(by_name)}")
    return [by_name[name] for name in text.split(",")]


MAX_DIGITS = 40
"""Characters of a number on a command line."""


def number(hint: Any) -> Callable[[str], Any]:
    """A reader of an option's number, for argparse: one that has the type and range of `hint`."""

    def read(text: str) -> Any:
        from common.ranges import exceeded, expected, fits

        value = plain_number(text)
        if value is not None and fits(value, hint):
            return value
        most = exceeded(value, hint)
        limit = "" if most is None else f" (at most {most:,.0f})"
        raise argparse.ArgumentTypeError(f"{text[:80]!r} must be {expected(hint)}{limit}")

    return read


def plain_number(text: str) -> int | float | None:
    """A number in decimal digits; None for other text."""
    if len(text) > MAX_DIGITS or not re.fullmatch(r"[-+]?[0-9][0-9.eE+-]*|[-+]?\.[0-9]+", text):
        return None
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return None


MAX_NUMBERS = 1000
"""Numbers of an option that takes several."""


def whole_numbers(option: str, text: str, *, least: int = 1) -> list[int]:
    """`8,4,8` as numbers from `least` to 10^9. Raises ConfigError."""
    from common.errors import ConfigError, shown

    numbers = [plain_number(part) for part in text.split(",")] if text else []
    for value in numbers:
        if not isinstance(value, int) or not least <= value <= 10**9:
            raise ConfigError(
                f"{option} {shown(text)}: give whole numbers of at least {least} with commas "
                "between; it must look like 1,8"
            )
    if len(numbers) > MAX_NUMBERS:
        raise ConfigError(f"{option}: {len(numbers):,} numbers; give at most {MAX_NUMBERS:,}")
    return [value for value in numbers if isinstance(value, int)]


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
    from common.errors import ConfigError, shown
    from common.ranges import Epochs, exceeded, fits

    weights: dict[str, float] = {}
    for text in texts:
        source, _, written = text.partition("=")
        epochs = plain_number(written)
        if not source or epochs is None or not fits(epochs, Epochs):
            most = exceeded(epochs, Epochs)
            limit = "" if most is None else f"; EPOCHS is at most {most:,.0f}"
            raise ConfigError(
                f"--weight {shown(text)} must look like SOURCE=EPOCHS, for example wiki=2, with "
                f"EPOCHS of at least 0{limit}"
            )
        if source in weights:
            raise ConfigError(f"--weight: {shown(source)} is given twice")
        weights[source] = float(epochs)
    return weights
