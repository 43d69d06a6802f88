"""Commands about what a store holds: list, gc."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from common.ranges import Ge, Limit
from flows.commands import DONE, add_options, number, print_table, progress_line

if TYPE_CHECKING:
    from tasks.core.results.entries import Entry

Number = Annotated[int, Ge(0), Limit(10**6)]

FIGURES = {
    "acquire": ("bytes", "files"),
    "normalize": ("documents",),
    "clean": ("documents_kept",),
    "pack": ("tokens",),
    "pretrain": ("validation_loss", "train_loss"),
    "sft": ("validation_loss", "train_loss"),
    "dpo": ("validation_accuracy", "validation_loss", "train_loss"),
    "contamination": ("found",),
    "throughput": ("tokens_per_second",),
}
"""Stage -> its main figure: the first of these counts that it has."""


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare them."""
    listed = commands.add_parser(
        "list", help="stages of a store: key, name, date, size, state, main figure"
    )
    listed.add_argument(
        "stages", metavar="STAGE", nargs="*", help="only these, such as pretrain (default: all)"
    )
    listed.add_argument(
        "--number", type=number(Number), default=0, metavar="N", help="only the N newest"
    )
    add_options(listed, "store", "json")
    listed.set_defaults(run=_list)

    gc = commands.add_parser(
        "gc",
        help="list what a store no longer needs, and remove it with --delete",
        description="Lists stages that no configuration names and from which nothing was made that "
        "stays, checkpoints that a training's own settings do not keep, unread caches, and what "
        "killed runs have left. Nothing is removed without --delete. What a process uses stays, "
        "and so do models without --models, and reports.",
    )
    gc.add_argument(
        "--for",
        dest="configs",
        metavar="CONFIG.yaml",
        action="append",
        default=[],
        help="keep what this configuration needs; may be given several times (default: every one "
        "in deployments/)",
    )
    gc.add_argument(
        "--keep",
        type=number(Number),
        default=3,
        metavar="N",
        help="keep the N newest results from which nothing was made, and all they were made from "
        "(default: 3)",
    )
    gc.add_argument(
        "--keep-checkpoints",
        type=number(Number),
        default=0,
        metavar="N",
        help="keep the N newest checkpoints of a training beside its best ones (default: as its "
        "configuration says)",
    )
    gc.add_argument("--models", action="store_true", help="models may go, too")
    gc.add_argument("--delete", action="store_true", help="remove what is listed")
    add_options(gc, "store", "json")
    gc.set_defaults(run=_gc)


def _list(arguments: argparse.Namespace) -> int:
    from common.paths import resolve

    rows = listing(resolve(arguments.store), arguments.stages)
    rows = rows[-arguments.number :] if arguments.number else rows
    if arguments.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    elif rows:
        shown = [{**row, "size": _size(row["size"]), "key": row["key"][:8]} for row in rows]
        print_table(shown, width=140)
    else:
        print("nothing is there")
    return DONE


def listing(store: Path, stages: list[str]) -> list[dict[str, Any]]:
    """A row for each stage of a store, the newest last.

    Raises ConfigError for a stage that a store never has, DataError where there is no store.
    """
    from common.config import did_you_mean
    from common.errors import ConfigError, DataError, shown
    from common.paths import display
    from tasks.core.results.entries import entries
    from tasks.core.store import STAGES

    if not store.is_dir():
        raise DataError(f"there is no store at {display(store)}; `steel run` makes one")
    for stage in stages:
        if stage not in STAGES and not (store / stage).is_dir():
            near = did_you_mean(stage, STAGES)
            raise ConfigError(
                f"there is no stage {shown(stage)}{near}; stages: {', '.join(STAGES)}"
            )
    return [
        {
            "stage": entry.stage,
            "key": entry.key,
            "name": entry.title or entry.label,
            "date": time.strftime("%F %T", time.localtime(entry.at)),
            "size": entry.num_bytes,
            "state": entry.state,
            "figure": main_figure(entry),
        }
        for entry in entries(store, stages)
    ]


