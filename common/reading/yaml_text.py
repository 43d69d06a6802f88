"""YAML as plain values: text, numbers, true, false, null, lists, and mappings whose keys are text.

    text ──events──▶ bytes, nodes, depth, aliases counted ──▶ values, or a YAMLError that says why

Everything is counted on the parser's events, before anything is built: an alias counts as all that
it stands for, so nine lines of aliases to aliases are refused and not expanded. What YAML 1.1, YAML
1.2 and people read differently is refused by name: yes/no/on/off, numbers with a leading 0, clock
times, dates, merge keys, tags. Numbers: `3`, `1_000`, `0.5`, `1e-3`, `.inf`, `.nan`.
"""

import re
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    ScalarEvent,
)

from common.errors import shown

MAX_NODES = 100_000
"""Keys and values in a file, each alias counted as all that it stands for."""
MAX_DEPTH = 40
"""Lists and mappings within each other."""
MAX_KEY = 1024
"""Characters of a key."""
MAX_DIGITS = 300
"""Digits of a whole number."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAG = "tag:yaml.org,2002:"
_AMBIGUOUS = "tag:ambiguous"
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)$")
_FLOAT = re.compile(
    r"""[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)\.[0-9]*(?:[eE][-+]?[0-9]+)?$
    |[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)[eE][-+]?[0-9]+$
    |[-+]?\.[0-9]+(?:[eE][-+]?[0-9]+)?$
    |[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$""",
    re.X,
)
_SURPRISES = (
    (re.compile(r"(?:yes|no|on|off)$", re.I), "true or false in YAML 1.1, and text in YAML 1.2"),
    (re.compile(r"[-+]?0[0-9_]+$"), "an octal number in YAML 1.1, and a decimal one in YAML 1.2"),
    (re.compile(r"[-+]?0[xob][0-9a-fA-F_]+$"), "a number in one version of YAML and not in others"),
    (
        re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?$"),
        "a number to the base 60 in YAML 1.1, and text in YAML 1.2",
    ),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?$"), "a date in YAML 1.1"),
    (re.compile(r"<<$"), "a merge key, which is not read; a file takes over another by `base:`"),
    (re.compile(r"=$"), "a key of its own in YAML 1.1"),
)
"""Plain texts that are refused, and what others read in them."""

_ANY_SURPRISE = re.compile("|".join(f"(?:{p.pattern})" for p, _ in _SURPRISES), re.I)


class _Loader(_Base):  # type: ignore[misc]
    """A SafeLoader with resolvers of its own; refuses keys that are no text or given twice."""

    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refused("a key must be text, not a list or a mapping", key_node)
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _refused(f"key {key_node.value} is no text: put it in quotes", key_node)
            if len(key) > MAX_KEY:
                raise _refused(f"a key has {len(key):,} characters, at most {MAX_KEY}", key_node)
            if key in seen:
                raise _refused(f"key {key!r} is given twice", key_node)
            seen.add(key)
        return dict(super().construct_mapping(node, deep=deep))


def _int(loader: Any, node: yaml.ScalarNode) -> int:
    digits = node.value.replace("_", "")
    if len(digits) > MAX_DIGITS:
        raise _refused(f"a number has {len(digits):,} digits, at most {MAX_DIGITS}", node)
    return int(digits)


def _float(loader: Any, node: yaml.ScalarNode) -> float:
    text = node.value.replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _text(loader: Any, node: yaml.ScalarNode) -> str:
    text = str(node.value)
    if not _is_unicode(text):
        raise _refused("a text holds half of a character", node)
    return text


def _surprise(loader: Any, node: yaml.ScalarNode) -> Any:
    what = next(words for pattern, words in _SURPRISES if pattern.match(node.value))
    if node.value.lower() in ("yes", "no", "on", "off"):
        remedy = "write true or false, or put it in quotes"
    else:
        remedy = "put it in quotes for the text, or write the plain number"
    raise _refused(f"{shown(node.value)} is {what}: {remedy}", node)


for _tag, _pattern, _first in (
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
):
    _Loader.add_implicit_resolver(_TAG + _tag, _pattern, list(_first))
_Loader.add_implicit_resolver(_AMBIGUOUS, _ANY_SURPRISE, list("yYnNoO-+0123456789<="))
_Loader.add_constructor(_TAG + "int", _int)
_Loader.add_constructor(_TAG + "float", _float)
_Loader.add_constructor(_TAG + "str", _text)
_Loader.add_constructor(_AMBIGUOUS, _surprise)


def parse_yaml(text: str) -> Any:
    """The value in a YAML text of one document; None where it is empty.

    Raises yaml.YAMLError that says what is wrong, where, and how to write it.
    """
    if not _is_unicode(text):
        raise yaml.YAMLError("it holds half of a character")
    _check_events(text)
    # A SafeLoader with more checks, so as safe as safe_load.
    return yaml.load(text, Loader=_Loader)  # noqa: S506


def _check_events(text: str) -> None:
    """Raise YAMLError for too many nodes or levels, tags, a second document, endless aliases."""
    depth = nodes = documents = 0
    sizes: dict[str, int] = {}
    open_anchors: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=_Base):  # type: ignore[no-untyped-call]
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _refused("there is more than one document (a second `---`)", event)
        elif isinstance(event, AliasEvent):
            if event.anchor not in sizes:
                raise _refused(
                    f"alias *{str(event.anchor)[:80]} is within or before its anchor", event
                )
            nodes += sizes[event.anchor]
        elif isinstance(event, ScalarEvent | CollectionStartEvent):
            nodes += 1
            if event.tag is not None:
                tag = event.tag.replace(_TAG, "!!")[:80]
                raise _refused(f"the tag {tag} is not read: write the plain value", event)
            if isinstance(event, CollectionStartEvent):
                depth += 1
                open_anchors.append((event.anchor, nodes - 1))
            elif event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
            anchor, before = open_anchors.pop()
            if anchor is not None:
                sizes[anchor] = nodes - before
        if depth > MAX_DEPTH:
            raise _refused(f"lists and mappings are nested more than {MAX_DEPTH} deep", event)
        if nodes > MAX_NODES:
            raise _refused(
                f"there are more than {MAX_NODES:,} keys and values, aliases (*x) expanded", event
            )


def _refused(problem: str, node: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text) if not text.isascii() else True
