"""Examples in every `--help`: each parses, and names options, files and words that exist."""

import argparse
import re
import shlex

import pytest

from common.paths import ROOT
from common.recipes import apply_overrides, read_yaml
from flows.cli import parser
from flows.commands.examples import EXAMPLES

LINES = [(name, line) for name, lines in EXAMPLES.items() for line in lines]


def commands() -> dict[str, argparse.ArgumentParser]:
    found = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def test_every_command_has_examples_and_shows_them_line_by_line() -> None:
    assert commands().keys() == EXAMPLES.keys()
    for name, command in commands().items():
        text = command.format_help()
        for line in EXAMPLES[name]:
            assert f"\n  {line}\n" in text


@pytest.mark.parametrize(("name", "line"), LINES)
def test_an_example_is_a_command_that_could_be_typed(name: str, line: str) -> None:
    words = shlex.split(line)
    assert words[:2] == ["steel", name]
    arguments = parser().parse_args(words[1:])
    assert callable(arguments.run)
    for path in re.findall(r"\S+\.yaml", line):
        assert (ROOT / path).is_file(), path
        # Changes that an example makes fit the configuration that it names.
        apply_overrides(read_yaml(ROOT / path), getattr(arguments, "overrides", []))
    for option in re.findall(r"(?<!\S)--[a-z-]+", line):
        assert option in commands()[name]._option_string_actions


def test_names_in_examples_are_those_of_stages_and_recipes() -> None:
    from tasks.core.store import STAGES

    words = {word for _, line in LINES for word in shlex.split(line)}
    for word in words:
        if found := re.fullmatch(r"newest:(\w+)", word):
            assert found[1] in STAGES
    for line in EXAMPLES["data-ablation"]:
        for recipes in re.findall(r"--recipes (\S+)", line):
            for recipe in recipes.split(","):
                assert (ROOT / "data_recipes" / "clean" / recipe).is_dir()
    for line in EXAMPLES["contamination"]:
        for benchmark in re.findall(r"--benchmark (\S+)", line):
            assert (ROOT / "data_recipes" / "evals" / f"{benchmark}.yaml").is_file()
