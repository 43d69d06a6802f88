"""Table 2: every row says what was measured or why not, and ratios are to the same machine."""

import dataclasses
import json
from pathlib import Path

import pytest

from common.config import validate
from common.errors import ConfigError
from model.train.throughput.measure import Result
from model.train.throughput.variants import OURS, PLAIN, STEEL_1B, Variant
from tasks import throughput as throughput_module
from tasks.core.manifest import StageResult
from tasks.core.paper.table2 import format_page, format_row, measured_table, paper_row
from tasks.core.paper.tables import load_table2
from tasks.core.stage import stage_key
from tasks.kernel_table import KernelTableConfig, kernel_table
from tasks.throughput import ThroughputConfig, throughput
from tests.tasks.running import run_stage

PAPER = load_table2()
TINY = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}


def measured(speed: float, memory: float) -> Result:
    return Result(
        status="done",
        device="GPU X",
        num_devices=2,
        parameters=1_840_000_000,
        tokens_per_second_per_device=speed,
        memory_gb=memory,
        mfu_datasheet=0.5,
        mfu_measured=0.6,
        software={"torch": "2.11.0"},
        kernels={"rope": "triton"},
    )


FULL = Result(status="out of memory", reason="tried 80 GiB", device="GPU X", num_devices=2)


def config(variant: Variant = OURS, **changes: object) -> ThroughputConfig:
    settings = variant.settings(TINY, num_processes=1, micro_batch_size=1, sequence_length=8)
    return ThroughputConfig(settings=settings, num_processes=1, **changes)  # type: ignore[arg-type]


def test_the_papers_own_ratios_are_43_percent_faster_and_19_percent_smaller() -> None:
    """Its text says so (section 4): the fastest and the smallest column against Exp8."""
    rows = [paper_row(PAPER, experiment) for experiment in PAPER.experiments]
    assert len(rows) == 8
    assert round(max(row["paper_speed_ratio"] for row in rows), 2) == 1.43
    assert round(min(row["paper_memory_ratio"] for row in rows), 2) == 0.81


def test_rows_stand_beside_the_papers_and_relate_to_exp8_of_this_machine() -> None:
    results = {"exp1": measured(200, 30), "exp8": measured(100, 60), "ours": measured(250, 15)}
    table = measured_table(results, PAPER, tiny=False)
    one, eight, ours = (format_row(row) for row in table["rows"])
    assert (one["tokens/s/GPU"], one["paper's"]) == ("200", "13,400")
    assert (one["x Exp8"], one["paper's x Exp8"]) == ("2.00", "1.28")
    assert (one["GB / Exp8"], one["paper's GB / Exp8"]) == ("0.50", "0.87")
    assert eight["x Exp8"] == eight["paper's x Exp8"] == "1.00"
    assert (ours["x Exp8"], ours["paper's x Exp8"], ours["GB / Exp8"]) == ("2.50", "", "0.25")
    assert "1,840 M parameters, 2 x GPU X" in table["title"]
    assert "tiny" not in format_page(table)


def test_a_row_out_of_memory_says_so_and_the_others_stand() -> None:
    table = measured_table({"exp1": measured(200, 30), "exp8": FULL}, PAPER, tiny=False)
    one, eight = (format_row(row) for row in table["rows"])
    assert eight["tokens/s/GPU"] == "out of memory"
    assert eight["GB"] == eight["x Exp8"] == ""
    assert one["tokens/s/GPU"] == "200"
    assert one["x Exp8"] == "", "there is nothing to relate it to"
    assert "- exp8: tried 80 GiB" in format_page(table)


def test_a_tiny_table_says_so_in_title_and_rows() -> None:
    table = measured_table({"exp8": measured(1, 1), "ours": measured(1, 1)}, PAPER, tiny=True)
    assert "says nothing about speed" in table["title"]
    assert all(row["name"].endswith("(tiny)") for row in table["rows"])


def test_the_stage_writes_the_table_as_json_and_as_a_page(tmp_path: Path) -> None:
    results = {"exp8": measured(100, 60), "ours": measured(250, 15)}
    inputs = {}
    for name, result in results.items():
        result.write(tmp_path / name)
        inputs[name] = StageResult(
            stage="throughput", key=name, folder=tmp_path / name, manifest={}
        )
    run = run_stage(kernel_table, tmp_path / "out", KernelTableConfig(), measured=inputs)
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["exp8", "ours"]
    assert (tmp_path / "out" / "table.md").read_text() == format_page(table)
    assert run.counts == {"measured": 2, "rows": 2}


def test_what_only_changes_speed_is_another_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such settings are left out of a training's key; here they are the question."""
    keys = {
        name: stage_key("throughput", 1, config(variant), {})
        for name, variant in {
            "ours": OURS,
            "compiled": dataclasses.replace(OURS, compile=True),
            "resharded": dataclasses.replace(OURS, reshard_after_forward=True),
            "plain": PLAIN,
        }.items()
    }
    monkeypatch.setattr(throughput_module, "code_digest", lambda: "other code")
    keys["ours, other code"] = stage_key("throughput", 1, config(), {})
    monkeypatch.setattr(throughput_module, "machine", lambda: {"device": "another"})
    keys["ours, other machine"] = stage_key("throughput", 1, config(), {})
    assert len(set(keys.values())) == len(keys)


def test_contradictions_are_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="timed_steps = 0"):
        validate(config(timed_steps=0), "throughput")
    wrong = ThroughputConfig(
        settings=OURS.settings(STEEL_1B, num_processes=3, micro_batch_size=8), num_processes=2
    )
    with pytest.raises(ConfigError, match="global_batch_size = 24 is not a multiple"):
        validate(wrong, "throughput")
    with pytest.raises(ConfigError, match="no experiment 9"):
        PAPER.experiment(9)


def test_a_stage_measures_and_one_that_does_not_fit_finishes_too(tmp_path: Path) -> None:
    run = run_stage(throughput, tmp_path / "done", config(timed_steps=1, warmup_steps=1))
    assert run.counts["tokens_per_second_per_device"] > 0
    assert run.notes["status"] == "done"
    sizes = {"vocab_size": 10**8, "hidden_size": 2048, "num_attention_heads": 16}  # 0.8 TB a matrix
    huge = OURS.settings({**TINY, **sizes}, num_processes=1, micro_batch_size=1, sequence_length=8)
    run = run_stage(throughput, tmp_path / "full", ThroughputConfig(settings=huge, num_processes=1))
    assert run.notes["status"] == "out of memory"
    assert "tokens_per_second_per_device" not in run.counts
