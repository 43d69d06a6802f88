"""Commands, options, paths, modules and config keys that messages and docs name must exist.

Checked in every tracked text: Markdown whole, YAML and Makefile whole, strings and comments of
Python. History is left alone (docs/LOG.md, CHANGELOG.md).
"""

import argparse
import dataclasses
import functools
import io
import re
import subprocess
import tokenize
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from common.paths import ROOT

TOP = ("flows", "tasks", "corpus", "model", "common", "tests", "benchmarks")
FOLDERS = (*TOP, "deployments", "data_recipes", "docs")
HISTORY = ("docs/LOG.md", "docs/LOG-2026-11-23.md", "CHANGELOG.md")
"""They tell what was, under the names of then."""
ON_PURPOSE = (
    "tests/test_references.py",
    "tests/flows/test_bad_input.py",
    "tests/flows/test_problems.py",
    "tests/common/test_config.py",
)
"""Tests that name what does not exist."""

PATH = re.compile(rf"(?<![\w/.\-$}}>])((?:{'|'.join(FOLDERS)})/[\w./*\-]+)(?![\w./*\-<{{])")
SPAN = re.compile(r"`([^`\n]+)`")
MAKE = re.compile(r"^(?:time )?make ([a-z][a-z-]*)")
STEEL = re.compile(r"^(?:\.venv/bin/)?steel ([a-z][a-z-]*)(.*)")
MODULE = re.compile(rf"-m ((?:{'|'.join(TOP)})(?:\.\w+)+)")
DEPLOYMENT = re.compile(r"(?<![\w/.-])steel/([a-z][a-z-]+)(?![\w/.-]*\.\w)")
OPTION = re.compile(r"(?<!\S)(--[a-z][a-z-]*)")
SHOWN = re.compile(r"`([\w./-]+)`:\n\n```")
"""A file whose content follows."""
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PLACE = re.compile(r"\]\(([^)#\s]*)#([^)\s]+)\)")


