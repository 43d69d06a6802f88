"""Commands for a pretraining that is running or stopped: append, reschedule, profile; and for any:
evaluate-checkpoints."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from common.ranges import Ge, Limit, Seed, Steps
from flows.commands import (
    DONE,
    FAILED,
    NAMES_HELP,
    add_options,
    number,
    print_table,
    progress_line,
    run_steel,
    weights,
)

if TYPE_CHECKING:
    from model.train.run.client import RequestResult

RunSteps = Annotated[int, Ge(1), Limit(10**10)]
TracedSteps = Annotated[int, Ge(1), Limit(1000)]
"""A step of a small model takes some megabytes of a trace."""

RUN = f"one that is not finished: {NAMES_HELP}"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands of this group."""
    append = _request(
        commands,
        "append",
        help="add packed data to a pretraining",
        description="Ask a running or stopped pretraining to train on more data: from the next "
        "step boundary on (or --at-step) they are mixed with what is still unseen.",
    )
    append.add_argument(
        "data",
        metavar="DATA",
        help=f"packed data: {NAMES_HELP}; or a folder of shards, or its manifest.json",
    )
    append.add_argument(
        "--at-step", type=number(Steps), metavar="N", help="completed steps at which the data join"
    )
    append.add_argument(
        "--seed", type=number(Seed), help="of the order from there on (default: the run's own)"
    )
    append.add_argument(
        "--steps",
        choices=["keep", "extend"],
        help="keep the number of steps (default), or extend it by those of the new samples",
    )
    append.add_argument("--horizon", help=argparse.SUPPRESS)
    add_options(append, "weight")
    append.set_defaults(run=_append)

    reschedule = _request(
        commands,
        "reschedule",
        help="move the end of a pretraining, or let its learning rate decay",
        description="Ask a running or stopped pretraining for another number of steps, or for the "
        "decay of its learning rate to begin. No restart is needed.",
    )
    reschedule.add_argument(
        "--steps", type=number(RunSteps), metavar="N", help="steps of the whole run"
    )
    reschedule.add_argument(
        "--decay-at",
        type=_step_or_now,
        metavar="STEP|now",
        help="step from which the rate falls to its minimum at the end (wsd, constant); "
        "now: the next one",
    )
    reschedule.add_argument("--decay", help=argparse.SUPPRESS)
    reschedule.set_defaults(run=_reschedule)

    profile = _request(
        commands,
        "profile",
        help="trace a few steps of a pretraining",
        description="Ask a running pretraining to trace its next steps, on every rank, for "
        "chrome://tracing or Perfetto.",
    )
    profile.add_argument(
        "--steps", type=number(TracedSteps), default=3, metavar="N", help="in the trace"
    )
    profile.set_defaults(run=_profile)

    checkpoints = commands.add_parser(
        "evaluate-checkpoints",
        help="measure each checkpoint of a pretraining, by tokens",
        description="Bits per byte of held-out texts and the benchmarks of a configuration for "
        "each checkpoint of a pretraining, running or finished, each once. Beside a training it "
        "computes with the lowest priority, on `checkpoint_scores.threads` threads or on the GPU "
        "`checkpoint_scores.gpu`.",
    )
    checkpoints.add_argument(
        "run_folder",
        metavar="RUN",
        nargs="?",
        help=f"{NAMES_HELP} (default: the configuration's own)",
    )
    checkpoints.add_argument(
        "--config",
        metavar="CONFIG.yaml",
        default="deployments/smoke.yaml",
        help="names the benchmarks, and what is measured (default: deployments/smoke.yaml)",
    )
    checkpoints.add_argument(
        "--watch", action="store_true", help="go on with each new one until the run ends"
    )
    add_options(checkpoints, "store", "set", "json")
    checkpoints.set_defaults(run=_evaluate_checkpoints)

    refresh = commands.add_parser(
        "refresh",
        help="append what is new in the corpora to a pretraining",
        description="Acquire files that are new or changed at the locations of a configuration's "
        "corpora, clean the documents in them that are new, drop copies of texts that the "
        "pretraining has and questions of benchmarks, pack the rest and append it: a running "
        "pretraining takes it up at its next step, a stopped one when it goes on.",
    )
    refresh.add_argument("config", metavar="CONFIG.yaml", help="a file of deployments/")
    refresh.add_argument(
        "--run",
        metavar="RUN",
        dest="run_folder",
        help=f"{RUN} (default: the configuration's newest)",
    )
    refresh.add_argument(
        "--steps",
        choices=["keep", "extend"],
        default="keep",
        help="keep the number of steps, or add those that the new data make (default: keep)",
    )
    add_options(refresh, "store", "set", "json")
    refresh.set_defaults(run=_refresh)


def _request(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, **words: Any
) -> argparse.ArgumentParser:
    """Declare a command whose first argument is the folder of a pretraining."""
    command = commands.add_parser(name, **words)
    command.add_argument("run_folder", metavar="RUN", help=RUN)
    add_options(command, "store", "json")
    return command


