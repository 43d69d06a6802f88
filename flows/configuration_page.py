"""Reference of all keys of a configuration, written from the code: docs/configuration.md.

    make docs        # python -m flows.configuration_page, into docs/configuration.md

One table for each group of keys: what a key accepts, its default, its value in
deployments/steel-1b.yaml (the paper's model) and the docstring that stands under the field. A test
compares the page with the code.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ranges
from common.config import dataclass_in, field_types
from common.files import write_text
from common.names import Name
from common.paths import ROOT
from common.ranges import Limit, expected, members, unwrapped
from common.recipes import read_yaml
from flows.config import PipelineConfig
from flows.forms.choices import short_number, value_at
from model.architecture import SteelArchitecture

PAGE = ROOT / "docs" / "configuration.md"
PAPERS = ROOT / "deployments" / "steel-1b.yaml"
UNBOUNDED = ranges.MOST_FLOAT
"""Bounds from here on say no more than "a number"."""

UNITS = {
    "bytes": "bytes",
    "tokens": "tokens",
    "seconds": "seconds",
    "minutes": "minutes",
    "steps": "steps",
    "epochs": "epochs",
    "samples": "samples",
    "documents": "documents",
    "characters": "characters",
    "dim": "dimensions",
    "processes": "processes",
}
"""Last word of a key -> its unit, where the word is one."""

UNITS_OF_KEYS = {
    "sequence_length": "tokens",
    "max_length": "tokens",
    "max_position_embeddings": "tokens",
    "eval_interval": "steps",
    "log_interval": "steps",
    "warmup_steps": "steps",
    "start_step": "steps",
    "micro_batch_size": "samples of a rank",
    "global_batch_size": "samples",
    "checkpoint_interval": "steps",
    "checkpoints.interval": "steps",
    "checkpoints.keep_every": "steps",
}
"""Keys, or ends of dotted keys, whose last word is no unit -> the unit."""

HEAD = """# Every key of a configuration

Written from the code by `make docs`; changes belong into the docstrings there. A configuration is
a YAML file like those of [deployments/](../deployments); `base: other.yaml` inherits another file,
and `--set pretrain.steps=60` changes a key for one run. Unknown keys, values out of range and
contradictions are refused before anything starts: `steel check` lists all at once. A change makes
anew the stages that [keys.md](keys.md) names; a key with **°** is not in a stage's key as it
stands, since it changes how a run works and not what comes out of it, or, for a model's folder and
the like, because its content counts in its place.

*Accepts* has type, bounds and unit. *Default* holds where the file says nothing (–: must be
stated). *steel-1b* is the value in [deployments/steel-1b.yaml](../deployments/steel-1b.yaml), the
paper's model and training where the paper states them (its departures are in that file's
comments); empty where that file leaves the default. A *name* has letters, digits, `_`, `-`, single
spaces inside and a dot only before a digit, at most 100 bytes. Names that differ in upper and
lower case alone are refused: they would be one folder on some disks.
"""


@dataclass(frozen=True)
class Group:
    """Keys that stand together in a configuration."""

    place: str
    """Dotted key of the group, `[]` for an entry of a list and `.*` for one of a mapping; "" for
    the keys at the top."""
    kind: type[Any]
    """The dataclass that declares them."""
    in_key: bool = True
    """False where the whole group is in no stage's key."""


def groups() -> list[Group]:
    """Groups of keys, each before those inside it, in the order of the fields."""
    return list(_groups(PipelineConfig, ""))


def _groups(kind: type[Any], place: str, in_key: bool = True) -> Iterator[Group]:
    yield Group(place, kind, in_key)
    hints = field_types(kind)
    for field in dataclasses.fields(kind):
        dotted = f"{place}.{field.name}".strip(".")
        for inside, inner in _inside(dotted, hints[field.name]):
            yield from _groups(inner, inside, in_key and _in_key(field))


def _inside(dotted: str, hint: Any) -> list[tuple[str, type[Any]]]:
    """Places of the groups that a key holds, and the dataclasses that declare them."""
    if dotted == "pretrain.model":  # by its type any mapping: another architecture's has other keys
        return [(dotted, SteelArchitecture)]
    return [(f"{dotted}{suffix}", inner) for suffix, inner in _inner(hint)]


def _in_key(field: "dataclasses.Field[Any]") -> bool:
    return bool(field.metadata.get("in_key", True))


