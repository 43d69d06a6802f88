"""A Python that knows the installed libraries and nothing of this project.

`-I` takes no variables and no working folder, `-S` reads no .pth file, which is how the project is
installed; the libraries' folder is added by hand.
"""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

PROLOGUE = """
import importlib.util, json, sys
sys.path.append({site!r})
for name in ("model", "common", "corpus", "tasks", "flows"):
    assert importlib.util.find_spec(name) is None, name
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
given = json.loads(sys.argv[1])
"""


def run(program: str, given: Any, folder: Path) -> Any:
    """Run a program, in a folder, with `given` in it; it prints one JSON value last."""
    prologue = PROLOGUE.format(site=sysconfig.get_paths()["purelib"])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", prologue + program, json.dumps(given)],
        cwd=folder,
        env={**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
