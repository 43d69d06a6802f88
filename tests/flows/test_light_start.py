"""Commands that need no model import none of the libraries that take seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "prefect", "mlflow", "datasets", "data_juicer", "matplotlib")

PROGRAM = f"""
import sys
from flows.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:  # argparse, after --help
    code = end.code
print("imported:", *(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["check", "deployments/smoke.yaml"],
        ["report"],
        ["verify-order", "--simulate", "2k"],
    ],
    ids=lambda command: command[0],
)
def test_no_heavy_library_is_imported(command: list[str], root: Path, tmp_path: Path) -> None:
    if command[0] in ("check", "report"):
        command = [*command, "--store", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "imported:", done.stderr


def test_the_flow_imports_nothing_of_ablations_it_does_not_make(root: Path) -> None:
    program = (
        "import sys, flows.steel; print([n for n in ('torch', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.stdout.split("\n")[-2] == "[]", done.stderr
