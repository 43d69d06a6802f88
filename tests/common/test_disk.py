"""A full disk is recognised whoever says so, and told in one way."""

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common import disk
from common.disk import disk_full_error, is_disk_full, told_when_full
from common.errors import DataError, StageError

DEVICE = Path("/dev/full")
"""Linux's device on which every write fails as on a full disk."""


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),  # safetensors
        (RuntimeError("database or disk is full"), True),  # SQLite
        (RuntimeError("the shelf is full"), False),
        (_caused(RuntimeError("could not save"), OSError(errno.ENOSPC, "")), True),
    ],
)
def test_a_full_disk_is_recognised(error: Exception, full: bool) -> None:
    assert is_disk_full(error) is full
    with pytest.raises(DataError if full else type(error)) as told, told_when_full("sft chinese"):
        raise error
    if full:
        assert str(told.value).startswith("sft chinese: The disk is full")
        assert "Free some space, and run again" in str(told.value)


@pytest.mark.skipif(not DEVICE.exists(), reason="needs Linux's /dev/full")
def test_what_libraries_raise_on_a_full_disk_is_recognised() -> None:
    with pytest.raises(DataError, match="The disk is full"), told_when_full("x"):
        DEVICE.write_text("x")
    # Opened here: a library that is given the name may rename a file of its own over the device.
    with (
        pytest.raises(DataError, match="The disk is full"),
        told_when_full("x"),
        DEVICE.open("wb") as file,
    ):
        np.save(file, np.zeros(100_000))


def test_an_error_for_users_stays_as_it_is() -> None:
    mine = _caused(StageError("make room there"), OSError(errno.ENOSPC, ""))
    with pytest.raises(StageError, match="make room there"), told_when_full("x"):
        raise mine


def test_a_child_that_could_not_even_say_so_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from common import child

    with child.Child([sys.executable, "-c", "raise SystemExit(1)"], tmp_path / "job.json") as one:
        one.process.wait()
    assert isinstance(one.failure("forging"), StageError)
    nothing = lambda folder: type("Usage", (), {"free": disk.FULL_BELOW - 1})  # noqa: E731
    monkeypatch.setattr("common.child.shutil.disk_usage", nothing)
    assert str(one.failure("forging")) == str(disk_full_error("forging"))


@pytest.mark.skipif(not DEVICE.exists(), reason="needs Linux's /dev/full")
def test_the_command_calls_it_no_defect(root: Path) -> None:
    """A file that is full in the midst of a write has no name in the error."""
    program = (
        "import sys; from pathlib import Path; from flows import cli\n"
        "cli.pipeline._report = lambda arguments: Path('/dev/full').write_text('x')\n"
        "sys.exit(cli.main(['report']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: steel: The disk is full"), done.stderr
    assert "defect" not in done.stderr
