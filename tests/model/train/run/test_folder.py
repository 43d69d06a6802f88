"""The run's folder is drawn in one module, which alone has its file names."""

import re
import subprocess

from common.paths import ROOT
from model.train.run import folder

NAMES = {name: value for name, value in vars(folder).items() if name.endswith(("_FILE", "_FOLDER"))}


def test_every_name_is_in_the_drawing() -> None:
    assert folder.__doc__ is not None
    missing = [value for value in NAMES.values() if value not in folder.__doc__]
    assert not missing


def test_file_names_stand_nowhere_else() -> None:
    files = "|".join(re.escape(NAMES[name]) for name in sorted(NAMES) if name.endswith("_FILE"))
    paths = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    own = "model/train/run/folder.py"
    found = [
        f"{path}: {name}"
        for path in paths
        if path != own and (ROOT / path).is_file()
        for name in re.findall(f'"({files})"', (ROOT / path).read_text(encoding="utf-8"))
    ]
    assert not found, f"take these names from {own}"
