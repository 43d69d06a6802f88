"""The command `steel plan`: what a configuration will take, before a month is spent."""

import argparse
import dataclasses
import json
from typing import Annotated

from common.ranges import Ge, Gt, Le, Limit
from flows.commands import DONE, add_options, number, overrides_of, print_table


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare it."""
    plan = commands.add_parser(
        "plan",
        help="say what a run will take: tokens, steps, memory, hours, cost, disk; and what an edit "
        "makes anew",
    )
    plan.add_argument("config", metavar="CONFIG.yaml", help="its data need not be here")
    plan.add_argument(
        "--gpu", metavar="NAME", help="for example h100, a800, 4090 (default: a table)"
    )
    plan.add_argument(
        "--count",
        metavar="N",
        type=number(Annotated[int, Ge(1), Limit(10**6)]),
        default=0,
        help="GPUs of all machines (default: as the configuration says)",
    )
    plan.add_argument(
        "--mfu",
        metavar="SHARE",
        type=number(Annotated[float, Gt(0), Le(1)]),
        help="share of the peak that is reached (default: measured in the store, else 0.4)",
    )
    plan.add_argument(
        "--price",
        metavar="US$",
        type=number(Annotated[float, Ge(0), Limit(10**6)]),
        help="of one GPU for an hour (default: a range of public offers)",
    )
    plan.add_argument(
        "--against",
        metavar="OTHER.yaml",
        help="a configuration that stands: list what CONFIG.yaml makes anew beside it, and why",
    )
    add_options(plan, "store", "set", "fraction", "limit", "json")
    plan.set_defaults(run=_plan)


def _plan(arguments: argparse.Namespace) -> int:
    from common.config import problems
    from common.paths import resolve
    from flows.config import load_pipeline
    from flows.planning.forecast import forecast_pipeline
    from flows.planning.table import headline, tables
    from model.cost.gpus import gpu_of_word

    gpu = gpu_of_word(arguments.gpu) if arguments.gpu else None
    config = load_pipeline(arguments.config, overrides_of(arguments))
    other = load_pipeline(arguments.against) if arguments.against else None
    forecast = forecast_pipeline(
        config,
        resolve(arguments.store),
        gpu=gpu,
        count=arguments.count,
        mfu=arguments.mfu,
        price=arguments.price,
        other=other,
    )
    refused = [f"a run here is refused: {_first_sentence(error)}" for error in problems(config)]
    forecast = dataclasses.replace(forecast, cautions=[*forecast.cautions, *refused])
    if arguments.json:
        print(json.dumps(dataclasses.asdict(forecast), indent=1, ensure_ascii=False))
        return DONE
    print(headline(forecast))
    for title, rows in tables(forecast):
        print_table(rows, title=title, width=140)
    for row in forecast.gpus[:1] if gpu is not None else []:
        print(f"prices: {row.price_source or 'none known; give --price'}")
    if gpu is None and forecast.pretraining is not None:
        print("hours of every stage: name a GPU, for example --gpu h100 --count 8")
    if gpu is not None and not gpu.runs_steel:
        print(f"note: Steel has no kernels for {gpu.name} and was never run on one")
    for caution in forecast.cautions:
        print(f"note: {caution}")
    return DONE


def _first_sentence(error: Exception) -> str:
    return str(error).split(". ", 1)[0]
