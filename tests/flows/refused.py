"""A request to compare models that is refused before any work."""

from pathlib import Path

import pytest

from flows.cli import main
from flows.commands import BAD_INPUT


def assert_refused(
    capsys: pytest.CaptureFixture[str], store: Path, command: list[str], message: str
) -> None:
    """Run a command that ends with this message, no traceback, and leaves no store."""
    assert main([*command, "--store", str(store)]) == BAD_INPUT
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not store.exists()
