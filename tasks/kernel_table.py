"""Stage `kernel_table`: measured configurations beside the paper's Table 2.

    throughput[exp1 … exp8, ours …] ──▶ table.json, table.md (also a Prefect table and page)

Speeds of different machines compare by ratio: every row is given relative to the baseline, Exp8,
on both sides. A row that was not measured gives the reason; one without a baseline has no ratio.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.config import StageConfig
from common.files import write_json, write_text
from common.recipes import recipe_path
from model.train.throughput.measure import Result
from tasks.core.paper.table2 import format_page, format_row, measured_table
from tasks.core.paper.tables import load_table2
from tasks.core.stage import StageResult, StageRun, stage

KEY = "kernel-ablation"
"""Key of the Prefect artifacts, and name of the MLflow table."""


@dataclass(frozen=True, kw_only=True)
class KernelTableConfig(StageConfig):
    """Labels of the table."""

    tiny: bool = False
    """If true, the measured model has tiny sizes instead of the paper's: title and rows say so."""

    def recipe_files(self) -> list[Path]:
        """The paper's table."""
        return [recipe_path("paper", "table2")]


@stage(version=1)
def kernel_table(
    run: StageRun, config: KernelTableConfig, *, measured: Mapping[str, StageResult]
) -> None:
    """Write table.json and table.md, and show them."""
    paper = load_table2()
    results = {name: Result.read(result.folder) for name, result in measured.items()}
    table = measured_table(results, paper, tiny=config.tiny)
    write_json(run.folder / "table.json", table)
    text = format_page(table)
    write_text(run.folder / "table.md", text)
    run.table(KEY, [format_row(row) for row in table["rows"]], table["title"])
    run.markdown(f"{KEY}-page", text)
    done = [row for row in table["rows"] if row["status"] == "done"]
    run.count(measured=len(done), rows=len(table["rows"]))
    run.note(title=table["title"], device=table["device"])
