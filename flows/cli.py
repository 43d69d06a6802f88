"""The `steel` command: pipelines, trainings, models and proofs from a terminal."""

import argparse
import logging
import sys

from common.errors import StageError, SteelError
from common.redaction import install, learn
from flows.commands import BAD_INPUT, FAILED, RENAMED, ablations, data, models, pipeline, training
from flows.environment import prepare

GROUPS = (pipeline, ablations, data, training, models)
"""In the order in which `steel --help` lists their commands."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 failed, 2 bad input)."""
    given = sys.argv[1:] if argv is None else argv
    install()
    learn(*given)
    if given and given[0] in RENAMED:
        print(f"error: `steel {given[0]}` is `steel {RENAMED[given[0]]}` now", file=sys.stderr)
        return BAD_INPUT
    arguments = parser().parse_args(given)
    prepare()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    result = _status(arguments)
    prefect_run = sys.modules.get("flows.prefect_run")
    if prefect_run is not None and argv is None:
        prefect_run.bound_the_end(result)
    return result


def _status(arguments: argparse.Namespace) -> int:
    try:
        result: int = arguments.run(arguments)
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except SteelError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        return 130
    return result


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="steel", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for group in GROUPS:
        group.add(commands)
    return top


if __name__ == "__main__":
    sys.exit(main())
