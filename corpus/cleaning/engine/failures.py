"""Batches in which one document fails alone: the others of its batch go on."""

import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)


def map_or_none(function: Callable[[list[Any]], list[Any]], batch: list[Any]) -> list[Any]:
    """Apply `function` to a batch; if it raises, to each element alone, None where it raises."""
    if not batch:
        return []
    if None in batch:  # an earlier operator failed on these
        filled = iter(map_or_none(function, [b for b in batch if b is not None]))
        return [None if b is None else next(filled) for b in batch]
    try:
        return function(batch)
    except Exception as error:
        if len(batch) == 1:
            log.warning("an operator failed on one document: %s: %s", type(error).__name__, error)
            return [None]
        return [map_or_none(function, [element])[0] for element in batch]
