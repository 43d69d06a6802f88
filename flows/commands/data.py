"""Commands that prove things about what lies in a store: verify, verify-order, review."""

import argparse
import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Annotated

from common.ranges import Ge, Le, Limit, Samples, Seed
from flows.commands import (
    DONE,
    FAILED,
    MAX_DIGITS,
    NAMES_HELP,
    OPTIONS,
    add_options,
    number,
    progress_line,
    weights,
    whole_numbers,
)

Length = Annotated[int, Ge(1), Limit(10**8)]
Fraction = Annotated[float, Ge(0), Le(0.5)]
Port = Annotated[int, Ge(0), Le(65535)]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the commands of this group."""
    verify = commands.add_parser(
        "verify", help="compare every file of a store with its checksum, and look into its shards"
    )
    verify.add_argument("store", nargs="?", default="store")
    add_options(verify, "json")
    verify.set_defaults(run=_verify)

    review = commands.add_parser(
        "review", help="judge in the browser what cleaning changed, dropped and kept"
    )
    review.add_argument("store", nargs="?", default="store")
    review.add_argument(
        "--stage",
        default="",
        metavar="KEY",
        help=f"which cleaning: {NAMES_HELP} (default: the newest)",
    )
    review.add_argument(
        "--verdicts", metavar="FILE", help="default: review-verdicts.jsonl in the store"
    )
    review.add_argument(
        "--with-texts", action="store_true", help="put the texts into the file, too"
    )
    review.add_argument("--no-browser", action="store_true", help="only print the address")
    review.add_argument("--port", type=number(Port), default=0, help="default: any that is free")
    review.add_argument(
        "--shares", action="store_true", help="print progress and shares, and open nothing"
    )
    review.add_argument(
        "--check",
        action="store_true",
        help="run today's operators over the judged documents instead",
    )
    review.add_argument(
        "--recipes", metavar="SET", help="of --check; default: those they were cleaned with"
    )
    add_options(review, "json")
    review.set_defaults(run=_review)

    order = commands.add_parser(
        "verify-order", help="prove that a data order loses and repeats nothing"
    )
    order.add_argument(
        "where",
        nargs="?",
        help="a store, packed shards (folder or manifest.json), a pretraining, or words "
        f"that mean packed data or a pretraining of the folder `store`: {NAMES_HELP}",
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
    order.add_argument(
        "--sequence-length", type=number(Length), metavar="TOKENS", help="default: 2048"
    )
    order.add_argument(
        "--global-batch-size",
        type=number(Samples),
        metavar="SAMPLES",
        help="default: 8, or the least that all of --ranks divide",
    )
    order.add_argument("--seed", type=number(Seed), help="default: 0")
    order.add_argument(
        "--validation-fraction",
        type=number(Fraction),
        help="of simulated data, default: 0; packed data hold out what they were packed with",
    )
    add_options(order, "weight", "json")
    order.set_defaults(run=_verify_order)


def _verify(arguments: argparse.Namespace) -> int:
    from tasks.core.store import verify

    rows, damaged = verify(Path(arguments.store), progress=progress_line("bytes"))
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


def _review(arguments: argparse.Namespace) -> int:
    from common.errors import ConfigError
    from common.paths import resolve
    from common.redaction import output
    from tasks import review

    store = resolve(arguments.store)
    path = review.verdicts_file(store, arguments.verdicts)
    if arguments.check:
        from corpus.cleaning.review.replay import FAILURES

        found = review.check_verdicts(store, path, arguments.recipes)
        if arguments.json:
            print(json.dumps(review.outcome_counts(found), indent=1, ensure_ascii=False))
        else:
            print("\n".join(review.describe_check(found)))
        return FAILED if any(one.outcome in FAILURES for one in found) else DONE
    if arguments.recipes:
        raise ConfigError("--recipes names the recipes of --check; review shows what was cleaned")
    stage = review.cleaned_stage(store, arguments.stage)
    opened = review.open_review(store, stage, path, with_texts=arguments.with_texts)
    if not (arguments.shares or arguments.json):

        def announce(url: str) -> None:
            # The address holds the key to the page, and is for whoever started it.
            print(f"{url}\nCtrl-C ends; the same command goes on", file=output(), flush=True)

        review.serve(opened, arguments.port, announce, browser=not arguments.no_browser)
    if arguments.json:
        shares = opened.shares(opened.verdicts.values())
        print(json.dumps(shares, indent=1, ensure_ascii=False))
    else:
        print("\n".join(review.describe_shares(opened)))
    return DONE


def _verify_order(arguments: argparse.Namespace) -> int:
    from common.errors import ConfigError
    from common.paths import display
    from model.data.verify.report import format_report
    from model.train.run import verify
    from tasks.core.store import newest_packed

    settings = verify.OrderSettings(
        sequence_length=arguments.sequence_length,
        global_batch_size=arguments.global_batch_size,
        seed=arguments.seed,
        weights=weights(arguments.weight),
        validation_fraction=arguments.validation_fraction,
    )
    scenario = verify.Scenario(
        ranks=whole_numbers("--ranks", arguments.ranks),
        micro_batches=whole_numbers("--micro-batch-size", arguments.micro_batch_size),
        restarts=whole_numbers("--restart", arguments.restart, least=0),
        appends=[_appended(text) for text in arguments.append],
    )
    if (arguments.where is None) == (arguments.simulate is None):
        raise ConfigError("verify-order: give either packed data or a run, or --simulate")
    if arguments.simulate is not None:
        number = _num_blocks(arguments.simulate)
        subject = verify.simulated_subject(number, settings, scenario.ranks)
    elif verify.is_run(where := _where(arguments.where)):
        if settings != verify.OrderSettings():
            raise ConfigError(
                f"{display(where)} is a pretraining and has settings of its own: leave out "
                "sequence length, batch, seed, weights and validation fraction, or name its "
                "packed data"
            )
        subject = verify.run_subject(where)
    else:
        data = newest_packed(where) if _is_store(where) else where
        subject = verify.packed_subject(data, settings, scenario.ranks)
    report = verify.verify_subject(subject, scenario, progress=progress_line("samples"))
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print("\n".join(format_report(report)))
    return DONE if report["ok"] else FAILED


def _where(words: str) -> Path:
    """A path, or the packed data or pretraining of the folder `store` that words mean."""
    from common.errors import ConfigError
    from common.paths import resolve
    from tasks.core.results.names import find_stage

    place = resolve(words)
    if not place.exists():
        with contextlib.suppress(ConfigError):  # a path that is not there is refused as one
            store = resolve(OPTIONS["store"]["default"])
            return find_stage(store, words, ("pack", "pretrain"), unfinished=True).folder
    return place


def _is_store(where: Path) -> bool:
    """Return True for a folder that is neither a finished `pack` nor a folder of shards."""
    return where.is_dir() and not (any(where.glob("*.bin")) or (where / "shards").is_dir())


def _appended(text: str) -> tuple[Path | int, int]:
    """`DATA@STEP` as packed shards, or a number of simulated blocks, and a step."""
    from common.errors import ConfigError, shown
    from common.paths import resolve

    data, at, step = text.rpartition("@")
    if not (at and data and re.fullmatch(r"[0-9]{1,15}", step)):
        raise ConfigError(
            f"--append {shown(text)} must look like MANIFEST@STEP or, for example, 50M@900"
        )
    place = resolve(data)
    simulate = re.fullmatch(r"[\d_.]+[A-Za-z]?", data) and not place.exists()
    return (_num_blocks(data) if simulate else place), int(step)


def _num_blocks(text: str) -> int:
    """500M, 1.5B, 20k or 1_000 as a whole number. Raises ConfigError."""
    from common.errors import ConfigError, shown

    units = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}
    found = re.fullmatch(r"([0-9][0-9_]*(?:\.[0-9]+)?)([a-zA-Z]?)", text[: MAX_DIGITS + 1])
    unit = units.get(found[2].upper()) if found else None
    if found is None or unit is None or len(text) > MAX_DIGITS:
        raise ConfigError(f"{shown(text)} is no number of blocks; write for example 500M")
    return round(float(found[1].replace("_", "")) * unit)
