"""Sets of cleaning recipes (data_recipes/clean/<set>/<family>.yaml), and the key `changes`.

    data_recipes/clean/curated/   text.yaml ◀─base─ web.yaml, encyclopedia.yaml, …   code.yaml
    data_recipes/clean/paper/     text.yaml                                          code.yaml

A set that has no file for a family of text uses its `text.yaml`; code never does.

A recipe inherits by `base`, and as a list of operators is inherited whole or not at all, `changes`
says what is different in it:

    base: text.yaml
    changes:
      perplexity_filter: false                          # left out
      text_length_filter: {min_len: 5}                  # another parameter; the others stay
      quality_filter: {after: text_length_filter, …}    # added, or moved, behind that one
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from common.errors import ConfigError, shown
from common.names import NAME_WORDS, is_name
from common.paths import RECIPES, display
from common.ranges import Rule
from corpus.recipes import Family

CHANGES = "changes"
"""Key of a recipe for its differences from the operators that it inherits."""

PLACES = ("before", "after")
"""Keys of a change that name the operator beside which the changed one stands."""


def is_recipe_name(value: Any) -> bool:
    """Return True for `<set>/<file>`."""
    return isinstance(value, str) and value.count("/") == 1 and all(map(is_name, value.split("/")))


RecipeName = Annotated[
    str, Rule(is_recipe_name, "a cleaning recipe, `<set>/<file>` without .yaml, as in curated/web")
]
"""A cleaning recipe: the file `data_recipes/clean/<set>/<file>.yaml`."""


def recipe_file(name: str) -> Path:
    """The file of a cleaning recipe `<set>/<file>`. Raises ConfigError for what is no such name."""
    if not is_recipe_name(name):
        raise ConfigError(
            f"{shown(name)} is no cleaning recipe: write `<set>/<file>`, for example curated/web "
            f"for data_recipes/clean/curated/web.yaml (each of the two is {NAME_WORDS})"
        )
    return (RECIPES / "clean").joinpath(*name.split("/")).with_suffix(".yaml")


def has_set(name: str) -> bool:
    """Return True if data_recipes/clean has this set of recipes."""
    return is_name(name) and (RECIPES / "clean" / name).is_dir()


def recipe_of(set_name: str, family: Family) -> str:
    """The name of the recipe that a set has for a family.

    Raises ConfigError when there is no such set, or it has none for the family.
    """
    folder = RECIPES / "clean" / set_name
    if not has_set(set_name):
        known = sorted(path.name for path in (RECIPES / "clean").iterdir() if path.is_dir())
        raise ConfigError(
            f"recipes = {shown(set_name)}: data_recipes/clean has no such set of recipes. There "
            f"are: {', '.join(known)}. A set of your own is a folder there with text.yaml, "
            "code.yaml, or a file for a family"
        )
    for file in (family, *(("text",) if family != "code" else ())):
        if (folder / f"{file}.yaml").is_file():
            return f"{set_name}/{file}"
    wanted = "code.yaml" if family == "code" else f"{family}.yaml or text.yaml"
    raise ConfigError(
        f"recipes = {shown(set_name)}: {display(folder)} has no {wanted}. Add one, or name another "
        f"set's as clean.family_recipes.{family}, for example curated/{family}"
    )


def changed(process: list[Any], changes: Any, path: Path) -> list[Any]:
    """The operators of a recipe after its `changes` (see the top of the file).

    Args:
        process: entries of Data-Juicer's `process`, one name -> parameters each.
        changes: operator -> False, or its new parameters, with `before` or `after` for a place.
        path: the recipe's file, for messages.

    Raises:
        ConfigError: changes that cannot be made.
    """
    if not isinstance(changes, Mapping):
        raise ConfigError(f"{display(path)}: `{CHANGES}` must map operators to their changes")
    entries = [(_name(entry), entry) for entry in process]
    last_beside: dict[tuple[str, str], str] = {}
    removed = []
    for name, change in changes.items():
        where = f"{display(path)}: {CHANGES}.{name}"
        if change is False:
            removed.append(name)
            continue
        if not isinstance(change, Mapping | None):
            raise ConfigError(f"{where} must be `false` or a mapping of parameters")
        arguments = {k: v for k, v in (change or {}).items() if k not in PLACES}
        places = [(side, str(v)) for side, v in (change or {}).items() if side in PLACES]
        at = _find(entries, name, where)
        if len(places) > 1 or (at is None and not places):
            raise ConfigError(
                f"{where}: no operator of this name is inherited; say `before` or `after` which "
                "one it shall run" + (" (one of the two)" if places else "")
            )
        old: Mapping[str, Any] = {}
        if at is not None:
            entry = entries[at][1]
            old = (entry[name] if isinstance(entry, Mapping) else None) or {}
        new = (name, {name: {**old, **arguments} or None})
        if not places:
            assert at is not None
            entries[at] = new
            continue
        if at is not None:
            del entries[at]
        ((side, beside),) = places
        # Operators behind the same one stand in the order in which they are written.
        beside = last_beside.get((side, beside), beside) if side == "after" else beside
        place = _find(entries, beside, where)
        if place is None:
            raise ConfigError(f"{where}: there is no {beside!r} to run {side}")
        entries.insert(place + (side == "after"), new)
        last_beside[places[0]] = name
    return [entry for name, entry in entries if name not in removed]


def _name(entry: Any) -> str:
    return str(next(iter(entry), "")) if isinstance(entry, Mapping) else str(entry)


def _find(entries: list[tuple[str, Any]], name: str, where: str) -> int | None:
    """Place of an operator; None where it is not. Raises ConfigError where it is twice."""
    found = [at for at, (other, _) in enumerate(entries) if other == name]
    if len(found) > 1:
        raise ConfigError(f"{where}: {name} is there {len(found)} times; write out `process`")
    return found[0] if found else None
