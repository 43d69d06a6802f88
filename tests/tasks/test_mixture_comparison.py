"""The comparison of mixtures: tests hold their level, and table and pictures say the same."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DataError
from corpus.benchmarks.scoring import score, wilson_interval
from model.train.run.folder import METRICS_FILE
from tasks.core.stage import StageResult
from tasks.core.theme import LIGHT
from tasks.mixture_comparison import MixtureComparisonConfig, mixture_comparison
from tasks.mixture_comparison.figures import accuracy_figure
from tasks.mixture_comparison.paired import SeedSpread, accuracy, difference, holm, mcnemar
from tasks.mixture_comparison.table import percent, shown_rows
from tasks.report.data import read_training
from tasks.report.learning_curves import curves_figure
from tasks.report.results import loss_text
from tests.tasks.running import RecordingTrack, run_stage

FIRST, SECOND = "table3-2-chinese", "table3-3-chinese-english"
SUBJECTS = {"law": 30, "physics": 20}


def folder_of_answers(folder: Path, right: np.ndarray, title: str = "C-Eval") -> StageResult:
    """A finished evaluation with these right answers."""
    (folder / "samples").mkdir(parents=True)
    names = [(subject, i) for subject, number in SUBJECTS.items() for i in range(number)]
    samples: list[dict[str, Any]] = [
        {
            "subject": subject,
            "index": index,
            "gold": "A",
            "choice": "A" if answered else "B",
            "truncated": False,
        }
        for (subject, index), answered in zip(names, right, strict=True)
    ]
    lines = "".join(json.dumps(sample) + "\n" for sample in samples)
    (folder / "samples" / "ceval.jsonl").write_text(lines)
    results = {"ceval": score(samples) | {"title": title}}
    (folder / "results.json").write_text(json.dumps(results))
    return StageResult(stage="evaluate", key=folder.name, folder=folder, manifest={})


def folder_of_training(folder: Path, losses: list[float]) -> StageResult:
    """A finished SFT with these losses."""
    folder.mkdir(parents=True)
    lines = [
        {"step": i, "time": 0.0, "metrics": {"train/loss": loss, "data/tokens": 100.0 * i}}
        for i, loss in enumerate(losses, 1)
    ]
    # As the trainer writes it: a step that is also validated has a second line.
    validated = {"validation/loss": 2.0, "data/tokens": 100.0 * len(losses)}
    lines.append({"step": len(losses), "time": 0.0, "metrics": validated})
    (folder / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return StageResult(
        stage="sft",
        key="k",
        folder=folder,
        manifest={"counts": {"conversations": 80, "english": 20}, "notes": {}, "label": ""},
    )


def answers(seed: int, share: float, num: int = sum(SUBJECTS.values())) -> np.ndarray:
    return np.random.default_rng(seed).random(num) < share


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr("tasks.report.data.count_parameters", lambda folder: 1_600_000)
    rng = np.random.default_rng(3)
    names = [f"{mixture}/{seed}" for mixture in (FIRST, SECOND) for seed in (1, 2)]
    shares = {FIRST: 0.3, SECOND: 0.6}
    return {
        "evaluations": {
            name: folder_of_answers(tmp_path / "e" / name, answers(i, shares[name[:-2]]))
            for i, name in enumerate(names)
        }
        | {"base": folder_of_answers(tmp_path / "e" / "base", answers(9, 0.25))},
        "trained": {
            name: folder_of_training(tmp_path / "t" / name, list(3 - rng.random(90)))
            for name in names
        },
    }


def table_of(tmp_path: Path, inputs: dict[str, Any], **config: Any) -> Any:
    config = {"mixtures": [FIRST, SECOND], "seeds": [1, 2], **config}
    run = run_stage(
        mixture_comparison, tmp_path / "out", MixtureComparisonConfig(**config), **inputs
    )
    return json.loads((run.folder / "table.json").read_text()), run


# --- the tests


@given(gained=st.integers(0, 40), lost=st.integers(0, 40))
def test_mcnemar_is_a_fair_coin(gained: int, lost: int) -> None:
    """Summed by hand: all splits of the tosses that are at least as uneven."""
    tosses = gained + lost
    uneven = abs(2 * gained - tosses)
    extreme = sum(math.comb(tosses, k) for k in range(tosses + 1) if abs(2 * k - tosses) >= uneven)
    assert mcnemar(gained, lost) == pytest.approx(extreme / 2**tosses)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(values: list[float]) -> None:
    adjusted = holm(dict(enumerate(values)))
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for rank, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
            if values[i] > level / (len(values) - rank):
                break
            rejected.add(i)
        # At the level itself rounding decides.
        close = {i for i in adjusted if math.isclose(adjusted[i], level)}
        assert {i for i in adjusted if adjusted[i] <= level} | close == rejected | close
    assert all(adjusted[i] >= p for i, p in enumerate(values))


@pytest.mark.parametrize(("seed_effect", "seeds"), [(0.0, 3), (0.05, 3), (0.05, 5)])
def test_equal_mixtures_differ_as_often_as_the_level_says(seed_effect: float, seeds: int) -> None:
    """Simulated trainings whose seeds and questions vary, and whose mixtures do not differ."""
    rng = np.random.default_rng(5)
    found, covered, runs = 0, 0, 1500
    for _ in range(runs):
        hardness = rng.beta(1.5, 3.0, 150)
        models = [
            np.stack(
                [
                    (rng.random(150) < np.clip(hardness + rng.normal(0, seed_effect), 0, 1))
                    for _ in range(seeds)
                ]
            ).astype(float)
            for _ in range(2)
        ]
        spread = SeedSpread.of(models)
        result = difference(models[1], models[0], spread)
        found += result.p < 0.05
        covered += result.low <= 0 <= result.high
        assert (result.p < 0.05) == (not result.low <= 0 <= result.high)
    assert 0.015 < found / runs < 0.075
    assert covered == runs - found


def test_one_training_each_ignores_how_much_seeds_vary_and_several_do_not() -> None:
    """The trap that seeds are for: two trainings of one mixture differ, and McNemar says so."""
    rng = np.random.default_rng(1)
    found = {"one": 0, "several": 0}
    for _ in range(300):
        trainings = [
            (rng.random(400) < 0.4 + rng.normal(0, 0.06)).astype(float)[None] for _ in range(6)
        ]
        found["one"] += difference(trainings[0], trainings[1], SeedSpread()).p < 0.05
        models = [np.concatenate(trainings[:3]), np.concatenate(trainings[3:])]
        found["several"] += difference(models[0], models[1], SeedSpread.of(models)).p < 0.05
    assert found["one"] > 60
    assert found["several"] < 25


def test_a_difference_that_is_there_is_found() -> None:
    rng = np.random.default_rng(2)
    models = [(rng.random((3, 400)) < share).astype(float) for share in (0.3, 0.45)]
    result = difference(models[1], models[0], SeedSpread.of(models))
    assert result.p < 0.01
    assert result.low < 0.15 < result.high
    single = difference(models[1][:1], models[0][:1], SeedSpread())
    assert single.p < 0.01
    assert (single.only_this or 0) - (single.only_first or 0) == round(400 * single.value)


@given(st.integers(1, 60), st.data())
def test_intervals_hold_their_value_and_stay_in_range(num: int, data: st.DataObject) -> None:
    bits = st.lists(st.booleans(), min_size=num, max_size=num)
    models = [
        np.array(data.draw(st.lists(bits, min_size=1, max_size=3)), dtype=float) for _ in range(2)
    ]
    spread = SeedSpread.of(models)
    own = accuracy(models[0], spread)
    assert 0 <= own.low <= own.value + 1e-12 and own.value - 1e-12 <= own.high <= 1
    if not spread.freedom:
        assert (own.low, own.high) == wilson_interval(models[0].sum(), num)
    both = difference(models[1], models[0], spread)
    assert -1 <= both.low <= both.high <= 1
    assert 0 <= both.p <= 1
    reverse = difference(models[0], models[1], spread)
    assert reverse.value == pytest.approx(-both.value)
    assert reverse.p == pytest.approx(both.p)


def test_the_same_answers_are_no_difference() -> None:
    right = answers(1, 0.5).astype(float)[None]
    for models in ([right, right], [np.concatenate([right, right])] * 2):
        result = difference(models[1], models[0], SeedSpread.of(models))
        assert (result.value, result.p) == (0.0, 1.0)


# --- the table


def test_figures_of_the_table_are_those_of_the_answers(
    tmp_path: Path, inputs: dict[str, Any]
) -> None:
    table, run = table_of(tmp_path, inputs)
    rows = {row["mixture"]: row for row in table["rows"]}
    shares = [answers(i, 0.3 if i < 2 else 0.6).mean() for i in range(4)]
    assert rows[FIRST]["accuracy"] == pytest.approx(np.mean(shares[:2]))
    assert rows[FIRST]["sd"] == pytest.approx(np.std(shares[:2], ddof=1))
    assert rows[SECOND]["by_seed"] == pytest.approx(shares[2:])
    assert rows[SECOND]["difference"] == pytest.approx(np.mean(shares[2:]) - np.mean(shares[:2]))
    assert rows[FIRST]["p"] is None and rows["base"]["p"] is None
    assert rows["base"]["interval_95"] == list(wilson_interval(answers(9, 0.25).sum(), 50))
    assert (rows[FIRST]["paper"], rows[SECOND]["paper"]) == (38.57, 39.21)
    assert {e["mixture"][:8] for e in table["paper_not_run"]} == {
        "table3-1",
        "table3-4",
        "table3-5",
    }
    assert rows[SECOND]["p_holm"] == rows[SECOND]["p"]  # of one comparison
    text = (run.folder / "table.md").read_text()
    assert f"| {percent(rows[SECOND]['accuracy'])} ± " in text
    assert "1,600,000 parameters" in text and "39.21" in text
    assert table["english"] == {FIRST: 0.25, SECOND: 0.25} and text.count("| 25.0 % |") == 2


def test_subjects_add_up_to_the_benchmark(tmp_path: Path, inputs: dict[str, Any]) -> None:
    table, run = table_of(tmp_path, inputs)
    with (run.folder / "by_subject.csv").open() as file:
        subjects = list(csv.DictReader(file))
    for row in table["rows"]:
        own = [s for s in subjects if s["mixture"] == row["mixture"]]
        assert {s["subject"]: int(s["questions"]) for s in own} == SUBJECTS
        right = sum(int(s["questions"]) * float(s["accuracy %"]) / 100 for s in own)
        assert right / 50 == pytest.approx(row["accuracy"], abs=1e-4)
    shown = run.track
    assert isinstance(shown, RecordingTrack)
    assert len(shown.tables["mixture-ablation by subject.json"]) == len(subjects)
    assert "by_subject.csv" in shown.artifacts


def test_a_failed_seed_is_named_and_the_others_count(
    tmp_path: Path, inputs: dict[str, Any]
) -> None:
    for part in inputs.values():
        del part[f"{SECOND}/2"]
    table, run = table_of(tmp_path, inputs, failed={f"{SECOND}/2": "out of memory"})
    assert table["statuses"][SECOND] == "1 of 2 seeds; seed 2 failed: out of memory"
    row = next(row for row in table["rows"] if row["mixture"] == SECOND)
    assert row["by_seed"] == [answers(2, 0.6).mean()] and row["sd"] is None
    assert row["p"] is not None  # with the spread of the mixture that was repeated
    assert "out of memory" in (run.folder / "table.md").read_text()


def test_a_first_mixture_without_a_model_leaves_accuracies_without_differences(
    tmp_path: Path, inputs: dict[str, Any]
) -> None:
    for part in inputs.values():
        del part[f"{FIRST}/1"], part[f"{FIRST}/2"]
    failed = {f"{FIRST}/{seed}": "no such set" for seed in (1, 2)}
    table, run = table_of(tmp_path, inputs, failed=failed)
    assert table["comparisons"] == 0
    rows = {row["mixture"]: row for row in table["rows"]}
    assert rows[FIRST]["accuracy"] is None and rows[SECOND]["accuracy"] > 0.4
    assert "not run" in (run.folder / "table.md").read_text()


def test_other_questions_and_damaged_answers_are_refused(
    tmp_path: Path, inputs: dict[str, Any]
) -> None:
    evaluation = inputs["evaluations"][f"{SECOND}/1"]
    path = evaluation.folder / "samples" / "ceval.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[1:], lines[0].replace('"index": 0', '"index": 77')]))
    with pytest.raises(DataError, match="asked other questions of ceval"):
        table_of(tmp_path, inputs)
    path.write_text("\n".join(line.replace('"choice": "A"', '"choice": "B"') for line in lines))
    with pytest.raises(DataError, match=r"does not have the right answers that results\.json"):
        table_of(tmp_path, inputs)


# --- the pictures


def test_the_picture_of_accuracies_says_what_the_table_says(
    tmp_path: Path, inputs: dict[str, Any]
) -> None:
    table, _ = table_of(tmp_path, inputs)
    (axes,) = accuracy_figure(table, LIGHT).axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == [row["ours %"] for row in shown_rows(table)]
    widths = [bar.get_width() for bar in axes.patches]
    assert [f"{width:.2f}" for width in widths] == texts
    lines = [
        " to ".join(f"{x:.2f}" for x in line.get_xdata())
        for line in axes.lines
        if line.get_linewidth() == 2 and len(line.get_xdata()) == 2
    ]
    assert lines == [row["95 % interval"] for row in shown_rows(table)]
    assert [label.get_text() for label in axes.get_yticklabels()] == [FIRST, SECOND, "base"]


def test_the_picture_of_losses_says_what_the_table_says(
    tmp_path: Path, inputs: dict[str, Any]
) -> None:
    table, run = table_of(tmp_path, inputs)
    runs = {
        mixture: [
            read_training(name, result)
            for name, result in inputs["trained"].items()
            if name.startswith(mixture)
        ]
        for mixture in (FIRST, SECOND)
    }
    figure = curves_figure(runs, LIGHT)
    assert figure is not None
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    losses = [loss_text(table["losses"][mixture]) for mixture in (FIRST, SECOND)]
    assert labels == [
        f"{mixture}, mean of 2: {loss} at the end"
        for mixture, loss in zip((FIRST, SECOND), losses, strict=True)
    ]
    assert all(f" | {loss} | done |" in (run.folder / "table.md").read_text() for loss in losses)
    _, by_tokens = figure.axes
    assert by_tokens.lines[0].get_xdata()[-1] == 9000
    plt.close("all")
