"""`steel contamination`: benchmark questions in training texts, printed to be judged."""

import json
from pathlib import Path

import pytest

from common.files import json_line, write_json
from flows.cli import main


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for stage, name in (("contamination", "matches.jsonl"), ("sft", "contamination.jsonl")):
        folder = tmp_path / stage / f"{stage}-key"
        folder.mkdir(parents=True)
        rows = [
            {
                "id": f"{stage}/a#{n}",
                "benchmark": ("ceval", "mmlu")[n % 2],
                "question_id": f"law/val/{n}",
                "overlap": 0.9,
                "question": "第一行\n选项",
                "excerpt": "一段原文",
            }
            for n in range(6)
        ]
        (folder / name).write_bytes(b"".join(map(json_line, rows)))
        manifest = {"schema": 1, "stage": stage, "key": f"{stage}-key"}
        write_json(folder / "manifest.json", manifest)
    return tmp_path


def test_matches_are_printed_with_their_passages(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["contamination", str(store), "--number", "3"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("12 matches; 3 of them:")
    assert text.count("一段原文") == text.count("    第一行\n    选项") == 3
    assert main(["contamination", str(store), "--number", "3"]) == 0
    assert capsys.readouterr().out == text, "the same draw"
    arguments = ["--stage", "sft-k", "--benchmark", "mmlu", "--json"]
    assert main(["contamination", str(store), *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["matches"] == 3
    assert {m["stage"] for m in found["shown"]} == {"sft/sft-key"}


def test_a_stage_that_is_not_there_is_refused(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["contamination", str(store), "--stage", "pack"]) == 2
    assert "contamination/contamination-key" in capsys.readouterr().err