def _append(arguments: argparse.Namespace) -> int:
    from common.errors import ConfigError
    from common.paths import display, resolve
    from model.train.run.client import RunClient
    from tasks.core.store import find_pretraining, named_packed

    if arguments.horizon is not None:
        raise ConfigError(f"--horizon is --steps now: write --steps {arguments.horizon}")
    store = resolve(arguments.store)
    folder, running = find_pretraining(store, arguments.run_folder)
    data = named_packed(store, arguments.data)
    result = RunClient.open(folder, running=running).append(
        data,
        at_step=arguments.at_step,
        weights=weights(arguments.weight) or None,
        seed=arguments.seed,
        steps=arguments.steps,
        progress=progress_line("bytes of the shards checked"),
    )
    return _print(arguments, result, f"the data in {display(data)}", folder, running=running)


def _reschedule(arguments: argparse.Namespace) -> int:
    from common.errors import ConfigError
    from common.paths import resolve
    from model.train.run.client import RunClient
    from tasks.core.store import find_pretraining

    if arguments.decay is not None:
        raise ConfigError(f"--decay {arguments.decay} is --decay-at {arguments.decay} now")
    folder, running = find_pretraining(resolve(arguments.store), arguments.run_folder)
    result = RunClient.open(folder, running=running).reschedule(
        steps=arguments.steps, decay_at=arguments.decay_at
    )
    return _print(arguments, result, "the length", folder, running=running)


def _profile(arguments: argparse.Namespace) -> int:
    from common.paths import display, resolve
    from model.train.run.client import RunClient
    from model.train.run.folder import PROFILE_FOLDER
    from tasks.core.store import find_pretraining

    folder, running = find_pretraining(resolve(arguments.store), arguments.run_folder)
    result = RunClient.open(folder, running=running).profile(arguments.steps)
    trace = display(folder / PROFILE_FOLDER)
    what = f"a trace of {arguments.steps} steps in {trace}"
    return _print(arguments, result, what, folder, running=running, folder=trace)


def _evaluate_checkpoints(arguments: argparse.Namespace) -> int:
    from common.paths import resolve
    from flows.preflight import preflight_ahead
    from tasks.checkpoint_scores.run import PretrainingRun

    # Before a server is started.
    if arguments.run_folder:
        PretrainingRun.find(resolve(arguments.store), arguments.run_folder)
    preflight_ahead(arguments.config, arguments.overrides, resolve(arguments.store))
    summary = run_steel(
        "evaluate_checkpoints", arguments, run=arguments.run_folder, watch=arguments.watch
    )
    if arguments.json:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
    else:
        _show_checkpoints(summary)
    return FAILED if summary["failed"] else DONE


def _refresh(arguments: argparse.Namespace) -> int:
    from common.paths import resolve
    from flows.preflight import preflight_ahead

    preflight_ahead(arguments.config, arguments.overrides, resolve(arguments.store))
    summary = run_steel("refresh", arguments, run=arguments.run_folder, length=arguments.steps)
    if arguments.json:
        print(json.dumps(summary, indent=1, ensure_ascii=False))
    elif summary["packed"] is None:
        print(f"nothing to append to {summary['run']}: {summary['status']}")
    else:
        print(
            f"{summary['documents']} new documents, {summary['tokens']} tokens, for "
            f"{summary['run']}: {summary['status']}"
        )
    return DONE


def _show_checkpoints(summary: dict[str, Any]) -> None:
    if summary["checkpoints"]:
        print_table(summary["checkpoints"], title=f"checkpoints of {summary['run']}", width=160)
    for step, reason in summary["failed"].items():
        print(f"step {step} is not measured: {reason}", file=sys.stderr)
    if summary["gone"]:
        steps = ", ".join(map(str, summary["gone"]))
        print(f"removed before they could be measured: steps {steps}", file=sys.stderr)
    print(f"{len(summary['measured'])} checkpoints measured, {summary['known']} before.")
    if not summary["ended"]:
        print("The pretraining has not ended: the same command goes on from here.")
    if summary["folder"]:
        print(f"Curves: {summary['folder']}/curves.png")


def _print(
    arguments: argparse.Namespace,
    result: "RequestResult",
    what: str,
    run: Path,
    *,
    running: bool,
    **more: str,
) -> int:
    from common.paths import display

    message = format_result(result, what, running=running)
    if arguments.json:
        values = {**asdict(result), **more, "run": display(run), "message": message}
        print(json.dumps(values, indent=1))
    else:
        print(message)
    return DONE


def format_result(result: "RequestResult", what: str, *, running: bool) -> str:
    """The state of a request as a sentence."""
    if result.status == "done":
        message = f"nothing to do: {what} changed this run at step {result.step} already"
    elif result.status == "pending":
        message = f"nothing to do: {what}: requested before, not done yet ({result.request})"
    elif result.step is not None:
        message = f"requested: {what} at step {result.step}"
    else:
        when = "at its next step boundary" if running else "when the run goes on"
        message = f"requested: {what}, {when}"
    if result.num_samples:
        message += f"; {result.num_samples} samples ({result.num_tokens} tokens) more"
    return f"{message}; the run ends at step {result.total_steps}"


def _step_or_now(text: str) -> "int | Literal['now']":
    if text == "now":
        return "now"
    try:
        step: int = number(Steps)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or now") from None
    return step
