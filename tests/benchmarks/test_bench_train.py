"""The training bench: what it judges, that it needs nothing beyond model/, and one real run."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks import bench_train
from benchmarks._training_rows import CANDIDATES, CHALLENGERS
from model.train.throughput.measure import Result
from model.train.throughput.variants import STEEL_1B
from tests.processes import PATIENCE_SECONDS

HEAVY = ("flows", "tasks", "prefect", "mlflow", "pydantic", "datasets", "trl", "lm_eval")


def done(speed: float, memory: float, mfu: float | None = 0.4) -> Result:
    return Result(
        status="done",
        device="GPU X",
        num_devices=1,
        tokens_per_second_per_device=speed,
        memory_gb=memory,
        mfu_datasheet=mfu,
        mfu_measured=0.5,
        losses=[11.0, 10.0],
    )


FULL = Result(status="out of memory", reason="first\nlast line", device="GPU X", num_devices=1)


def rows(**found: list[Result]) -> list[dict[str, object]]:
    return [bench_train.row(name, results, 8) for name, results in found.items()]


def verdicts(judged: bool = True, **found: list[Result]) -> dict[str, bool | None]:
    judgements = bench_train.targets(rows(**found), judged=judged)
    return {judgement["target"]: judgement["met"] for judgement in judgements}


def test_targets_are_judged_by_medians_over_repeats() -> None:
    best = [done(100, 10, 0.3), done(170, 10, 0.55), done(500, 10, 0.9)]
    found = verdicts(best=best, plain=[done(100, 20)] * 3, liger=[done(160, 10)] * 3)
    assert found == {
        "MFU of the datasheet's peak, best": True,
        "throughput, best / plain": True,
        "memory, best / plain": True,
        "throughput, best / liger": False,
    }


def test_the_faster_way_to_run_liger_is_the_peer() -> None:
    found = {"best": [done(120, 1)], "liger": [done(100, 1)], "liger compiled": [done(115, 1)]}
    assert verdicts(**found)["throughput, best / liger"] is False
    del found["liger compiled"]
    assert verdicts(**found)["throughput, best / liger"] is True


def test_memory_is_the_worst_of_the_repeats() -> None:
    found = verdicts(best=[done(1, 10), done(1, 13)], plain=[done(1, 20)] * 2)
    assert found["memory, best / plain"] is False


def test_nothing_is_judged_without_a_peer_a_datasheet_or_a_gpu() -> None:
    assert set(verdicts(best=[done(1, 1, None)], plain=[FULL]).values()) == {None}
    tiny = verdicts(judged=False, best=[done(2, 1)], plain=[done(1, 1)])
    assert set(tiny.values()) == {None}


def test_what_did_not_fit_is_in_the_table_with_its_reason() -> None:
    (plain,) = rows(plain=[FULL])
    report = {
        "title": "t",
        "num_devices": 1,
        "device": "GPU X",
        "sequence_length": 8,
        "accumulation": 1,
        "rows": [plain],
        "skipped": {"liger": "not installed"},
        "targets": [],
    }
    text = bench_train.table(report)
    assert "out of memory: last line" in text
    assert "skipped: not installed" in text


def test_the_micro_batch_is_the_largest_at_which_plain_fits(tmp_path: Path) -> None:
    tried = []

    class Small(bench_train.Bench):
        def _measure(self, label, variant, micro_batch_size, *, steps=None):  # type: ignore[no-untyped-def]
            tried.append((label.split(" [")[0], micro_batch_size))
            return done(1, 1) if micro_batch_size <= 2 else FULL

    report = Small(bench_train.PAPER_SIZES, processes=1, steps=1, scratch=tmp_path).run(
        ["best", "plain"], repeats=2
    )
    assert report["micro_batch_size"] == 2
    assert [size for _, size in tried[:3]] == [8, 4, 2]
    # Interleaved, then `best` at larger sizes until one does not fit.
    assert tried[3:7] == [("best", 2), ("plain", 2)] * 2
    # Also those that are too large for `plain` alone; what does not fit is not tried again.
    assert [size for _, size in tried[7:]] == [4]


def test_where_plain_needs_a_smaller_micro_batch_the_best_is_measured_there_too(
    tmp_path: Path,
) -> None:
    """Of a session of several steps `best` alone has another one, with the largest micro-batch."""

    class Small(bench_train.Bench):
        def _measure(self, label, variant, micro_batch_size, *, steps=None):  # type: ignore[no-untyped-def]
            fits = micro_batch_size <= 4 or "plain" not in label
            return done(100 if "plain" in label else 170, 1) if fits else FULL

    sizes = dataclasses.replace(bench_train.PAPER_SIZES, larger=())
    bench = Small(sizes, processes=1, steps=1, scratch=tmp_path)
    report = bench.run(["plain"], repeats=1)
    assert [(row["name"], row["micro_batch_size"]) for row in report["rows"]] == [
        ("best", 4),
        ("plain", 4),
    ]
    elsewhere = bench_train.row("best", [done(500, 1)], 8)
    (judged,) = [
        target["value"]
        for target in bench_train.targets([elsewhere, *report["rows"]], judged=True)
        if target["target"] == "throughput, best / plain"
    ]
    assert judged == pytest.approx(1.7), "at the micro-batch of both"
    whole = dataclasses.replace(bench_train.PAPER_SIZES, larger=(16,))
    rows = Small(whole, processes=1, steps=1, scratch=tmp_path).run(["plain"], repeats=1)["rows"]
    assert [row["micro_batch_size"] for row in rows if row["name"].startswith("best")] == [4, 8, 16]


def test_each_measurement_is_kept_as_soon_as_it_is_done(tmp_path: Path) -> None:
    """Whatever ends the program has then cost the one under way, and no other."""

    class Cut(bench_train.Bench):
        def _measure(self, label, variant, micro_batch_size, *, steps=None):  # type: ignore[no-untyped-def]
            if "16" in label:
                raise KeyboardInterrupt
            return done(1, 1)

    kept: list[list[str]] = []
    bench = Cut(bench_train.PAPER_SIZES, processes=1, steps=1, scratch=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        bench.run(
            ["best", "plain"],
            repeats=1,
            keep=lambda report: kept.append([row["name"] for row in report["rows"]]),
        )
    assert kept == [["best"], ["best", "plain"]]


def test_what_is_faster_than_the_best_is_named_with_its_setting() -> None:
    found = bench_train.choices(
        rows(
            **{
                "best": [done(100, 1)],
                "plain": [done(300, 1)],
                "merged": [done(104, 1)],
                "loss of 8": [done(99, 1)],
                "merged qkv": [FULL],
                "best, micro-batch 16": [done(110, 1)],
                "merged, micro-batch 16": [done(110.1, 1)],
                "merged, micro-batch 32": [done(500, 1)],
            }
        ),
        judged=True,
    )
    assert {choice["row"]: (choice["times_best"], choice["wins"]) for choice in found} == {
        "merged": (pytest.approx(1.04), True),
        "loss of 8": (pytest.approx(0.99), False),
        "best, micro-batch 16": (pytest.approx(1.1), True),
        "merged, micro-batch 16": (pytest.approx(1.001, abs=1e-4), False),
    }
    by_row = {choice["row"]: choice["setting"] for choice in found}
    assert by_row["merged"] == "pretrain.merged_products: [qkv, ffn_in, ffn_out]"
    assert by_row["best, micro-batch 16"] == "pretrain.micro_batch_size: 16"
    [unjudged] = bench_train.choices(rows(best=[done(1, 1)], merged=[done(9, 1)]), judged=False)
    assert unjudged["wins"] is None


def test_every_row_that_may_become_the_default_is_a_setting_of_a_run() -> None:
    for name, setting in CHALLENGERS.items():
        key, _, value = setting.partition(": ")
        run = CANDIDATES[name].settings(STEEL_1B, num_processes=1, micro_batch_size=8)
        assert isinstance(run.model, dict)
        of_model = key.removeprefix("pretrain.model.")
        found = run.model[of_model] if of_model != key else getattr(run, key.split(".")[1])
        wanted = yaml.safe_load(value)
        assert (list(found) if isinstance(found, tuple) else found) == wanted, name


def test_merged_is_measured_beside_the_best_at_larger_micro_batches(tmp_path: Path) -> None:
    tried = []

    class Small(bench_train.Bench):
        def _measure(self, label, variant, micro_batch_size, *, steps=None):  # type: ignore[no-untyped-def]
            tried.append((label.split(",")[0].split(" [")[0], micro_batch_size))
            fits = micro_batch_size < 16 or not variant.merged_products
            return done(1, 1) if fits else FULL

    Small(bench_train.PAPER_SIZES, processes=1, steps=1, scratch=tmp_path).run(
        ["best", "merged"], repeats=1
    )
    assert tried == [
        ("best", 8),
        ("merged", 8),
        ("best", 16),
        ("merged", 16),
        ("best", 32),
        ("best", 64),
    ]


def test_a_plain_model_that_breaks_does_not_make_the_others_small(tmp_path: Path) -> None:
    class Broken(bench_train.Bench):
        def _measure(self, label, variant, micro_batch_size, *, steps=None):  # type: ignore[no-untyped-def]
            broken = dataclasses.replace(FULL, status="failed")
            return broken if "plain" in label else done(1, 1)

    report = Broken(bench_train.PAPER_SIZES, processes=1, steps=1, scratch=tmp_path).run(
        ["best", "plain"], repeats=1
    )
    assert report["micro_batch_size"] == 8


def test_it_needs_only_model_and_benchmarks() -> None:
    """On a bare GPU machine nothing else is installed."""
    program = (
        "import sys\n"
        f"for name in {HEAVY!r}: sys.modules[name] = None\n"
        "import benchmarks.bench_train, model.entry.throughput, model.entry.launch\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_SECONDS)


def test_an_unknown_configuration_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        bench_train.main(["--only", "best,fastest"])
    assert refused.value.code == 2
    assert "fastest" in capsys.readouterr().err


@pytest.mark.slow
def test_one_command_measures_and_writes_json(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = ["--only", "interpreted,documents,plain,fp8", "--repeats", "1", "--steps", "1"]
    assert bench_train.main([*command, "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    *rows, fp8 = report["rows"]
    assert [row["status"] for row in rows] == ["done"] * 3
    assert report["command"].startswith("python -m benchmarks.bench_train --only interpreted,")
    assert report["software"]["torch"] == torch.__version__
    assert report["tiny"] == (not torch.cuda.is_available())
    if report["tiny"]:
        assert fp8["status"] == "not possible here" and "9.0 (Hopper)" in fp8["reason"]
    for row in rows:
        assert row["tokens_per_second_per_device"] > 0 and row["memory_gb"] > 0
