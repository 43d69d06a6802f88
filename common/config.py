"""What groups of settings share: how a field is marked, and how a value is refused."""

from typing import Any

from common.errors import ConfigError

NOT_IN_KEY = {"in_key": False}
"""Metadata of a field that changes how a run works, not what comes out of it: a finished stage
serves whatever the field says (tasks/core/manifest.py)."""


def require(settings: Any, place: str, name: str, holds: bool, expected: str) -> None:
    """Raise ConfigError unless the field's value `holds`; it names value and place.

    place: the stage and the group, as in "pretrain: checkpoints."; expected: what would do.
    """
    if not holds:
        raise ConfigError(f"{place}{name} = {getattr(settings, name)!r}; it must be {expected}")
