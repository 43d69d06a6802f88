"""Run operators of a recipe with Data-Juicer's own command line."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from corpus.cleaning import recipe as recipes


def dj_process(
    recipe: recipes.Recipe,
    operators: Sequence[recipes.Operator],
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
) -> list[str]:
    """The texts that plain `dj-process` keeps of rows, with these operators of the recipe."""
    dataset, export = folder / "in.jsonl", folder / "out" / "out.jsonl"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = recipe.data | {
        "process": [{op.name: op.arguments} for op in operators],
        "work_dir": str(folder / "out"),
    }
    short = recipes.Recipe(
        path=recipe.path,
        data=data,
        operators=tuple(operators),
        custom_operator_files=recipe.custom_operator_files,
    )
    short.write_resolved(folder / "r.yaml", dataset=dataset, export=export)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dj-process")), "--config", str(folder / "r.yaml")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line)["text"] for line in export.read_text().splitlines()]
