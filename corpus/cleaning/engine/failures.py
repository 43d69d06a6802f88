"""One document that an operator fails on must not take its batch along."""

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)


def guarded(function: Callable[[list[Any]], list[Any]], batch: list[Any]) -> list[Any]:
    """`function` of a batch; when it raises, of each element alone, with None where it raises."""
    if not batch:
        return []
    if None in batch:  # an earlier operator failed on these
        filled = iter(guarded(function, [b for b in batch if b is not None]))
        return [None if b is None else next(filled) for b in batch]
    try:
        return function(batch)
    except Exception as error:
        if len(batch) == 1:
            log.warning("an operator failed on one document: %s: %s", type(error).__name__, error)
            return [None]
        return [guarded(function, [element])[0] for element in batch]