def tracked() -> list[Path]:
    """Text files under version control, history excepted."""
    names = subprocess.run(
        ["git", "ls-files", "*.md", "*.py", "*.yaml", "*.sh", "*.sbatch", "Makefile", ".ci/run"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    return [ROOT / name for name in names if name not in HISTORY and (ROOT / name).is_file()]


@functools.cache
def prose(path: Path) -> str:
    """The text of a file that people read: all of it, or a program's strings and comments."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return text
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    kinds = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)}
    return "\n".join(token.string for token in tokens if token.type in kinds)


def commands(text: str) -> Iterator[str]:
    """Code spans, and the lines of code blocks, without prompts and trailing comments."""
    inside = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
        elif inside or line.startswith("    "):
            yield line.strip().removeprefix("$ ").split("  #")[0]
        else:
            yield from SPAN.findall(line)


@functools.cache
def subcommands() -> dict[str, set[str]]:
    """The options of every `steel` command."""
    from flows.cli import parser

    choices = next(
        action.choices
        for action in parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return {name: set(sub._option_string_actions) for name, sub in choices.items()}


@functools.cache
def targets() -> set[str]:
    """The Makefile's targets."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@functools.cache
def deployments() -> set[str]:
    """Names of the flow's deployments."""
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    return {deployment["name"] for deployment in content["deployments"]}


@functools.cache
def exists(path: str) -> bool:
    """True for a path or pattern below the root; names may lack a suffix (docs/adr/0004)."""
    return any(ROOT.glob(path)) or any(ROOT.glob(f"{path}[-.]*"))


def missing_paths(text: str) -> Iterator[str]:
    """Repository paths that do not exist, and that the page does not tell its reader to write."""
    shown = set(SHOWN.findall(text))
    for found in PATH.findall(text):
        path = found.rstrip(".,:;-")
        if path in shown:
            continue
        if path.startswith("benchmarks/results/"):
            continue  # what a benchmark will write
        if path.startswith("model/") and not path.endswith((".py", "/")):
            continue  # a run's own folder model/ has files, too
        if path.endswith("/") and path.count("/") == 1:
            continue
        if not exists(path.rstrip("/")):
            yield f"path {path}"


def missing_commands(text: str) -> Iterator[str]:
    """Make targets, commands, options, modules and deployments that do not exist."""
    for command in commands(text):
        if (made := MAKE.match(command)) and made[1] not in targets():
            yield f"`make {made[1]}`"
        if called := STEEL.match(command):
            if called[1] not in subcommands():
                yield f"`steel {called[1]}`"
            else:
                known = subcommands()[called[1]]
                yield from (
                    f"`steel {called[1]} {option}`"
                    for option in OPTION.findall(called[2])
                    if option not in known
                )
    for module in MODULE.findall(text):
        place = ROOT / module.replace(".", "/")
        if not place.with_suffix(".py").exists() and not (place / "__main__.py").exists():
            yield f"module {module}"
    for name in DEPLOYMENT.findall(text):
        if name not in deployments():
            yield f"deployment steel/{name}"


def fields_of(kind: object) -> dict[str, object] | None:
    """Fields of a dataclass, or of the dataclass among the members of a union; None otherwise."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return next(filter(None, map(fields_of, typing.get_args(kind))), None)
    if typing.get_origin(kind) is typing.Annotated:
        return fields_of(typing.get_args(kind)[0])
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return dict(typing.get_type_hints(kind, include_extras=True))
    return None


def missing_keys(text: str) -> Iterator[str]:
    """Dotted config keys, in code spans or after `--set`, that a pipeline does not have."""
    from flows.config import PipelineConfig

    top = fields_of(PipelineConfig) or {}
    spans = [span for span in SPAN.findall(text) if re.fullmatch(r"\w+(\.\w+)+(=.*)?", span)]
    for span in [*spans, *re.findall(r"--set ['\"]?(\w+(?:\.\w+)+)=", text)]:
        keys = span.partition("=")[0].split(".")
        fields: dict[str, object] | None = top
        if keys[0] not in top or keys[-1] in (
            "py",
            "yaml",
            "json",
            "jsonl",
            "md",
            "parquet",
            "html",
        ):
            continue
        for key in keys:
            if fields is None:
                break  # a mapping with free keys
            if key not in fields:
                yield f"config key {span}"
                break
            fields = fields_of(fields[key])


@pytest.mark.parametrize("check", [missing_paths, missing_commands, missing_keys])
def test_everything_that_is_named_exists(check: Callable[[str], Iterator[str]]) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {what}"
        for path in tracked()
        if path.relative_to(ROOT).as_posix() not in ON_PURPOSE
        for what in dict.fromkeys(check(prose(path)))
    ]
    assert not found, "\n".join(found)


def test_links_between_pages_lead_somewhere() -> None:
    found = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in ROOT.rglob("*.md")
        if ".venv" not in page.parts
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not found, "\n".join(found)


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives the headings of a page: lower case, punctuation left out."""
    found: set[str] = set()
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        inside ^= line.startswith("```")
        if not inside and re.match(r"#{1,6} ", line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line.lstrip("#").strip())
            found.add(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return found


def test_links_to_places_on_pages_lead_to_headings() -> None:
    found = [
        f"{page.relative_to(ROOT)}: {target}#{place}"
        for page in tracked()
        if page.suffix == ".md"
        for target, place in PLACE.findall(page.read_text(encoding="utf-8"))
        if "://" not in target
        and (not target or target.endswith(".md"))
        and place not in anchors(page.parent / target if target else page)
    ]
    assert not found, "\n".join(found)


def test_what_does_not_exist_is_found() -> None:
    """The check itself, on names that nobody has."""
    text = "Run `make setup`, then `steel cheque X --storre y` and `steel run X --storre y`.\n"
    assert list(missing_commands(text)) == [
        "`make setup`",
        "`steel cheque`",
        "`steel run --storre`",
    ]
    assert list(missing_commands("python -m model.entry.nothing, steel/pretrian")) == [
        "module model.entry.nothing",
        "deployment steel/pretrian",
    ]
    assert list(missing_paths("(tasks/nothing.py, flows/steel.py, model/data)")) == [
        "path tasks/nothing.py"
    ]
    assert (
        list(missing_keys("`pretrain.helth.spike` and --set pack.nothing=1, `pack.sources`")) != []
    )
