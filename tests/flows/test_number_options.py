"""Numbers of the command line: each option takes its own range, whatever the command."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import ConfigError
from flows.cli import main, parser
from flows.commands import BAD_INPUT, weights, whole_numbers

ENOUGH = {
    "verify-order": [],
    "append": ["a-run", "some-data"],
    "reschedule": ["a-run"],
    "profile": ["a-run"],
    "chat": ["a-model"],
    "export": ["a-model", "--to", "a-folder"],
    "review": [],
    "contamination": [],
    "kernel-ablation": [],
    "data-ablation": [],
    "mixture-ablation": ["a-config"],
    "plan": ["a-config"],
    "list": [],
    "gc": [],
}
"""Words that each command cannot do without."""

ODD = ["9" * 30, "9" * 5000, "-1", "nan", "inf", "1e400", "1.5x", "", "²", "0x10", "true", "1_0"]


def numbers() -> list[tuple[str, str]]:
    """Every option that takes one number, with its command."""
    commands = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return [
        (command, action.option_strings[0])
        for command, its in commands.choices.items()
        for action in its._actions
        if callable(action.type)
    ]


def message(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one message of a command that must refuse."""
    try:
        code: object = main(list(argv))
    except SystemExit as end:
        code = end.code
    output = capsys.readouterr()
    assert code == BAD_INPUT, output.err
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert len(output.err) < 600
    return output.err


def test_no_option_is_read_without_a_range() -> None:
    found = numbers()
    assert {command for command, _ in found} == set(ENOUGH)
    assert len(found) >= 12
    commands = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    kinds = [a.type for its in commands.choices.values() for a in its._actions]
    assert not {int, float} & set(kinds)


@pytest.mark.parametrize(("command", "option"), numbers())
def test_odd_numbers_are_refused_with_the_range(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ODD:
        error = message(capsys, command, *ENOUGH[command], f"{option}={text}")
        assert f"argument {option}: " in error
        assert "must be a" in error


def test_a_number_above_its_limit_is_told_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    error = message(capsys, "reschedule", "a-run", "--steps=1000000000000")
    assert "'1000000000000' must be a whole number of at least 1 (at most 10,000,000,000)" in error


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--simulate", "9999999999999999B"], "at most 4,882,800,000 of this length"),
        (["--simulate", "9" * 400], "is no number of blocks"),
        (["--simulate", "٣"], "is no number of blocks"),
        (["--simulate", "20k", "--append", "3@²"], "must look like MANIFEST@STEP"),
        (["--simulate", "20k", "--append", f"3@{'9' * 5000}"], "must look like MANIFEST@STEP"),
        (["--simulate", "20k", "--append", "9999B@3"], "cannot simulate"),
        (["--simulate", "20k", "--ranks", "9973,9967,9949"], "too large to verify"),
        (["--simulate", "20k", "--ranks", "0"], "of at least 1"),
        (["--simulate", "20k", "--restart", "-3"], "of at least 0"),
        (["--simulate", "20k", "--ranks", ",".join(["1"] * 1001)], "at most 1,000"),
        (["--simulate", "20k", "--weight", "skypile=nan"], "must look like SOURCE=EPOCHS"),
        (["--simulate", "20k", "--weight", "skypile=1e9"], "EPOCHS is at most 1,000,000"),
        (["--simulate", "20k", "--weight", "=1"], "must look like SOURCE=EPOCHS"),
    ],
)
def test_an_order_that_cannot_be_verified_is_refused_at_once(
    argv: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert part in message(capsys, "verify-order", *argv)


def test_numbers_are_read_as_they_are_written() -> None:
    assert whole_numbers("--ranks", "8,4,8") == [8, 4, 8]
    assert whole_numbers("--restart", "0", least=0) == [0]
    assert weights(["a=1", "b=0.5", "c=0"]) == {"a": 1.0, "b": 0.5, "c": 0.0}
    with pytest.raises(ConfigError, match="'a' is given twice"):
        weights(["a=1", "a=2"])
    given = parser().parse_args(["verify-order", "--seed=7", "--validation-fraction=.25"])
    assert (given.seed, given.validation_fraction) == (7, 0.25)
    assert parser().parse_args(["reschedule", "a", "--decay-at=now"]).decay_at == "now"


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_message_is_refused_and_nobody_waits_for_input(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--prompt is empty" in message(capsys, "chat", "a-model", "--prompt", text)


@pytest.mark.parametrize("name", ["STEEL_PREFECT_PORT", "STEEL_MLFLOW_PORT"])
@pytest.mark.parametrize("value", ["abc", "0", "65536", "9" * 5000, "-1", "4200.0"])
def test_a_wrong_port_is_one_message(name: str, value: str, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import flows.environment"],
        cwd=root,
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
    )
    assert done.returncode == BAD_INPUT
    assert done.stderr.startswith(f"error: environment variable {name} = '{value[:80]}'; ")
    assert done.stderr.count("\n") == 1
