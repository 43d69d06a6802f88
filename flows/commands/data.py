"""Commands that prove things about what lies in a store: verify, verify-order."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from flows.commands import DONE, FAILED, weights


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
    verify = commands.add_parser(
        "verify", help="compare every file of a store with its checksum, and look into its shards"
    )
    verify.add_argument("store", nargs="?", default="store")
    verify.add_argument("--json", action="store_true")
    verify.set_defaults(run=_verify)

    order = commands.add_parser(
        "verify-order", help="prove that a data order loses and repeats nothing"
    )
    order.add_argument(
        "where",
        nargs="?",
        help="a store, packed shards (folder or manifest.json), or the folder of a pretraining",
    )
    order.add_argument(
        "--simulate", metavar="BLOCKS", help="instead: data on paper, for example 500M blocks"
    )
    order.add_argument(
        "--ranks",
        default="",
        metavar="N,N,…",
        help="world sizes at the start and after each restart, for example 8,4,8",
    )
    order.add_argument(
        "--micro-batch-size",
        default="",
        metavar="N,N,…",
        help="samples a forward pass, for each of them",
    )
    order.add_argument(
        "--restart", default="", metavar="STEP,…", help="steps at which the run is interrupted"
    )
    order.add_argument(
        "--append",
        action="append",
        default=[],
        metavar="DATA@STEP",
        help="packed shards, or a number of simulated blocks, that are added at a step",
    )
    order.add_argument("--sequence-length", type=int, metavar="TOKENS", help="default: 2048")
    order.add_argument(
        "--global-batch-size",
        type=int,
        metavar="SAMPLES",
        help="default: 8, or the least that all of --ranks divide",
    )
    order.add_argument("--seed", type=int, help="default: 0")
    order.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="SOURCE=EPOCHS",
        help="epochs of a source (default: 1)",
    )
    order.add_argument("--validation-fraction", type=float, help="default: 0")
    order.add_argument("--json", action="store_true")
    order.set_defaults(run=_verify_order)


def _verify(arguments: argparse.Namespace) -> int:
    from tasks.core.store import verify

    rows, damaged = verify(
        Path(arguments.store), progress=_progress("bytes") if sys.stderr.isatty() else None
    )
    if arguments.json:
        print(json.dumps({"stages": rows, "damaged": damaged}, indent=1))
    else:
        for row in rows:
            print(f"{row['stage']:10} {row['key']}  {row['files']} files, {row['bytes']} bytes")
        for line in damaged:
            print(f"damaged: {line}", file=sys.stderr)
        if not damaged:
            print("every file is as it was written, and every shard of tokens makes sense")
    return FAILED if damaged else DONE


def _verify_order(arguments: argparse.Namespace) -> int:
    from model.train.run.verify import Scenario, Settings, tell, verify_order

    report = verify_order(
        Path(arguments.where) if arguments.where else None,
        simulate=arguments.simulate,
        settings=Settings(
            sequence_length=arguments.sequence_length,
            global_batch_size=arguments.global_batch_size,
            seed=arguments.seed,
            weights=weights(arguments.weight),
            validation_fraction=arguments.validation_fraction,
        ),
        scenario=Scenario(
            ranks=_numbers("--ranks", arguments.ranks),
            micro_batches=_numbers("--micro-batch-size", arguments.micro_batch_size),
            restarts=_numbers("--restart", arguments.restart),
            appends=arguments.append,
        ),
        progress=_progress("samples") if sys.stderr.isatty() else None,
    )
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print("\n".join(tell(report)))
    return DONE if report["ok"] else FAILED


def _numbers(option: str, text: str) -> list[int]:
    """`8,4,8` as numbers."""
    from common.errors import ConfigError

    try:
        return [int(part) for part in text.split(",") if part]
    except ValueError:
        raise ConfigError(f"{option} {text!r}: give whole numbers with commas between") from None


def _progress(what: str) -> Callable[[int, int], None]:
    """A line on the terminal that counts."""

    def show(done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        print(f"\r{done:,} of {total:,} {what}", end=end, file=sys.stderr, flush=True)

    return show
