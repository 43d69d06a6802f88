"""Command for benchmark questions that were found in training texts: contamination."""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from common.ranges import Ge, Limit, Seed
from flows.commands import DONE, NAMES_HELP, add_options, number

FILES = {
    "contamination": "matches.jsonl",
    "sft": "contamination.jsonl",
    "dpo": "contamination.jsonl",
}
"""Stage -> its file of matches."""

Number = Annotated[int, Ge(1), Limit(10**6)]


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    command = commands.add_parser(
        "contamination", help="benchmark questions in training texts, with the passages, to judge"
    )
    command.add_argument("store", nargs="?", default="store")
    command.add_argument(
        "--stage",
        default="",
        metavar="KEY",
        help=f"this contamination, sft or dpo: {NAMES_HELP} (default: all)",
    )
    command.add_argument("--benchmark", default="", metavar="NAME", help="of this one alone")
    command.add_argument(
        "--number", type=number(Number), default=20, help="matches, drawn at random (default: 20)"
    )
    command.add_argument("--seed", type=number(Seed), default=0, help="of the draw (default: 0)")
    add_options(command, "json")
    command.set_defaults(run=_contamination)


def _contamination(arguments: argparse.Namespace) -> int:
    found = list(matches(Path(arguments.store), arguments.stage, arguments.benchmark))
    shown = random.Random(arguments.seed).sample(found, min(arguments.number, len(found)))
    if arguments.json:
        print(json.dumps({"matches": len(found), "shown": shown}, ensure_ascii=False, indent=1))
        return DONE
    print(f"{len(found)} matches; {len(shown)} of them:" if found else "no match")
    for match in shown:
        print(
            f"\n{match['benchmark']} {match['question_id']}  {100 * match['overlap']:.0f} % in "
            f"{match['id']}  ({match['stage']})"
        )
        for title in ("question", "excerpt"):
            lines = str(match[title]).splitlines()
            print("\n".join([f"  {title}:", *(f"    {line}" for line in lines)]))
    return DONE


def matches(store: Path, key: str = "", benchmark: str = "") -> Iterator[dict[str, Any]]:
    """Yield the matches of the finished stages of a store, each with its stage.

    Raises ConfigError for a key that no stage with matches has, DataError without a store.
    """
    from common.files import read_json_lines
    from tasks.core.manifest import StageResult
    from tasks.core.results.names import find_stage
    from tasks.core.store import finished_stages

    chosen = [one for one in finished_stages(store) if one.stage in FILES]
    if key:
        found = find_stage(store, key, [*FILES], what="--stage")
        chosen = [StageResult.read(found.folder)]
    for one in chosen:
        path = one.folder / FILES[one.stage]
        for row in read_json_lines(path) if path.is_file() else ():
            if benchmark in ("", row["benchmark"]):
                yield {**row, "stage": f"{one.stage}/{one.key}"}
