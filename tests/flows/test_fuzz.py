"""Whatever a configuration, a recipe or a command line holds: exit code 0 or 2, one message."""

import subprocess
import sys
from pathlib import Path

import pytest


def fuzzed(root: Path, folder: Path, number: int, seed: int) -> None:
    """Try so many cases in a child with limited memory; a failure names the case."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.flows.fuzz", str(number), str(seed), str(folder)],
        cwd=root,
        capture_output=True,
        text=True,
    )
    case = folder / "case.txt"
    last = case.read_text(encoding="utf-8", errors="replace") if case.exists() else "none"
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}\ncase: {last}"
    assert done.stdout.count(" cases") == 5


@pytest.mark.timeout(1800)  # 47 s of a processor; a case that hangs is ended by the child itself
def test_bad_input_ends_in_one_message(root: Path, tmp_path: Path) -> None:
    fuzzed(root, tmp_path, 2000, 0)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(1, 6))
def test_more_bad_input_ends_in_one_message(seed: int, root: Path, tmp_path: Path) -> None:
    fuzzed(root, tmp_path, 10_000, seed)
