"""The `steel` command: pipelines, trainings, models and proofs from a terminal."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from common.disk import disk_full_error, is_disk_full
from common.errors import MAX_SHOWN, ConfigError, StageError, SteelError
from common.processes import RunStopped
from common.reading.files import user_error
from common.redaction import install, learn
from flows.commands import (
    BAD_INPUT,
    FAILED,
    RENAMED,
    ablations,
    chat,
    data,
    models,
    operations,
    pipeline,
    planning,
    questions,
    store,
    training,
)
from flows.commands.examples import add_examples
from flows.environment import prepare

GROUPS = (pipeline, planning, ablations, data, questions, training, chat, models, store, operations)
"""In the order in which `steel --help` lists their commands."""


MAX_MESSAGE = 20_000
"""Characters of a message: a hundred problems of a configuration."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 failed, 2 bad input, 128 + its number
    for a signal)."""
    given = sys.argv[1:] if argv is None else argv
    install()
    learn(*given)
    result = _status(given)
    prefect_run = sys.modules.get("flows.runs.prefect_run")
    if prefect_run is not None and argv is None:
        prefect_run.bound_the_end(result)
    return result


def _status(given: Sequence[str]) -> int:
    try:
        if given and given[0] in RENAMED:
            raise ConfigError(f"`steel {given[0]}` is `steel {RENAMED[given[0]]}` now")
        arguments = parser().parse_args(given)
        prepare()
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        result: int = arguments.run(arguments)
    except StageError as error:
        return _fail(error, FAILED)
    except SteelError as error:
        return _fail(error, BAD_INPUT)
    except RunStopped as stop:
        print(stop.message.replace("same run", "same command"), file=sys.stderr)
        return 128 + stop.number
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has enough of it (`steel report | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        mended = user_error(error)
        if mended is None and is_disk_full(error):  # in the midst of a file, which has no name then
            mended = disk_full_error("steel", error)
        return _defect(error) if mended is None else _fail(mended, BAD_INPUT)
    except Exception as error:
        return _fail(disk_full_error("steel"), BAD_INPUT) if is_disk_full(error) else _defect(error)
    return result


def _fail(error: SteelError, code: int) -> int:
    """Print an error that a user can mend, of bounded length and without control characters."""
    text = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(error))
    if len(text) > MAX_MESSAGE:
        text = f"{text[:MAX_MESSAGE]}… ({len(text) - MAX_MESSAGE:,} more characters)"
    print(f"error: {text}", file=sys.stderr)
    return code


def _defect(error: Exception) -> int:
    """Print an error that Steel should have foreseen, with its traceback for a report."""
    traceback.print_exception(error)
    print(
        "error: this is a defect of Steel, not of your input. Please report it with the lines "
        f"above, the command and `git rev-parse HEAD` ({type(error).__name__})",
        file=sys.stderr,
    )
    return FAILED


class _Parser(argparse.ArgumentParser):
    """A parser whose refusals are short, like all others."""

    def error(self, message: str) -> NoReturn:
        _fail(ConfigError(f"{message[:MAX_SHOWN]} (see `{self.prog} --help`)"), BAD_INPUT)
        sys.exit(BAD_INPUT)


class _Version(argparse.Action):
    """Prints the project's version and commit, and those of the main libraries, and ends."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "nargs": 0})

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        from common.provenance import git_commit, package_versions, software_versions

        version = package_versions(["steel-lm"]).get("steel-lm", "not installed")
        commit = git_commit()
        print(f"steel {version}" + (f", commit {commit[:12]}{commit[40:]}" if commit else ""))
        for name, number in software_versions().items():
            print(f"{name:16} {number}")
        sys.exit(0)


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = _Parser(prog="steel", description=__doc__)
    top.add_argument("--version", action=_Version, help="versions of Steel and of its libraries")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for group in GROUPS:
        group.add(commands)
    add_examples(commands.choices)
    return top


if __name__ == "__main__":
    sys.exit(main())
