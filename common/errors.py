"""Errors that are meant for the user.

    SteelError            anything a user can mend; the command line prints it and exits with 2
    ├── ConfigError       a value in a recipe, a deployment or on the command line is wrong
    ├── DataError         an input file or folder is missing, empty, damaged or of another kind
    └── StageError        a stage could not finish (its log says more)

A message names the value, the place, and the remedy; secrets in it are hidden from the start.
Everything else that is raised is a defect of ours and keeps its traceback.
"""

import reprlib
from typing import Any

from common.redaction import redact, redacted

MAX_SHOWN = 300
"""Characters of a value in a message."""
MAX_READ = 1 << 16
"""Characters of a longer text that are looked through for secrets before its beginning is shown."""


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


class _Shown(reprlib.Repr):
    """Like repr, but of bounded length and time; a text's secrets are hidden before it is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 5
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 20
        self.maxother = MAX_SHOWN

    def repr_str(self, x: str, level: int) -> str:
        if len(x) <= MAX_SHOWN:
            return repr(x)
        if len(x) > MAX_READ and "://" in x:
            return f"(a text of {len(x):,} characters)"
        text = redact(x[:MAX_READ])[: MAX_SHOWN // 2]
        return f"{text!r}… ({len(x):,} characters)"

    def repr_int(self, x: int, level: int) -> str:
        digits = x.bit_length() * 30103 // 100000
        return repr(x) if digits < 100 else f"(a number of about {digits:,} digits)"

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        if level <= 0:
            return "{…}"
        pairs = [
            f"{self.repr1(k, level - 1)}: {self.repr1(v, level - 1)}"
            for k, v in list(x.items())[: self.maxdict]
        ]
        return "{" + ", ".join([*pairs, *["…"] * (len(x) > self.maxdict)]) + "}"


def shown(value: Any) -> str:
    """A value for a message, as `repr` shows it: control characters escaped, never long."""
    text = _Shown().repr(value)
    return text if len(text) <= 2 * MAX_SHOWN else f"{text[: 2 * MAX_SHOWN]}…"


def first_line(error: BaseException) -> str:
    """First line of an error's message; the error's kind where it has no message."""
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
