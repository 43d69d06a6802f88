"""An index is made once for the same questions, and again when anything changes."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from corpus.decontaminate import ContaminationConfig, Index, build_index, cached, cached_index
from tests.corpus.decontaminate.planted import CONFIG, FOUND, asked, write_benchmarks


def test_it_is_made_once_and_again_when_a_file_or_the_rules_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evals, cache = tmp_path / "evals", tmp_path / "cache"
    write_benchmarks(evals, FOUND)
    made, path = cached_index(evals, (), CONFIG, cache)
    calls: list[Path] = []

    def counted(folder: Path, names: Sequence[str], config: ContaminationConfig) -> Index:
        calls.append(folder)
        return build_index(folder, names, config)

    monkeypatch.setattr(cached, "build_index", counted)
    again, same = cached_index(evals, (), CONFIG, cache)
    assert (same, calls) == (path, [])
    assert again.questions == made.questions
    assert [again.find(asked(q)) for q in FOUND] == [made.find(asked(q)) for q in FOUND]
    assert cached_index(evals, (), ContaminationConfig(overlap=0.7), cache)[1] != path
    assert cached_index(evals, ("mmlu",), CONFIG, cache)[1] != path
    file = next((evals / "ceval").rglob("*.csv"))
    file.write_text(file.read_text().replace("真空", "空气"))
    assert cached_index(evals, (), CONFIG, cache)[1] != path
    assert len(calls) == 3


@pytest.mark.parametrize("damage", ["half", "alone"])
def test_what_an_interrupted_process_left_is_made_again(tmp_path: Path, damage: str) -> None:
    evals, cache = tmp_path / "evals", tmp_path / "cache"
    write_benchmarks(evals, FOUND)
    _, path = cached_index(evals, (), CONFIG, cache)
    content = path.read_bytes()
    if damage == "half":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.with_suffix(".json").unlink()
    index, _ = cached_index(evals, (), CONFIG, cache)
    assert index.find(asked(FOUND[0]))
    assert path.read_bytes() == content


def test_rows_that_are_no_questions_are_named_from_the_cache_too(tmp_path: Path) -> None:
    evals, cache = tmp_path / "evals", tmp_path / "cache"
    write_benchmarks(evals, FOUND)
    file = next((evals / "ceval").rglob("*.csv"))
    file.write_text(file.read_text() + "1,只有题干\n")
    made, _ = cached_index(evals, (), CONFIG, cache)
    again, _ = cached_index(evals, (), CONFIG, cache)
    assert made.bad_rows and again.bad_rows == made.bad_rows


def test_a_process_that_loads_an_index_makes_no_tables(tmp_path: Path, root: Path) -> None:
    evals, cache = tmp_path / "evals", tmp_path / "cache"
    write_benchmarks(evals, FOUND)
    _, path = cached_index(evals, (), CONFIG, cache)
    program = (
        "import sys; from pathlib import Path; from corpus.decontaminate import Index\n"
        "index = Index.load(Path(sys.argv[1]))\n"
        "assert index.find(sys.argv[2])\n"
        "assert 'opencc' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(path), asked(FOUND[0])], cwd=root, check=True
    )
