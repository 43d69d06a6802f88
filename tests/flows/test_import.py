"""The command `steel import`."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from flows.cli import main
from tests.model.test_convert import published_tensors, write


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "source", published_tensors())
    assert main(["import", str(source), str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["routing"], report["exact"]) == ("reference_norm", True)

    other = tmp_path / "token"
    assert main(["import", str(source), str(other), "--routing", "token"]) == 0
    printed = capsys.readouterr()
    assert "train on before use" in printed.err
    assert AutoModelForCausalLM.from_pretrained(other).config.routing == "token"

    assert main(["import", str(tmp_path), str(tmp_path / "none")]) == 2
    assert "no config.json" in capsys.readouterr().err
