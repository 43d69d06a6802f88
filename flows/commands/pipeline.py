"""Commands about a configuration and its results: run, check, evaluate, report, trace, explain."""

import argparse
import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from flows.commands import DONE, FAILED, add_options, choices, overrides_of, print_table, run_steel
from flows.commands.chat import MODEL_HELP
from flows.environment import prefect_api, running_services


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
    run = commands.add_parser("run", help="run the pipeline of a configuration, here and now")
    run.add_argument("config", metavar="CONFIG.yaml", help="a file of deployments/")
    run.add_argument(
        "--stages", metavar="A,B", help="only these and what they need: data, pretrain, …"
    )
    add_options(run, "store", "set", "fraction", "limit", "json")
    run.set_defaults(run=_run)

    start = commands.add_parser(
        "start", help="start a run of a deployment on the server of `make up`, and watch it"
    )
    start.add_argument("deployment", metavar="NAME", help="as in prefect.yaml: pretrain, sft, …")
    start.add_argument(
        "-p",
        "--param",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of its form; may be given several times",
    )
    start.add_argument("--name", help="of the run (default: a telling one)")
    start.add_argument(
        "--no-watch", action="store_true", help="do not wait for its end and show its log"
    )
    start.set_defaults(run=_start)

    check = commands.add_parser(
        "check", help="list all that is wrong with a configuration or its data"
    )
    check.add_argument("config", metavar="CONFIG.yaml")
    add_options(check, "store", "set", "fraction", "limit")
    check.add_argument(
        "--plan",
        action="store_true",
        help="also list the stages of a whole run: which stand finished, which would be made",
    )
    check.set_defaults(run=_check)

    evaluate = commands.add_parser(
        "evaluate", help="score one model on the benchmarks of a configuration"
    )
    evaluate.add_argument("model", help=MODEL_HELP)
    evaluate.add_argument(
        "--config",
        metavar="CONFIG.yaml",
        default="deployments/smoke.yaml",
        help="names the benchmarks and how they are scored (default: deployments/smoke.yaml)",
    )
    add_options(evaluate, "store", "set", "json")
    evaluate.set_defaults(run=_evaluate)

    report = commands.add_parser("report", help="print where the newest reports of a store are")
    add_options(report, "store", "json")
    report.set_defaults(run=_report)

    trace = commands.add_parser(
        "trace", help="print where a number of a report comes from, down to the raw files"
    )
    trace.add_argument(
        "number", metavar="NUMBER_ID", help="its id, which the report shows on each number"
    )
    trace.add_argument(
        "--card",
        metavar="FOLDER",
        help="folder of a model's card, such as one that `steel export` made: its numbers, too",
    )
    add_options(trace, "store", "json")
    trace.set_defaults(run=_trace)

    explain = commands.add_parser("explain", help="trace one document through the stages")
    explain.add_argument("document", metavar="DOC_ID", help="<source>/<file>#<line>")
    add_options(explain, "store", "json")
    explain.set_defaults(run=_explain)


def _run(arguments: argparse.Namespace) -> int:
    from common.paths import resolve
    from flows.runs.first_look import read_first
    from flows.targets import TARGET_NAMES

    stages = choices("--stages", arguments.stages, TARGET_NAMES) if arguments.stages else None
    read_first(arguments.config, overrides_of(arguments))
    from flows.preflight import preflight_ahead

    # Here, before a server is started; the flow itself checks for those who start it elsewhere.
    preflight_ahead(arguments.config, overrides_of(arguments), resolve(arguments.store))
    _show(run_steel("pipeline", arguments, stages=stages), arguments)
    return DONE


