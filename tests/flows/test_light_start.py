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
        ["plan", "deployments/smoke.yaml"],
        ["report"],
        ["verify-order", "--simulate", "2k"],
    ],
    ids=lambda command: command[0],
)
def test_no_heavy_library_is_imported(command: list[str], root: Path, tmp_path: Path) -> None:
    if command[0] in ("check", "plan", "report"):
        command = [*command, "--store", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "imported:", done.stderr


LATE = (
    *(name for name in HEAVY if name != "prefect"),
    *("numpy", "pandas", "pyarrow", "scipy", "tokenizers", "huggingface_hub", "lm_eval", "trl"),
)
"""Libraries that neither a deployment nor a cancellation needs."""


def imported(program: str, root: Path) -> list[str]:
    """Those of `LATE` that a program has imported at its end."""
    program += f"\nimport sys; print('imported:', *(n for n in {LATE!r} if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


def test_the_flows_import_little_more_than_prefect(root: Path) -> None:
    assert imported("import flows.steel", root) == []


def test_the_graph_imports_neither_torch_nor_mlflow(root: Path) -> None:
    slow = {"torch", "transformers", "mlflow", "pandas", "matplotlib", "datasets", "data_juicer"}
    assert not slow & {*imported("import flows.graph, flows.ablations.pretrainings", root)}


@pytest.mark.parametrize("flow", ["pretrain", "mixture_ablation", "data_ablation", "evaluate"])
def test_a_flow_looks_at_the_file_before_it_imports(flow: str, root: Path) -> None:
    program = f"""
import inspect
from common.errors import ConfigError
from flows import steel
try:
    inspect.unwrap(steel.{flow}.fn)(
        config="none.yaml",
        **{{"model": "m"}} if "{flow}" == "evaluate" else {{}},
        **{{"recipes": ["paper"], "seeds": [1]}} if "{flow}" == "data_ablation" else {{}},
    )
except ConfigError as error:
    assert "none.yaml" in str(error), error
else:
    raise SystemExit("taken")
"""
    assert imported(program, root) == []


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_file_that_is_not_there_is_told_at_once(command: str, root: Path) -> None:
    program = PROGRAM.replace(repr(HEAVY), repr((*HEAVY, "numpy")))
    done = subprocess.run(
        [sys.executable, "-c", program, command, "none.yaml"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "none.yaml" in done.stderr
    assert done.stderr.splitlines()[-1] == "imported:", done.stderr
