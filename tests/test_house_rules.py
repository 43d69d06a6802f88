"""House rules that a linter does not know: sizes of files and folders, and how docstrings begin."""

import ast
import re
import subprocess
from collections import Counter
from pathlib import Path

from common.paths import ROOT

MAX_LINES = 400
MAX_MODULES = 14
"""In one folder, `__init__` included: about a dozen and it."""
LISTS = ("tests", "benchmarks", "corpus/cleaning/operators")
"""Folders of things of one kind that stand alone, each named after what it is."""
RIDDLE = re.compile(r"(What|Whether|How|Who|Whose|Why|Which|Where|When)\b")


def python_files() -> list[Path]:
    """All Python files under version control."""
    names = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_no_file_is_long() -> None:
    lengths = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in python_files()}
    long = {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > MAX_LINES}
    assert not long


def test_no_folder_is_crowded() -> None:
    modules = Counter(str(p.parent.relative_to(ROOT)) for p in python_files())
    crowded = {
        folder: number
        for folder, number in modules.items()
        if number > MAX_MODULES and not folder.startswith(LISTS)
    }
    assert not crowded


def test_docstrings_say_what_a_thing_is_or_does() -> None:
    """They open with a verb or a noun, never with a question word."""
    riddles = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value.value.splitlines()[0]}"
        for path in python_files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and RIDDLE.match(node.value.value.strip())
    ]
    assert not riddles, "\n".join(riddles)
