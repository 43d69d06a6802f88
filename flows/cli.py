"""The `steel` command: a shell around the flow for people at a terminal."""

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.environment import MLFLOW_URI, PREFECT_API, prefect_server, prepare, running_services
from model.errors import StageError, SteelError

BAD_INPUT = 2
FAILED = 1


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 failed, 2 bad input)."""
    arguments = parser().parse_args(argv)
    prepare()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        result: int = arguments.run(arguments)
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except SteelError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        return 130
    return result


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="steel", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the pipeline of a configuration, here and now")
    run.add_argument("config", metavar="CONFIG.yaml", help="a file of deployments/")
    run.add_argument(
        "--stages", metavar="A,B",
        help="only these and what they need: data, pretrain, sft, dpo, evaluate, report",
    )  # fmt: skip
    run.add_argument("--store", default="store", help="folder of all results (default: store)")
    run.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change the configuration; may be given several times",
    )  # fmt: skip
    _add_sample_options(run)
    run.add_argument("--json", action="store_true", help="print the summary as JSON")
    run.set_defaults(run=_run)

    check = commands.add_parser("check", help="check a configuration and its data, run nothing")
    check.add_argument("config", metavar="CONFIG.yaml")
    check.add_argument("--store", default="store")
    check.add_argument("--set", dest="settings", action="append", default=[])
    _add_sample_options(check)
    check.set_defaults(run=_check)

    report = commands.add_parser("report", help="print where the newest reports of a store are")
    report.add_argument("--store", default="store")
    report.add_argument("--json", action="store_true")
    report.set_defaults(run=_report)

    explain = commands.add_parser("explain", help="say what happened to one document")
    explain.add_argument("document", metavar="DOC_ID", help="<source>/<file>#<line>")
    explain.add_argument("--store", default="store")
    explain.add_argument("--json", action="store_true")
    explain.set_defaults(run=_explain)

    verify = commands.add_parser("verify", help="compare every file of a store with its checksum")
    verify.add_argument("store", nargs="?", default="store")
    verify.add_argument("--json", action="store_true")
    verify.set_defaults(run=_verify)

    order = commands.add_parser(
        "verify-order", help="prove that a data order loses and repeats nothing"
    )
    order.add_argument("where", help="a store, or the manifest.json of packed shards")
    order.add_argument("--ranks", default="1,2", help="world sizes in turn, for example 8,4,8")
    order.add_argument("--sequence-length", type=int, default=2048)
    order.add_argument("--global-batch", type=int, default=8)
    order.add_argument("--seed", type=int, default=0)
    order.add_argument(
        "--weight", action="append", default=[], metavar="SOURCE=EPOCHS",
        help="epochs of a source (default: 1)",
    )  # fmt: skip
    order.add_argument("--validation-fraction", type=float, default=0.0)
    order.add_argument("--restart", default="", help="steps at which the run is interrupted")
    order.add_argument(
        "--append", action="append", default=[], metavar="MANIFEST@STEP",
        help="packed shards that are added at a step",
    )  # fmt: skip
    order.add_argument("--json", action="store_true")
    order.set_defaults(run=_verify_order)

    chat = commands.add_parser("chat", help="talk to a model")
    chat.add_argument("model", help="a Transformers folder, or a stage folder of the store")
    chat.add_argument("--message", help="answer this one message and end")
    chat.add_argument("--max-new-tokens", type=int, default=128)
    chat.set_defaults(run=_chat)
    return top


def _add_sample_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--fraction", metavar="F", help="take only this share of each corpus, for example 0.01"
    )
    command.add_argument(
        "--limit", metavar="N", help="take at most N records of each corpus (lines, items, rows)"
    )


def _settings(arguments: argparse.Namespace) -> list[str]:
    """All changes to the configuration that the command line asks for."""
    sample = {"fraction": arguments.fraction, "limit": arguments.limit}
    given = [f"sample.{key}={value}" for key, value in sample.items() if value is not None]
    return [*arguments.settings, *given]


STAGES = ("data", "pretrain", "sft", "dpo", "evaluate", "report")


def _run(arguments: argparse.Namespace) -> int:
    from flows.config import load_pipeline
    from flows.preflight import preflight
    from model.errors import ConfigError
    from tasks._recipes import resolve

    stages = arguments.stages.split(",") if arguments.stages else None
    for name in stages or []:
        if name not in STAGES:
            raise ConfigError(f"--stages: there is no {name!r}; choose from {', '.join(STAGES)}")
    # Once here, before a server is started; the flow checks again for those who start it elsewhere.
    preflight(load_pipeline(arguments.config, _settings(arguments)), resolve(arguments.store))
    from flows.steel import pipeline

    with prefect_server():
        summary = pipeline(
            config=arguments.config,
            store=arguments.store,
            settings=_settings(arguments),
            stages=stages,
        )
    if arguments.json:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        _show(summary)
    return 0


def _show(summary: dict[str, Any]) -> None:
    """The end of a run, for a person: table, report, what to open next."""
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
    from tasks._tracking import MODELS, default_uri, experiment_links

    return experiment_links(default_uri(store)).get(MODELS, "")


def _check(arguments: argparse.Namespace) -> int:
    from flows.config import load_pipeline
    from flows.preflight import preflight
    from tasks._recipes import resolve

    preflight(load_pipeline(arguments.config, _settings(arguments)), resolve(arguments.store))
    print(f"{arguments.config} is sound")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from tasks._store import reports

    rows = reports(Path(arguments.store))
    if arguments.json:
        print(json.dumps(rows, indent=1))
    for row in [] if arguments.json else rows:
        print(f"{row['finished']}  {row['name']:24} {row['path']}")
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from tasks._explain import explain, tell
    from tasks._recipes import resolve

    story = explain(resolve(arguments.store), arguments.document)
    if arguments.json:
        print(json.dumps(story, indent=1, ensure_ascii=False))
    else:
        print("\n".join(tell(story)))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from tasks._store import verify

    rows, damaged = verify(Path(arguments.store))
    if arguments.json:
        print(json.dumps({"stages": rows, "damaged": damaged}, indent=1))
    else:
        for row in rows:
            print(f"{row['stage']:10} {row['key']}  {row['files']} files, {row['bytes']} bytes")
        for line in damaged:
            print(f"damaged: {line}", file=sys.stderr)
    return FAILED if damaged else 0


def _verify_order(arguments: argparse.Namespace) -> int:
    from tasks._store import verify_order

    report = verify_order(
        Path(arguments.where),
        ranks=[int(n) for n in arguments.ranks.split(",")],
        sequence_length=arguments.sequence_length,
        global_batch=arguments.global_batch,
        seed=arguments.seed,
        restarts=[int(n) for n in arguments.restart.split(",") if n],
        appends=arguments.append,
        weights=_weights(arguments.weight),
        validation_fraction=arguments.validation_fraction,
    )
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        for name, value in report.items():
            print(f"{name:24} {value}")
    return 0 if report["ok"] else FAILED


def _weights(texts: list[str]) -> dict[str, float]:
    """`SOURCE=EPOCHS` options as a mapping."""
    from model.errors import ConfigError

    weights = {}
    for text in texts:
        source, _, epochs = text.partition("=")
        try:
            weights[source] = float(epochs)
        except ValueError:
            raise ConfigError(f"--weight {text!r} must look like SOURCE=EPOCHS") from None
    return weights


def _chat(arguments: argparse.Namespace) -> int:
    from model.entry.chat import answers

    messages = iter([arguments.message]) if arguments.message else _lines()
    limit = arguments.max_new_tokens
    for answer in answers(Path(arguments.model), messages, max_new_tokens=limit):
        print(answer, flush=True)
    return 0


def _lines() -> Iterator[str]:
    """What a person types, line by line, until Ctrl-D."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


if __name__ == "__main__":
    sys.exit(main())
