"""Commands about a configuration and its results: run, check, report, explain."""

import argparse
import json
from pathlib import Path
from typing import Any

from flows.commands import DONE
from flows.environment import MLFLOW_URI, PREFECT_API, prefect_server, running_services

STAGES = ("data", "pretrain", "sft", "dpo", "evaluate", "report")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
    run = commands.add_parser("run", help="run the pipeline of a configuration, here and now")
    run.add_argument("config", metavar="CONFIG.yaml", help="a file of deployments/")
    run.add_argument(
        "--stages",
        metavar="A,B",
        help="only these and what they need: data, pretrain, sft, dpo, evaluate, report",
    )
    run.add_argument("--store", default="store", help="folder of all results (default: store)")
    run.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change the configuration; may be given several times",
    )
    _add_sample_options(run)
    run.add_argument("--json", action="store_true", help="print the summary as JSON")
    run.set_defaults(run=_run)

    check = commands.add_parser(
        "check", help="list all that is wrong with a configuration or its data"
    )
    check.add_argument("config", metavar="CONFIG.yaml")
    check.add_argument("--store", default="store")
    check.add_argument("--set", dest="overrides", action="append", default=[])
    _add_sample_options(check)
    check.set_defaults(run=_check)

    report = commands.add_parser("report", help="print where the newest reports of a store are")
    report.add_argument("--store", default="store")
    report.add_argument("--json", action="store_true")
    report.set_defaults(run=_report)

    explain = commands.add_parser("explain", help="trace one document through the stages")
    explain.add_argument("document", metavar="DOC_ID", help="<source>/<file>#<line>")
    explain.add_argument("--store", default="store")
    explain.add_argument("--json", action="store_true")
    explain.set_defaults(run=_explain)


def _add_sample_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--fraction", metavar="F", help="take only this share of each corpus, for example 0.01"
    )
    command.add_argument(
        "--limit", metavar="N", help="take at most N records of each corpus (lines, items, rows)"
    )


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    """Changes to the configuration that the command line gives, as `section.key=value`."""
    sample = {"fraction": arguments.fraction, "limit": arguments.limit}
    given = [f"sample.{key}={value}" for key, value in sample.items() if value is not None]
    return [*arguments.overrides, *given]


def _run(arguments: argparse.Namespace) -> int:
    from common.errors import ConfigError
    from common.paths import resolve
    from flows.preflight import preflight

    stages = arguments.stages.split(",") if arguments.stages else None
    for name in stages or []:
        if name not in STAGES:
            raise ConfigError(f"--stages: there is no {name!r}; choose from {', '.join(STAGES)}")
    # Once here, before a server is started; the flow checks again for those who start it elsewhere.
    preflight(arguments.config, overrides_of(arguments), resolve(arguments.store))
    from flows.steel import pipeline

    with prefect_server():
        summary = pipeline(
            config=arguments.config,
            store=arguments.store,
            overrides=overrides_of(arguments),
            stages=stages,
        )
    if arguments.json:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        _show(summary)
    return DONE


def _show(summary: dict[str, Any]) -> None:
    """Print a run's scores, its report and the pages to open next."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log file has room for whole names
    if summary["results"]:
        table = Table(title=f"{summary['name']}: accuracy, with 95 % interval")
        for column in summary["results"][0]:
            table.add_column(column)
        for row in summary["results"]:
            table.add_row(*(str(value) for value in row.values()))
        console.print(table)
    made = sum(s["status"] != "reused" for s in summary["stages"])
    console.print(f"{made} stages made, {len(summary['stages']) - made} finished before.")
    folder = summary["folders"].get("report")
    if folder:
        console.print(f"Report:  {folder}/report.html", soft_wrap=True)
    if not running_services():
        console.print("Pages:   make up     (starts Prefect and MLflow on this machine), then open")
    console.print(f"         {PREFECT_API.removesuffix('/api')}/runs")
    console.print(f"         {MLFLOW_URI}/{_comparison(Path(summary['store']))}", soft_wrap=True)


def _comparison(store: Path) -> str:
    """Address of the page that compares the models, below MLflow's own."""
    from tasks.core.tracking import MODELS, default_uri, experiment_links

    return experiment_links(default_uri(store)).get(MODELS, "")


def _check(arguments: argparse.Namespace) -> int:
    from common.paths import resolve
    from flows.preflight import preflight

    preflight(arguments.config, overrides_of(arguments), resolve(arguments.store))
    print(f"{arguments.config} is sound")
    return DONE


def _report(arguments: argparse.Namespace) -> int:
    from tasks.core.store import reports

    rows = reports(Path(arguments.store))
    if arguments.json:
        print(json.dumps(rows, indent=1))
    for row in [] if arguments.json else rows:
        print(f"{row['finished']}  {row['name']:24} {row['path']}")
    return DONE


def _explain(arguments: argparse.Namespace) -> int:
    from common.paths import resolve
    from tasks.core.explain import describe, explain

    explanation = explain(resolve(arguments.store), arguments.document)
    if arguments.json:
        print(json.dumps(explanation, indent=1, ensure_ascii=False))
    else:
        print("\n".join(describe(explanation)))
    return DONE
