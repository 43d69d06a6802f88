"""The report's section on the paper: its Tables 2, 3 and 4 with this run's figures in them."""

from collections.abc import Mapping, Sequence

from tasks.core.markdown import markdown_table
from tasks.core.paper.table2 import format_row, paper_row
from tasks.core.paper.tables import Paper
from tasks.report.data import FULL_SCALE, ReportData
from tasks.report.results import accuracy_cell, benchmark_titles

NOT_AT_SCALE = "not run at this scale"


def paper_section(data: ReportData, paper: Paper) -> str:
    """Format the comparison with the paper, of accuracies only at its scale."""
    scale = (
        f"This run's base model has {data.parameters:,} parameters, the paper's 1.12 billion."
        if data.parameters is not None
        else "This run has no base model."
    )
    if not data.full_scale:
        scale += f" Only models of at least {FULL_SCALE:,} are compared with the paper's."
    best = data.policy or next((n for n in data.results if n.startswith("sft ")), "")
    ours = {paper.table4.ours["sft"]: best, paper.table4.ours["dpo"]: "dpo"}
    return "\n\n".join(
        [
            scale,
            f"### Table 2: {paper.table2.title}",
            _kernels(data, paper),
            f"### Table 3: {paper.table3.title}",
            _accuracy_table(
                data,
                paper.table3.benchmarks,
                [
                    ({"#": str(e.number), "experiment": e.title}, e.accuracy, f"sft {e.mixture}")
                    for e in paper.table3.experiments
                ],
            ),
            f"### Table 4: {paper.table4.title}",
            _accuracy_table(
                data,
                paper.table4.benchmarks,
                [({"model": m.name}, m.accuracy, ours.get(m.name)) for m in paper.table4.models],
            ),
        ]
    )


def _kernels(data: ReportData, paper: Paper) -> str:
    """Format Table 2 as `steel kernel-ablation` measured it in this store, or the paper's alone."""
    if data.kernels is None:
        rows = [format_row(paper_row(paper.table2, e)) for e in paper.table2.experiments]
        source = "Not measured in this store: `steel kernel-ablation` does it."
    else:
        rows = [format_row(row) for row in data.kernels["rows"]]
        source = f"{data.kernels['title']}. Ratios are to Exp8 on the same machine."
    text_columns = {"", "attention", "RoPE", "RMSNorm", "loss", "parameters"}
    return (
        f"{source}\n\n{markdown_table(rows, right=[c for c in rows[0] if c not in text_columns])}"
    )


def _accuracy_table(
    data: ReportData,
    names: Sequence[str],
    lines: Sequence[tuple[dict[str, str], Mapping[str, float], str | None]],
) -> str:
    """Format the paper's accuracies and this run's.

    Args:
        names: benchmarks.
        lines: (first cells, the paper's accuracies, our model; None where it cannot be ours).
    """
    titles = benchmark_titles(data.results)
    columns = {name: titles.get(name, name.upper()) for name in names}
    found = {
        model: data.results[model]
        for _, _, model in lines
        if data.full_scale and model in data.results
    }
    rows = []
    for first, accuracy, model in lines:
        row = dict(first)
        empty = "" if model is None else NOT_AT_SCALE
        for name, title in columns.items():
            row[f"{title}, paper"] = f"{accuracy[name]:.2f}"
        if found:
            for name, title in columns.items():
                result = found[model].get(name) if model in found else None
                row[f"{title}, this run"] = accuracy_cell(result) if result else empty
        else:
            row["this run"] = empty
        rows.append(row)
    return markdown_table(rows, right=[column for column in rows[0] if column.endswith("paper")])
