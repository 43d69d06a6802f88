"""The command runs beside its peer, and both choose alike."""

import json
from pathlib import Path

from benchmarks import bench_eval
from tests.tiny_benchmarks import write_benchmarks, write_model


def test_the_report(tmp_path: Path) -> None:
    model, benchmarks = write_model(tmp_path / "model"), write_benchmarks(tmp_path / "benchmarks")
    out = tmp_path / "out.json"
    arguments = [str(model), str(benchmarks), "--benchmark", "mmlu", "--json", str(out)]
    code = bench_eval.main([*arguments, "--batch-size", "3"])
    report = json.loads(out.read_text())
    assert report["questions"] == 6
    assert report["different_choices"] == 0
    assert report["steel"]["accuracy"] == report["lm-eval"]["accuracy"]
    assert report["share_of_tokens"] < 1 / 3
    assert code == 0
