"""A look at the configuration's file, before a run imports anything that takes seconds.

A file that is not there, is no YAML, or a change that cannot be applied to it, is told at once;
keys, values and data are checked next (flows/preflight.py).
"""

from collections.abc import Sequence

from common.paths import resolve
from common.recipes import apply_overrides, read_yaml
from common.redaction import hidden_in_errors, install, learn, redact
from tasks.core.artifacts import shorten_user_errors

_GIVEN: dict[tuple[str, ...], list[str]] = {}
"""Changes to the configuration as they were given, by what is shown of them."""


def shown(overrides: list[str]) -> list[str]:
    """Changes to the configuration without secrets, for Prefect to store as a flow's parameters;
    `session` takes them for those that were given."""
    learn(*overrides)
    hidden = [redact(override) for override in overrides]
    _GIVEN[tuple(hidden)] = overrides
    return hidden


def given(overrides: list[str]) -> list[str]:
    """Changes to the configuration as they were given, for those that `shown` has hidden."""
    install()
    overrides = _GIVEN.get(tuple(overrides), overrides)
    learn(*overrides)
    return overrides


def read_first(config: str, overrides: Sequence[str]) -> None:
    """Read a configuration's file and the changes to it, and keep nothing.

    Raises ConfigError where one of them cannot be read.
    """
    shorten_user_errors()
    changes = given(list(overrides))
    with hidden_in_errors():
        apply_overrides(read_yaml(resolve(config)), changes)
