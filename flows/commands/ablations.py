"""Commands that compare runs which differ in one thing: mixture-, kernel-, ffn-, data-ablation."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

from common.ranges import Ge, Limit, Processes
from flows.commands import (
    DONE,
    FAILED,
    add_options,
    choices,
    number,
    print_table,
    run_steel,
    whole_numbers,
)

Steps = Annotated[int, Ge(1), Limit(10**10)]
TimedSteps = Annotated[int, Ge(1), Limit(10**6)]

ROUTINGS = ("token", "uniform", "dense")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
    mixtures = commands.add_parser(
        "mixture-ablation",
        help="compare SFT mixtures from one base, question by question, beside the paper's Table 3",
    )
    mixtures.add_argument("config", metavar="CONFIG.yaml", help="a file of deployments/")
    mixtures.add_argument(
        "--mixtures", metavar="A,B", help="of data_recipes/mixtures (default: configured)"
    )
    mixtures.add_argument(
        "--seeds",
        metavar="1,2",
        default="",
        help="a model of each mixture for each seed (default: the configured one)",
    )
    mixtures.add_argument(
        "--parallel",
        type=number(Processes),
        default=1,
        metavar="N",
        help="models trained at once, each on its share of the GPUs (default: 1)",
    )
    mixtures.add_argument(
        "--dry-run", action="store_true", help="list the models, and what is finished of each"
    )
    add_options(mixtures, "store", "set", "json")
    mixtures.set_defaults(run=_mixtures)

    kernels = commands.add_parser(
        "kernel-ablation", help="measure speed and memory by kernel beside the paper's Table 2"
    )
    kernels.add_argument(
        "--experiments", metavar="1,8", help="columns of Table 2 (default: all eight)"
    )
    kernels.add_argument(
        "--processes",
        type=number(Processes),
        metavar="N",
        help="GPUs that share a step (default: all)",
    )
    kernels.add_argument(
        "--steps", type=number(TimedSteps), default=10, help="timed steps (default: 10)"
    )
    add_options(kernels, "store", "json")
    kernels.set_defaults(run=_kernels)

    ffn = commands.add_parser(
        "ffn-ablation",
        help="compare pretrainings by routing: soft, even weights, dense; several seeds, intervals",
    )
    ffn.add_argument("config", metavar="CONFIG.yaml", help="a file of deployments/")
    ffn.add_argument(
        "--routings",
        default=",".join(ROUTINGS),
        metavar="A,B",
        help="token, uniform, dense, sequence, reference_norm (default: %(default)s)",
    )
    ffn.add_argument(
        "--seeds", metavar="1,2", default="1,2,3", help="a model for each (default: %(default)s)"
    )
    add_options(ffn, "store", "set", "json")
    ffn.set_defaults(run=_ffn)

    data = commands.add_parser(
        "data-ablation",
        help="compare corpora by cleaning recipes: the same model, as many tokens, bits per byte",
    )
    data.add_argument(
        "config",
        metavar="CONFIG.yaml",
        nargs="?",
        default="deployments/data-ablation.yaml",
        help="a file of deployments/ that has `held_out` (default: %(default)s)",
    )
    data.add_argument(
        "--recipes",
        metavar="A,B",
        default="paper,repaired,curated",
        help="folders of data_recipes/clean (default: %(default)s)",
    )
    data.add_argument(
        "--seeds", metavar="1,2", default="1,2,3", help="a model for each (default: %(default)s)"
    )
    data.add_argument(
        "--steps",
        type=number(Steps),
        metavar="N",
        help="optimizer steps of each model (default: configured)",
    )
    add_options(data, "store", "set", "json")
    data.set_defaults(run=_data)


def _mixtures(arguments: argparse.Namespace) -> int:
    from common.paths import resolve
    from flows.ablations.mixtures import FailedModelsError, load, plan_mixtures

    names = arguments.mixtures.split(",") if arguments.mixtures is not None else None
    seeds = whole_numbers("--seeds", arguments.seeds, least=0)
    asked = (names, seeds, arguments.parallel, arguments.config, arguments.store)
    if arguments.dry_run:
        rows: list[dict[str, Any]] = [*plan_mixtures(*asked, arguments.overrides)]
        if arguments.json:
            print(json.dumps(rows, indent=1, ensure_ascii=False))
        else:
            print_table(rows, width=120)
        return DONE
    # Once here, before a server is started.
    place = resolve(arguments.store)
    load(arguments.config, place, arguments.overrides, names, seeds, arguments.parallel)
    try:
        summary = run_steel(
            "mixture_ablation", arguments, mixtures=names, seeds=seeds, parallel=arguments.parallel
        )
    except FailedModelsError as error:
        _print_table(error.summary, arguments)
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    folder = _print_table(summary, arguments)
    if not arguments.json:
        from flows.services.addresses import comparison_page

        print(f"Figures: {folder}/accuracy.png, curves.png; by subject: by_subject.csv")
        print(f"MLflow:  {comparison_page(Path(summary['store']), *summary['views'])}")
    return DONE


def _kernels(arguments: argparse.Namespace) -> int:
    from tasks.core.paper.tables import load_table2

    given = arguments.experiments
    numbers = None if given is None else whole_numbers("--experiments", given)
    for column in numbers or []:  # once here, before a server is started
        load_table2().experiment(column)
    summary = run_steel(
        "kernel_ablation",
        arguments,
        experiments=numbers,
        num_processes=arguments.processes,
        timed_steps=arguments.steps,
    )
    _print_table(summary, arguments)
    return DONE


def _ffn(arguments: argparse.Namespace) -> int:
    from common.paths import resolve
    from flows.ablations.pretrainings import variants
    from flows.preflight import preflight
    from model.architecture import Routing

    routings: list[Any] = choices("--routings", arguments.routings, get_args(Routing))
    seeds = whole_numbers("--seeds", arguments.seeds, least=0)
    # Once here, before a server is started.
    config = preflight(arguments.config, arguments.overrides, resolve(arguments.store))
    variants(config, routings, seeds)
    _print_table(run_steel("ffn_ablation", arguments, routings=routings, seeds=seeds), arguments)
    return DONE


def _data(arguments: argparse.Namespace) -> int:
    from common.paths import resolve
    from flows.ablations.corpora import variants
    from flows.preflight import preflight

    recipes = arguments.recipes.split(",")
    seeds = whole_numbers("--seeds", arguments.seeds)
    # Once here, before a server is started.
    config = preflight(arguments.config, arguments.overrides, resolve(arguments.store))
    variants(config, recipes, seeds, arguments.steps)
    summary = run_steel(
        "data_ablation", arguments, recipes=recipes, seeds=seeds, steps=arguments.steps
    )
    folder = _print_table(summary, arguments)
    if not arguments.json:
        print(f"Picture: {folder}/comparison.png")
    return DONE


def _print_table(summary: Mapping[str, Any], arguments: argparse.Namespace) -> Path:
    """Print the table that an ablation has left, and return its folder."""
    folder = Path(summary["folder"])
    if arguments.json:
        print((folder / "table.json").read_text(encoding="utf-8"))
    else:
        print((folder / "table.md").read_text(encoding="utf-8"))
        print(f"Table:   {folder}/table.md")
    return folder
