"""Bad rows are named by `steel check`, before anything is trained, or left out and counted."""

from pathlib import Path

import pytest

from flows.cli import main
from flows.commands import BAD_INPUT, DONE
from tests.tiny_benchmarks import write_ceval

SMOKE = "deployments/smoke.yaml"


@pytest.fixture
def ceval(tmp_path: Path) -> Path:
    """C-Eval with a bad row in line 4 of a subject's scored questions."""
    folder = tmp_path / "ceval"
    write_ceval(folder, {"law": 2, "physics": 1})
    with (folder / "val" / "law_val.csv").open("a") as file:
        file.write('"7","q","1","2","","4","A"\n')
    return folder


def check(capsys: pytest.CaptureFixture[str], *overrides: str) -> tuple[int, str]:
    """Exit code of `steel check` and its message."""
    code = main(["check", SMOKE, *(word for o in overrides for word in ("--set", o))])
    return code, capsys.readouterr().err


def test_check_names_the_bad_row_or_lets_it_be_skipped(
    capsys: pytest.CaptureFixture[str], ceval: Path
) -> None:
    code, message = check(capsys, f"benchmarks.ceval={ceval}")
    assert code == BAD_INPUT
    assert f"{ceval}/val/law_val.csv, line 4: the option C is empty" in message
    assert "evaluate.on_bad_row: skip" in message
    assert message.count("error: ") == 1
    skip = "evaluate.on_bad_row=skip"
    assert check(capsys, f"benchmarks.ceval={ceval}", skip) == (DONE, "")
    # A file for which no row can be named is refused all the same.
    (ceval / "dev" / "law_dev.csv").write_text("")
    code, message = check(capsys, f"benchmarks.ceval={ceval}", skip)
    assert code == BAD_INPUT
    assert "law_dev.csv is empty" in message


def test_check_looks_at_splits_that_are_searched_for_in_training_texts(
    capsys: pytest.CaptureFixture[str], ceval: Path
) -> None:
    (ceval / "test").mkdir()
    (ceval / "test" / "law_test.csv").write_text("id,question,A,B,C,D\n0,q,a,b,c,d\n1,q,a,b,c\n")
    _, message = check(capsys, f"benchmarks.ceval={ceval}")
    assert "law_test.csv, line 3: 5 fields instead of 6" in message


def test_check_counts_worked_examples(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_ceval(tmp_path / "ceval", {"law": 2}, num_dev=3)
    overrides = [f"benchmarks.ceval={tmp_path / 'ceval'}", "evaluate.num_fewshot=9"]
    code, message = check(capsys, *overrides)
    assert code == BAD_INPUT
    assert "law has 3 worked examples (split dev) but num_fewshot is 9" in message


def test_check_looks_for_the_files_that_a_set_reads(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "alpaca.json").write_text('[{"instruction": "a", "output": "b"}]')
    code, message = check(capsys, f"sft_sets.ruozhiba={tmp_path}")
    assert code == BAD_INPUT
    assert "ruozhiba: none of its 1 files ('alpaca.json', …) is called like" in message
    (tmp_path / "more.zip").write_bytes(b"")  # known once it is unpacked
    assert check(capsys, f"sft_sets.ruozhiba={tmp_path}")[0] == DONE


def test_check_reads_small_sets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sft, pairs = tmp_path / "ruozhiba_qa.json", tmp_path / "pairs"
    sft.write_text('[{"instruction": "a", "output": "b"}, {"instruction": "a", "output": NaN}]')
    pairs.mkdir()
    (pairs / "dpo_zh_demo.json").write_text('[{"conversations": [], "chosen": null}]')
    overrides = [f"sft_sets.ruozhiba={sft}", "sft.on_bad_row=fail"]
    code, message = check(capsys, *overrides)
    assert code == BAD_INPUT
    assert "ruozhiba has a bad row: ruozhiba_qa.json, line 2: `output` is NaN" in message
    assert check(capsys, overrides[0]) == (DONE, "")  # left out and counted, unless one says so
    overrides = [f"preference_sets={{llamafactory_dpo_zh: {pairs}}}"]
    code, message = check(capsys, *overrides)
    assert code == BAD_INPUT
    assert "llamafactory_dpo_zh: none of its rows can be used: dpo_zh_demo.json, line 1" in message
