"""Decisions about samples on disk: made by one rank, found by the others and by a resumed run."""

import fcntl
import json
import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.files import write_json

log = logging.getLogger("steel.finetune")

Arrays = dict[str, npt.NDArray[Any]]


def prepared_arrays(
    path: Path, counts: Path, prepare: Callable[[], None], *, names: tuple[str, ...]
) -> Arrays:
    """The arrays of `path`, which `prepare` writes, after `counts`, where either is no good.

    The same data give the same bytes, so what is missing or damaged is made again. Called by all
    ranks; one prepares.

    Args:
        path: an .npz file.
        counts: JSON object about them (prepared.json).
        prepare: writes both.
        names: of the arrays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(path.with_name("prepare.lock")):
        found = _read(path, names)
        if found is None or not _is_object(counts):
            prepare()
            found = _read(path, names)
    assert found is not None
    return found


def add_to_prepared(counts: Path, **values: Any) -> None:
    """Add what is known later, such as rows and steps, to prepared.json."""
    write_json(counts, {**json.loads(counts.read_text(encoding="utf-8")), **values})


def reasons_by_set(sets: Mapping[str, Any]) -> str:
    """Say for each set of prepared.json how many of its samples are left out, and why."""
    return "; ".join(
        f"{name}: {count} of {of_set['drawn']} ({reason})"
        for name, of_set in sets.items()
        for reason, count in of_set["left_out"].items()
    )


def _read(path: Path, names: tuple[str, ...]) -> Arrays | None:
    """Arrays by name; None where the file is missing or damaged, which the log says."""
    try:
        # Each array has a CRC-32. A file that NumPy opens itself stays open where it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s is damaged (%s): it is made again", path, error)
        return None


def _is_object(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock that the other ranks wait for; the kernel releases it when its holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
