"""The table of a data ablation: means and spreads as computed by hand, the best recipes first."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.core.stage import StageResult
from tasks.data_comparison import MEAN, DataComparisonConfig, data_comparison
from tests.tasks.running import run_stage

WIKI = {"paper/1": 2.0, "paper/2": 2.2, "curated/1": 1.5, "curated/2": 1.7}
CODE = {"paper/1": 1.0, "paper/2": 1.0, "curated/1": 1.2, "curated/2": 1.2}


def result(folder: Path, counts: dict[str, float]) -> StageResult:
    folder.mkdir(parents=True)
    return StageResult(stage="any", key="k", folder=folder, manifest={"counts": counts})


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    measured = {}
    for name in WIKI:
        measured[name] = result(tmp_path / "measured" / name, {})
        kinds = {"wiki": {"bits_per_byte": WIKI[name]}, "code": {"bits_per_byte": CODE[name]}}
        (measured[name].folder / "results.json").write_text(json.dumps(kinds))
    sizes = {"paper": 1000.0, "curated": 4000.0}
    return {
        "measured": measured,
        "models": {name: result(tmp_path / "models" / name, {"tokens": 8000.0}) for name in WIKI},
        "packed": {
            name: result(tmp_path / "packed" / name, {"tokens": size, "documents": size / 10})
            for name, size in sizes.items()
        },
        "cleaned": {
            name: result(tmp_path / "cleaned" / name, {"bytes_kept": 5 * size})
            for name, size in sizes.items()
        },
    }


def test_means_and_deviations_over_seeds(tmp_path: Path, inputs: dict[str, Any]) -> None:
    run = run_stage(data_comparison, tmp_path / "out", DataComparisonConfig(), **inputs)
    table = json.loads((run.folder / "table.json").read_text())
    curated, paper = table["rows"]
    assert (curated["recipes"], paper["recipes"]) == ("curated", "paper")
    assert paper["wiki"] == pytest.approx(2.1)
    assert paper["wiki ±"] == pytest.approx(0.2 / 2**0.5)
    assert paper["code ±"] == 0
    # Of each seed's mean over the kinds: 1.5 and 1.6.
    assert (paper[MEAN], paper[f"{MEAN} ±"]) == pytest.approx((1.55, 0.1 / 2**0.5))
    assert curated[MEAN] == pytest.approx(1.4)
    assert (curated["epochs"], paper["epochs"]) == (2.0, 8.0)
    assert table["runs"]["curated/2"] == {"wiki": 1.7, "code": 1.2}
    assert (run.folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert run.notes["best"] == "curated"


def test_recipes_without_a_corpus_are_named_with_the_reason(
    tmp_path: Path, inputs: dict[str, Any]
) -> None:
    config = DataComparisonConfig(failed={"strict": "skypile keeps no document"})
    run = run_stage(data_comparison, tmp_path / "out", config, **inputs)
    page = (run.folder / "table.md").read_text()
    assert "- strict: not compared, skypile keeps no document" in page
    assert page.index("curated") < page.index("| paper")


def test_one_seed_has_no_deviation(tmp_path: Path, inputs: dict[str, Any]) -> None:
    inputs["measured"] = {n: r for n, r in inputs["measured"].items() if n.endswith("/1")}
    run = run_stage(data_comparison, tmp_path / "out", DataComparisonConfig(), **inputs)
    table = json.loads((run.folder / "table.json").read_text())
    assert table["rows"][0]["wiki ±"] is None
    assert "±" not in (run.folder / "table.md").read_text().split("| --- |")[-1]
