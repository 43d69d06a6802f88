"""docs/tutorial.md and docs/own-sft.md: the files that they show are sound, the commands run.

A file is a block of YAML or JSON under a line that ends with its path in backquotes.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.paths import ROOT
from flows.cli import parser

PAGES = tuple(ROOT / "docs" / name for name in ("tutorial.md", "own-sft.md"))
FILE = re.compile(r"`([\w./-]+\.(?:yaml|jsonl))`:\n\n```\w+\n(.*?)```", re.DOTALL)
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)


def commands(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [line for block in CONSOLE.findall(text) for line in block.splitlines() if line]


def files(page: Path) -> dict[str, str]:
    return dict(FILE.findall(page.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the files of the pages, and more rows of the kind they show."""
    copy = tmp_path_factory.mktemp("tutorial") / "steel"
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    for page in PAGES:
        for name, content in files(page).items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_text(content, encoding="utf-8")
    chats = copy / "data" / "my-chats.jsonl"
    (row,) = chats.read_text(encoding="utf-8").splitlines()
    json.loads(row)
    shops, things = "东南西北", ("灯笼", "木桌", "茶壶", "毛笔", "雨伞", "竹篮", "石磨", "风筝")
    rows = [row.replace("南山", f"{s}山").replace("灯笼", t) for s in shops for t in things]
    chats.write_text("\n".join(rows) + "\n", encoding="utf-8")
    (copy / "data" / "mine").mkdir()
    for path in [*(copy / "docs").glob("*.md"), *(copy / "docs" / "adr").glob("0*.md")]:
        shutil.copy(path, copy / "data" / "mine")
    return copy


def steel(checkout: Path, line: str, timeout: float) -> str:
    """Output of a `steel` command in the copy, which must succeed."""
    words = shlex.split(line)[1:]
    environment = {
        **os.environ,
        "STEEL_DEVICES_FOLDER": str(checkout / "devices"),
        "STEEL_PREFECT_PORT": "1",  # nobody's: no server of this machine is asked
    }
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        cwd=checkout, env=environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_could_be_typed(page: Path) -> None:
    typed = [line for line in commands(page) if line.startswith(".venv/bin/steel")]
    assert len(typed) >= 4
    for line in typed:
        assert callable(parser().parse_args(shlex.split(line)[1:]).run), line


def test_the_configurations_of_the_pages_are_sound(checkout: Path) -> None:
    names = {name for page in PAGES for name in files(page)}
    configurations = sorted(name for name in names if name.startswith("deployments/"))
    assert len(configurations) == 2
    for name in configurations:
        assert "is sound" in steel(checkout, f"steel check {name}", 120)


SLOW = {
    "tutorial": ("check", "plan", "run", "explain", "verify-order", "list"),
    "own-sft": ("check", "run", "chat"),
}
"""Beginnings of the commands that need no GPU, no server and nobody at a browser."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_run(page: Path, checkout: Path) -> None:
    run = [
        line
        for line in commands(page)
        if line.removeprefix(".venv/bin/steel ").startswith(SLOW[page.stem])
        and "steel-1b" not in line
    ]
    # The first list of the tutorial follows `make demo`.
    run = [line for line in run if line != ".venv/bin/steel list"]
    assert len(run) >= 3
    for line in run:
        steel(checkout, line, 3000)