def _inner(hint: Any) -> Iterator[tuple[str, type[Any]]]:
    """Dataclasses that a field holds, itself, as entries of a list, or as values of a mapping."""
    if (group := dataclass_in(hint)) is not None:
        yield "", group
        return
    for member in members(hint):
        kind, _ = unwrapped(member)
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            yield from ((f".*{end}", found) for end, found in _inner(arguments[1]))
        elif isinstance(origin, type) and issubclass(origin, Sequence) and arguments:
            yield from ((f"[]{end}", found) for end, found in _inner(arguments[0]))


def field_docs(kind: type[Any]) -> dict[str, str]:
    """Field of a dataclass -> the docstring under it, from the class or its nearest base."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                found[statement.target.id] = " ".join(following.value.value.split())
    return found


def unit(dotted: str, hint: Any) -> str:
    """Unit of a number; "" where it has none, or for what is no number."""
    if not any(unwrapped(member)[0] in (int, float) for member in members(hint)):
        return ""
    for end, named in UNITS_OF_KEYS.items():
        if dotted == end or dotted.endswith(f".{end}"):
            return named
    return UNITS.get(dotted.rpartition(".")[2].rpartition("_")[2], "")


def accepts(dotted: str, hint: Any) -> str:
    """Type, bounds and unit: `a whole number of at least 0, at most 4,096; steps`."""
    named = unit(dotted, hint)
    return f"{_kinds(hint)}{f'; {named}' if named else ''}"


def _kinds(hint: Any) -> str:
    return " or ".join(dict.fromkeys(map(_kind, members(hint))))


def _kind(member: Any) -> str:
    """Words for one alternative of a type, shorter than those of a refusal."""
    kind, declared = unwrapped(member)
    if member == Name:
        return "a name"
    if dataclass_in(member) is not None:
        return "a group of keys"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping to {_kinds(arguments[1])}"
    if isinstance(origin, type) and issubclass(origin, Sequence) and origin is not tuple:
        return f"a list, each {_kinds(arguments[0])}"
    bounds = [d.most for d in declared if isinstance(d, Limit) and d.most < UNBOUNDED]
    return expected(member) + (f", at most {min(bounds):,.12g}" if bounds else "")


def shown(value: Any) -> str:
    """A value as it is written in YAML, short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}".replace(",", "_") if abs(value) >= 10**5 else str(value)
    if isinstance(value, float):
        return short_number(value)
    if isinstance(value, Path):
        value = value.relative_to(ROOT).as_posix() if value.is_relative_to(ROOT) else str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value) if str(value) else '""'


def default(field: "dataclasses.Field[Any]") -> str:
    """Default of a field for the page; – where a configuration must state it."""
    if field.default is not dataclasses.MISSING:
        value: Any = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "–"
    if dataclasses.is_dataclass(value):
        return "below"
    return f"`{shown(value)}`"


def _papers(content: Mapping[str, Any], dotted: str) -> str:
    value = value_at(content, dotted)
    if value is None:
        return ""
    if isinstance(value, Mapping | list) and len(shown(value)) > 60:
        return "in the file"
    return f"`{shown(value)}`"


def _cell(text: str) -> str:
    """Text for a cell of a table: one line, and its bars are none of the table's."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def table(group: Group, papers: Mapping[str, Any]) -> Iterator[str]:
    """Lines of one group: heading, sentence, table."""
    yield f"## {f'`{group.place}`' if group.place else 'The file'}"
    yield ""
    first = (inspect.getdoc(group.kind) or "").partition("\n\n")[0]
    if first:
        yield " ".join(first.split())
        yield ""
    docs, hints = field_docs(group.kind), field_types(group.kind)
    yield "| key | accepts | default | steel-1b | meaning |"
    yield "|---|---|---|---|---|"
    for field in dataclasses.fields(group.kind):
        dotted = f"{group.place}.{field.name}".strip(".")
        hint = hints[field.name]
        inside = [place for place, _ in _inside(dotted, hint)]
        more = "".join(f" See [`{place}`](#{anchor(place)})." for place in inside)
        mark = "" if group.in_key and _in_key(field) else " **°**"
        cells = (
            f"`{field.name}`{mark}",
            accepts(dotted, hint),
            default(field),
            _papers(papers, dotted) if "*" not in dotted and not inside else "",
            docs.get(field.name, "") + more,
        )
        yield f"| {' | '.join(map(_cell, cells))} |"
    yield ""


def anchor(place: str) -> str:
    """Anchor that GitHub gives the heading of a group."""
    return re.sub(r"[^\w\- ]", "", place.lower())


def page() -> str:
    """The whole page, as Markdown."""
    papers = read_yaml(PAPERS)
    lines = [HEAD]
    for group in groups():
        lines += table(group, papers)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    write_text(PAGE, page())