def _start(arguments: argparse.Namespace) -> int:
    import os
    import subprocess
    from urllib.parse import quote

    from common.child import python
    from common.errors import ConfigError
    from common.redaction import redact
    from flows.environment import ROOT, answers, request
    from flows.forms.given import wrong_types

    url = prefect_api()
    if not answers(url, 10):
        raise ConfigError(
            f"no Prefect server answers at {redact(url)}: start it with `make up` (or correct "
            "PREFECT_API_URL). Without a server, `steel run CONFIG.yaml --stages …` does the same "
            "here and now"
        )
    deployment = arguments.deployment.removeprefix("steel/")
    properties = {}
    # Prefect's command says what is wrong with a name that the server does not know.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = request(f"{url}/deployments/name/steel/{quote(deployment, safe='')}")
        properties = found["parameter_openapi_schema"]["properties"]
    if wrong := wrong_types(properties, arguments.param):
        raise ConfigError("\n".join(wrong))
    options = [option for field in arguments.param for option in ("-p", field)]
    options += ["--flow-run-name", arguments.name] if arguments.name else []
    options += [] if arguments.no_watch else ["--watch"]
    name = f"steel/{deployment}"
    done = subprocess.run(
        python("prefect", "deployment", "run", name, *options),
        cwd=ROOT,
        env={**os.environ, "PREFECT_API_URL": url},
    )
    return DONE if done.returncode == 0 else FAILED


def _evaluate(arguments: argparse.Namespace) -> int:
    from common.paths import resolve
    from flows.commands.find_model import find_model
    from tasks.core.given_model import check_given_model

    place = resolve(arguments.model)
    if not place.exists():
        place = find_model(resolve(arguments.store), arguments.model).place
    model = str(place)
    check_given_model(model)  # before a server is started
    _show(run_steel("evaluate", arguments, model=model), arguments)
    return DONE


def _show(summary: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print a run's scores, its report and the pages to open next."""
    if arguments.json:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
        return
    from common.redaction import redact
    from flows.services.addresses import comparison_page, prefect_page

    if summary["results"]:
        title = f"{summary['name']}: accuracy, with 95 % interval"
        print_table(summary["results"], title=title, width=120)
    made = sum(s["status"] != "reused" for s in summary["stages"])
    print(f"{made} stages made, {len(summary['stages']) - made} finished before.")
    folder = summary["folders"].get("report")
    if folder:
        print(f"Report:  {folder}/report.html")
    if not running_services():
        print("Pages:   make up     (starts Prefect and MLflow on this machine), then open")
    print(f"Runs:    {redact(prefect_page())}/runs")
    print(f"Models:  {comparison_page(Path(summary['store']), *summary['views'])}")


def _check(arguments: argparse.Namespace) -> int:
    from common.paths import resolve
    from flows.runs.first_look import read_first

    read_first(arguments.config, overrides_of(arguments))
    from flows.checks.contradictions import cautions
    from flows.preflight import preflight

    store = resolve(arguments.store)
    config = preflight(arguments.config, overrides_of(arguments), store)
    for caution in cautions(config):
        print(f"note: {caution}", file=sys.stderr)
    print(f"{arguments.config} is sound")
    if arguments.plan:
        from flows.graph import planned

        rows = planned(config, store)
        print_table([row.row for row in rows], title=f"stages in {arguments.store}", width=120)
    return DONE


def _report(arguments: argparse.Namespace) -> int:
    from tasks.core.store import reports

    rows = reports(Path(arguments.store))
    if arguments.json:
        print(json.dumps(rows, indent=1))
    for row in [] if arguments.json else rows:
        print(f"{row['finished']}  {row['name']:24} {row['path']}")
    return DONE


def _trace(arguments: argparse.Namespace) -> int:
    from common.redaction import redacted
    from tasks.report.trace.lineage import trace
    from tasks.report.trace.words import lines

    card = Path(arguments.card) if arguments.card else None
    lineage = trace(Path(arguments.store), arguments.number, card)
    if arguments.json:
        print(json.dumps(redacted(dataclasses.asdict(lineage)), indent=1, ensure_ascii=False))
    else:
        print("\n".join(lines(lineage)))
    return DONE


def _explain(arguments: argparse.Namespace) -> int:
    from common.paths import resolve
    from common.redaction import output
    from tasks.core.explain import describe, explain

    explanation = explain(resolve(arguments.store), arguments.document)
    # Texts of documents are data: what looks like a secret in them is shown as it is.
    if arguments.json:
        print(json.dumps(explanation, indent=1, ensure_ascii=False), file=output())
    else:
        print("\n".join(describe(explanation)), file=output())
    return DONE
