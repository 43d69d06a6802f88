"""Choices and examples that forms offer: recipes and configurations of this project.

Read when the flows are imported, so `make up` lists what has been added since. A file that cannot
be read is left out here; who names it is told what is wrong with it.
"""

import functools
from collections.abc import Mapping
from typing import Any

from common.errors import SteelError
from common.paths import RECIPES, ROOT
from common.recipes import read_yaml

PAPERS = "steel-1b"
"""Configuration of the paper's model; its values are listed last."""

NOT_MADE = ("pretrain", "sft", "dpo")
"""Sections without which a configuration has no such training."""


def recipes(kind: str) -> tuple[str, ...]:
    """Names of the recipes of a kind: YAML files of its folder in data_recipes."""
    return tuple(sorted(path.stem for path in (RECIPES / kind).glob("*.yaml")))


def cleaning_sets() -> tuple[str, ...]:
    """Sets of cleaning recipes: folders of data_recipes/clean."""
    return tuple(sorted({path.parent.name for path in (RECIPES / "clean").glob("*/*.yaml")}))


def configurations() -> tuple[str, ...]:
    """Configurations that can be run: files of deployments/ that state a name."""
    return tuple(f"deployments/{name}.yaml" for name in sorted(_configurations()))


@functools.cache
def _configurations() -> Mapping[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for path in (ROOT / "deployments").glob("*.yaml"):
        try:
            content = read_yaml(path)
        except (SteelError, OSError):
            continue
        if content.get("name"):
            found[path.stem] = content
    return found


def configured(key: str, otherwise: str = "") -> str:
    """Values that the configurations give a key: `real-sample: 60; steel-1b: 1,070,000`.

    otherwise: what holds where they say nothing; those are left out where that is empty.
    """
    said: dict[str, list[str]] = {}
    for name in sorted(_configurations(), key=lambda name: (name == PAPERS, name)):
        value = value_at(_configurations()[name], key)
        if value is None or isinstance(value, Mapping):
            section = key.partition(".")[0]
            text = (
                "" if section in NOT_MADE and section not in _configurations()[name] else otherwise
            )
        else:
            text = _text(value)
        if text:
            said.setdefault(text, []).append(name)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in said.items())


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return short_number(value)


def value_at(data: Mapping[str, Any], dotted: str) -> Any:
    """The value of a configuration under `section.key`; None where there is none."""
    value: Any = data
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def short_number(value: float) -> str:
    """A number as people write it: 2e-3, 0.05, 1.5."""
    if value and abs(value) < 0.01:
        mantissa, _, exponent = f"{value:e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"
