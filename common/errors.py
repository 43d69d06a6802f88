"""Errors that are meant for the user.

    SteelError            anything a user can mend; the command line prints it and exits with 2
    ├── ConfigError       a value in a recipe, a deployment or on the command line is wrong
    ├── DataError         an input file or folder is missing, empty, damaged or of another kind
    └── StageError        a stage could not finish (its log says more)

A message names the value, the place, and the remedy; secrets in it are hidden from the start.
Everything else that is raised is a defect of ours and keeps its traceback.
"""

from common.redaction import redacted


class SteelError(Exception):
    """Root of every error that a user can mend."""

    def __init__(self, *args: object) -> None:
        super().__init__(*redacted(args))


class ConfigError(SteelError, ValueError):
    """A configured value is wrong: unknown key, wrong type, out of range, contradictory."""


class DataError(SteelError, ValueError):
    """An input is missing, empty, damaged, or of another kind than its name."""


class StageError(SteelError, RuntimeError):
    """A stage could not finish; what it has written so far stays and is resumed from."""
