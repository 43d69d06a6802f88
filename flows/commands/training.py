"""Commands for a pretraining that is running or stopped: append, horizon, profile."""

import argparse
import json
import sys

from flows.commands import DONE, weights

RUN = "a folder STORE/pretrain/KEY (with or without .partial), or a key of --store"


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
    append = commands.add_parser(
        "append",
        help="add packed data to a pretraining",
        description="Ask a running or stopped pretraining to train on more data: from the next "
        "step boundary on (or --at-step) they are mixed with what is still unseen.",
    )
    append.add_argument("run_folder", metavar="RUN", help=RUN)
    append.add_argument(
        "data",
        metavar="DATA",
        help="a finished `pack` folder or key, a folder of shards, or its manifest.json",
    )
    append.add_argument("--store", default="store")
    append.add_argument(
        "--at-step", type=int, metavar="N", help="completed steps at which the data join"
    )
    append.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="SOURCE=EPOCHS",
        help="epochs of a source of the new data (default: 1)",
    )
    append.add_argument(
        "--seed", type=int, help="of the order from there on (default: the run's own)"
    )
    append.add_argument(
        "--horizon",
        choices=["keep", "extend"],
        help="keep the number of steps (default), or add the steps of the new samples",
    )
    append.add_argument("--json", action="store_true")
    append.set_defaults(run=_append)

    horizon = commands.add_parser(
        "horizon",
        help="move the end of a pretraining, or let its learning rate decay",
        description="Ask a running or stopped pretraining for another number of steps, or for the "
        "decay of its learning rate to begin. No restart is needed.",
    )
    horizon.add_argument("run_folder", metavar="RUN", help=RUN)
    horizon.add_argument("--store", default="store")
    horizon.add_argument("--steps", type=int, metavar="N", help="steps of the whole run")
    decay = horizon.add_mutually_exclusive_group()
    decay.add_argument(
        "--decay-at",
        type=int,
        metavar="STEP",
        help="step from which the rate falls to its minimum at the end (wsd, constant)",
    )
    decay.add_argument("--decay", choices=["now"], help="the same, from the next step on")
    horizon.add_argument("--json", action="store_true")
    horizon.set_defaults(run=_horizon)

    profile = commands.add_parser(
        "profile",
        help="trace a few steps of a pretraining",
        description="Ask a running pretraining to trace its next steps, on every rank, for "
        "chrome://tracing or Perfetto.",
    )
    profile.add_argument("run_folder", metavar="RUN", help=RUN)
    profile.add_argument("--store", default="store")
    profile.add_argument("--steps", type=int, default=3, metavar="N", help="in the trace")
    profile.add_argument("--json", action="store_true")
    profile.set_defaults(run=_profile)


def _append(arguments: argparse.Namespace) -> int:
    from tasks.core.requests import append

    answer = append(
        arguments.store,
        arguments.run_folder,
        arguments.data,
        at_step=arguments.at_step,
        weights=weights(arguments.weight) or None,
        seed=arguments.seed,
        horizon=arguments.horizon,
        progress=_Checked() if sys.stderr.isatty() else None,
    )
    return _print(arguments, answer)


def _horizon(arguments: argparse.Namespace) -> int:
    from tasks.core.requests import move_end

    answer = move_end(
        arguments.store,
        arguments.run_folder,
        steps=arguments.steps,
        decay_at=arguments.decay or arguments.decay_at,
    )
    return _print(arguments, answer)


def _profile(arguments: argparse.Namespace) -> int:
    from tasks.core.requests import profile

    answer = profile(arguments.store, arguments.run_folder, num_steps=arguments.steps)
    return _print(arguments, answer)


def _print(arguments: argparse.Namespace, answer: dict[str, object]) -> int:
    print(json.dumps(answer, indent=1) if arguments.json else answer["message"])
    return DONE


class _Checked:
    """Shows how much of the new data was compared with its checksums."""

    def __call__(self, done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\rchecking the shards: {done / total:4.0%}", end=end, file=sys.stderr, flush=True)
