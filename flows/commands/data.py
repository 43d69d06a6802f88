"""Commands that prove things about what lies in a store: verify, verify-order."""

import argparse
import json
import sys
from pathlib import Path

from flows.commands import DONE, FAILED, weights


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
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
    return FAILED if damaged else DONE


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
        weights=weights(arguments.weight),
        validation_fraction=arguments.validation_fraction,
    )
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        for name, value in report.items():
            print(f"{name:24} {value}")
    return DONE if report["ok"] else FAILED