def main_figure(entry: "Entry") -> str:
    """The number that says most about a stage, with its name; the step of one that is running."""
    from tasks.core.results.progress import training_position

    if entry.state != "finished":
        position = training_position(entry)
        return position.words if position else ""
    counts = entry.about.get("counts", {})
    scores = {k.split("/", 1)[1]: v for k, v in counts.items() if k.startswith("accuracy/")}
    if scores:
        return ", ".join(f"{name} {100 * value:.1f} %" for name, value in sorted(scores.items()))
    for name in FIGURES.get(entry.stage, ()):
        if isinstance(counts.get(name), int | float):
            value = float(counts[name])
            return f"{name} {value:,.0f}" if value.is_integer() else f"{name} {value:,.4g}"
    return ""


def _gc(arguments: argparse.Namespace) -> int:
    from common.errors import DataError
    from common.paths import display, resolve
    from tasks.core.results.unneeded import remove, unneeded

    store = resolve(arguments.store)
    if not store.is_dir():
        raise DataError(f"there is no store at {display(store)}; `steel run` makes one")
    found = unneeded(
        store,
        wanted_keys(store, arguments.configs),
        keep=arguments.keep,
        models=arguments.models,
        keep_checkpoints=arguments.keep_checkpoints,
    )
    removed: dict[Path, bool] = {}
    show = progress_line("removed") if arguments.delete else None
    for done, one in enumerate(found if arguments.delete else [], 1):
        try:
            removed[one.path] = remove(store, one)
        except OSError as error:
            removed[one.path] = False
            print(f"{display(one.path)} stays: {error.strerror}", file=sys.stderr)
        if show:
            show(done, len(found))
    rows = [
        {
            "kind": one.kind,
            "what": one.words,
            "path": display(one.path),
            "bytes": one.num_bytes,
            "reason": one.reason,
            **({"removed": removed[one.path]} if arguments.delete else {}),
        }
        for one in found
    ]
    if arguments.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return DONE
    _show_gc(rows, delete=arguments.delete)
    return DONE


def _show_gc(rows: list[dict[str, Any]], *, delete: bool) -> None:
    if not rows:
        print("nothing to remove")
        return
    columns = ("kind", "what", "bytes", "reason")
    print_table(
        [{**{c: row[c] for c in columns}, "bytes": _size(row["bytes"])} for row in rows], width=160
    )
    total = _size(sum(row["bytes"] for row in rows if row.get("removed", True)))
    kept = sum(not row.get("removed", True) for row in rows)
    if delete:
        print(f"{total} removed" + (f"; {kept} stay, since a process uses them" if kept else ""))
    else:
        print(f"{total} may go; nothing was removed: the same command with --delete removes it")


def wanted_keys(store: Path, configs: list[str]) -> set[str]:
    """Keys that configurations name: of all their stages, and in their own text.

    configs: files; none: every one in deployments/. Of those that cannot be planned here, since
    data are not there, what has their name is wanted.

    Raises SteelError for a given one that cannot be planned.
    """
    from common.errors import SteelError, first_line
    from common.paths import ROOT, display
    from common.recipes import read_yaml
    from tasks.core.results.names import belonging

    wanted: set[str] = set()
    for path in configs or sorted(str(path) for path in (ROOT / "deployments").glob("*.yaml")):
        about = {} if configs else read_yaml(Path(path))
        if not configs and "name" not in about:
            continue  # a base that others inherit from
        try:
            wanted |= set(_keys_of(path, store))
        except SteelError as error:
            if configs:
                raise
            wanted |= belonging(store, str(about["name"]))
            reason = first_line(error)
            print(
                f"note: {display(path)} cannot be planned here; what has its name stays ({reason})",
                file=sys.stderr,
            )
    return wanted


def _keys_of(path: str, store: Path) -> Iterator[str]:
    from common.paths import resolve
    from common.reading.files import read_text
    from flows.config import load_pipeline
    from flows.graph import planned
    from tasks.core.results.entries import KEY

    yield from (row.key for row in planned(load_pipeline(path), store))
    yield from KEY.findall(read_text(resolve(path)))


def _size(num_bytes: int) -> str:
    from common.disk import format_bytes

    return format_bytes(num_bytes)
