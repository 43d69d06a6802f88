"""The report's section on the paper: its Tables 2, 3 and 4 with this run's figures in them."""

from collections.abc import Mapping, Sequence

from tasks.core.markdown import markdown_table
from tasks.core.paper.table2 import format_row, paper_row
from tasks.core.paper.tables import Paper
from tasks.report.data import ReportData
from tasks.report.language import Writer
from tasks.report.results import benchmark_titles, parameters_of
from tasks.report.sections.results import accuracy
from tasks.report.trace.numbers import Place, place_in, pointer


def paper_section(data: ReportData, paper: Paper, say: Writer) -> str:
    """Format the comparison with the paper, of accuracies only at its scale."""
    parameters = parameters_of(data.stages.get("base"), data.parameters)
    scale = say("paper.no_base")
    if parameters is not None:
        scale = say("paper.scale", n=say.known("{:,}".format, parameters))
    if not data.full_scale:
        scale += say("paper.least")
    best = data.policy or next((n for n in data.results if n.startswith("sft ")), "")
    ours = {paper.table4.ours["sft"]: best, paper.table4.ours["dpo"]: "dpo"}
    return "\n\n".join(
        [
            scale,
            f"### {say('paper.table', n=2, title=paper.table2.title)}",
            _kernels(data, paper, say),
            f"### {say('paper.table', n=3, title=paper.table3.title)}",
            _accuracy_table(
                data,
                paper.table3.benchmarks,
                [
                    (
                        {"#": str(e.number), say("column.experiment"): e.title},
                        e.accuracy,
                        f"sft {e.mixture}",
                    )
                    for e in paper.table3.experiments
                ],
                say,
            ),
            f"### {say('paper.table', n=4, title=paper.table4.title)}",
            _accuracy_table(
                data,
                paper.table4.benchmarks,
                [
                    ({say("column.model"): m.name}, m.accuracy, ours.get(m.name))
                    for m in paper.table4.models
                ],
                say,
            ),
        ]
    )


def _kernels(data: ReportData, paper: Paper, say: Writer) -> str:
    """Format Table 2 as `steel kernel-ablation` measured it in this store, or the paper's alone."""
    text_columns = {"", "attention", "RoPE", "RMSNorm", "loss", "parameters"}
    if data.kernels is None:
        rows = [format_row(paper_row(paper.table2, e)) for e in paper.table2.experiments]
        source = say("paper.kernels_absent")
    else:
        rows = [format_row(row) for row in data.kernels["rows"]]
        at = place_in(data.stages.get("kernel_table"), "table.json", pointer=pointer("title"))
        title = say.in_text(data.kernels["title"], "Table 2, where it was measured", at)
        source = say("paper.kernels", title=title)
        for number, (cells, row) in enumerate(zip(rows, data.kernels["rows"], strict=True)):
            of_mfu = "mfu_measured" if row.get("mfu_datasheet") is None else "mfu_datasheet"
            for column, name in (
                ("tokens/s/GPU", "tokens_per_second_per_gpu"),
                ("GB", "memory_gb"),
                ("x Exp8", "speed_ratio"),
                ("GB / Exp8", "memory_ratio"),
                ("MFU %", of_mfu),
            ):
                if row.get(name) is not None and row["status"] == "done":
                    about = f"Table 2, {row['name']}: {column}"
                    place = _kernel_place(data, number, name)
                    cells[column] = say.number(cells[column], about, row[name], place)
    filled = [column for column in rows[0] if any(row[column] for row in rows)]
    rows = [{column: row[column] for column in filled} for row in rows]
    table = markdown_table(rows, right=[c for c in filled if c not in text_columns])
    if data.kernels is None:
        table = say.details(say("summary.figures"), table)
    return f"{source}\n\n{table}"


def _kernel_place(data: ReportData, row: int, name: str) -> Place | None:
    stage = data.stages.get("kernel_table")
    return place_in(stage, "table.json", pointer=pointer("rows", row, name))


def two_decimals(share: float) -> str:
    """Format a share in per cent with as many decimals as the paper's tables have."""
    return f"{100 * share:z.2f}"


def _accuracy_table(
    data: ReportData,
    names: Sequence[str],
    lines: Sequence[tuple[dict[str, str], Mapping[str, float], str | None]],
    say: Writer,
) -> str:
    """Format the paper's accuracies, this run's with their intervals, and the state of each row.

    Args:
        data: this run's.
        names: benchmarks.
        lines: (first cells, the paper's accuracies, our model; None where it cannot be ours).
        say: texts and numbers.
    """
    titles = benchmark_titles(data.results)
    columns = {name: titles.get(name, name.upper()) for name in names}
    found = {
        model: data.results[model]
        for _, _, model in lines
        if data.full_scale and model in data.results
    }
    rows, right = [], []
    for first, paper, model in lines:
        row = dict(first)
        scores = found.get(model or "", {})
        for name, title in columns.items():
            column = say("paper.theirs", title=title)
            right.append(column)
            row[column] = f"{paper[name]:.2f}"
        for name, title in columns.items() if found else ():
            cell = (
                accuracy(scores[name], model or "", name, data.stages, say, two_decimals)
                if name in scores
                else ""
            )
            row[say("paper.ours", title=title)] = cell
        if model is None:
            state = "others"
        elif not scores:
            state = "not_at_scale"
        else:
            state = "measured" if set(columns) <= set(scores) else "partly"
        row[say("column.status")] = say(f"paper.{state}")
        rows.append(row)
    table = markdown_table(rows, right=right)
    return table if found else say.details(say("summary.figures"), table)
