"""Names of flow runs: `pretrain smoke, 60 steps, lr 2e-3`, unless the user has named the run.

The page fills its name field with two random words, and the server makes up two more for a run
without a name: a run that has such a name gets a telling one. A name that looks made up and may be
somebody's (two capitalised words, say) is kept in brackets.
"""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from common.errors import SteelError
from common.paths import resolve
from common.recipes import apply_overrides, read_yaml
from common.redaction import is_secret_name, redact
from flows.forms.choices import short_number, value_at

MAX_NAME = 120
"""Characters of a name: a line of the page's list of runs."""
MAX_WORD = 40
"""Characters of one part of it."""
MAX_PARTS = 6

GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|omicron|pi|rho|sigma|tau"
    "|upsilon|phi|chi|psi|omega"
)
STAR = re.compile(rf"(?:{GREEK})\d{{1,3}}-[a-z]+(?:-[a-z]+){{0,3}}")
"""The page's names: a star's, often with one more word."""
LIKELY = re.compile(
    rf"(?:{GREEK})-[a-z]+(?:-[a-z]+){{0,3}}"  # some of its stars have no number
    r"|[A-Z][a-z]+(?:[ -][A-Z]?[a-z]+)*-[A-Z][A-Za-z' -]+"  # its second version: of animals
)
"""Names that the page may have made up, or a user."""

WORDS: Mapping[str, Callable[[Any], str]] = {
    "stages": lambda value: " + ".join(value),
    "fraction": lambda value: f"{100 * value:g} % of each corpus",
    "limit": lambda value: f"{value:,} records of each corpus",
    "recipes": lambda value: f"{_list(value)} recipes",
    "steps": lambda value: f"{value:,} steps",
    "learning_rate": lambda value: f"lr {short_number(value)}",
    "length": lambda value: "" if value == "keep" else "more steps",
    "routing": str,
    "mixture": str,
    "mixtures": lambda value: f"{len(value)} mixtures" if len(value) > 2 else _list(value),
    "epochs": lambda value: f"{value:g} epoch{'' if value == 1 else 's'}",
    "seeds": lambda value: f"{len(value)} seeds" if len(value) > 4 else f"seeds {_list(value)}",
    "parallel": lambda value: f"{value} at once" if value > 1 else "",
    "base_model": lambda value: f"from {_folder(value)}",
    "policy_model": lambda value: f"from {_folder(value)}",
    "model": lambda value: _folder(value),
    "run": lambda value: f"of {_folder(value)}",
    "beta": lambda value: f"beta {value:g}",
    "benchmarks": lambda value: _list(value),
    "watch": lambda value: "as they are written" if value else "",
    "routings": lambda value: _list(value),
    "experiments": lambda value: f"columns {_list(value)}",
    "num_processes": lambda value: f"{value} GPU{'' if value == 1 else 's'}",
    "timed_steps": lambda value: f"{value:,} steps",
}
"""Parameter -> words for its value; empty words are left out."""
CONFIGURED: Mapping[str, Mapping[str, str]] = {
    "pretrain": {"steps": "pretrain.steps", "learning_rate": "pretrain.learning_rate"},
    "sft": {"epochs": "sft.epochs", "learning_rate": "sft.learning_rate"},
    "dpo": {"beta": "dpo.beta", "learning_rate": "dpo.learning_rate"},
    "data_ablation": {"steps": "pretrain.steps"},
}
"""Function -> parameters whose value the configuration tells where the field is empty."""
SETTINGS = ("config", "store", "overrides")


def run_name() -> str:
    """Name of the flow run that begins: its own if the user gave it one, else a telling one."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    assert context is not None and context.flow is not None and context.flow_run is not None
    given = str(context.flow_run.name)
    try:
        likely = LIKELY.fullmatch(given) is not None
        if not likely and not is_made_up(given):
            return given
        name = telling_name(context.flow.fn.__name__, context.parameters or {})
        return f"{name} ({given})" if likely else name
    except Exception:  # of a name no run may die
        return given


@functools.cache
def _made_up_words() -> frozenset[str]:
    """All words that Prefect makes names of."""
    from coolname.data import config

    parts: Any = config.values()
    found: set[str] = set()
    for part in parts:
        for words in (*part.get("words", ()), *part.get("phrases", ())):
            found.update(words.split() if isinstance(words, str) else words)
    return frozenset(found)


def is_made_up(name: str) -> bool:
    """True for a name that Prefect or its page has made up."""
    words = name.split("-")
    known = _made_up_words()
    return bool(STAR.fullmatch(name)) or (len(words) > 1 and all(word in known for word in words))


def telling_name(function: str, parameters: Mapping[str, Any]) -> str:
    """Name of a run by what it was asked for; at most `MAX_NAME` characters, without secrets.

    function: of the flow; parameters: what it is called with, empty ones included.
    """
    asked = {**parameters, **_configured(function, parameters)}
    head = function.replace("_", "-")
    if config := parameters.get("config"):
        head += f" {PurePath(str(config)).stem}"
    parts = [
        WORDS[name](value) if name in WORDS else f"{name} {value}"
        for name, value in asked.items()
        if name not in SETTINGS and value is not None and value != [] and value != ""
    ]
    parts += [_change(str(change)) for change in parameters.get("overrides") or []]
    parts = [_short(part, MAX_WORD) for part in parts if part]
    if len(parts) > MAX_PARTS:
        parts = [*parts[:MAX_PARTS], "…"]
    return _short(", ".join([_short(head, MAX_WORD + 20), *parts]), MAX_NAME)


def _configured(function: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the configuration for fields that were left empty, as far as its file says them."""
    empty = {
        name: key
        for name, key in CONFIGURED.get(function, {}).items()
        if parameters.get(name) is None
    }
    if not empty:
        return {}
    try:
        read = read_yaml(resolve(str(parameters.get("config"))))
        read = apply_overrides(read, parameters.get("overrides") or [])
    except SteelError:  # the run itself says what is wrong
        return {}
    found: dict[str, Any] = {}
    for name, key in empty.items():
        value = value_at(read, key)
        if isinstance(value, int | float) and not isinstance(value, bool) and value:
            found[name] = value
    return found


def _change(change: str) -> str:
    """A change to the configuration, by its key's last part; a secret's value is hidden."""
    key, equals, value = change.partition("=")
    name = key.rpartition(".")[2]
    return f"{name}{equals}{'***' if is_secret_name(name) else redact(value)}"


def _list(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _folder(value: Any) -> str:
    return "/".join(PurePath(str(value)).parts[-2:])


def _short(text: str, most: int) -> str:
    text = "".join(c if c.isprintable() else " " for c in redact(text)).strip()
    return text if len(text) <= most else f"{text[: most - 1]}…"
