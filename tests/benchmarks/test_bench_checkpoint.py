"""The command runs, and its report says what it has to."""

import json
from pathlib import Path

from benchmarks import bench_checkpoint


def test_the_report(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["--gib", "0.04", "--repeats", "1", "--folder", str(tmp_path), "--json", str(out)]
    # A checkpoint every so many days: whatever this machine does, the stall is below 1 % of it.
    assert bench_checkpoint.main([*arguments, "--interval-minutes", "9999"]) == 0
    report = json.loads(out.read_text())
    assert set(report["seconds"]) == {
        "async: first stall",
        "async: stall",
        "async: durable",
        "dcp.save, fsync",
        "torch.save, fsync",
        "limit: copy to the host",
        "limit: raw write, fsync",
    }
    assert all(seconds > 0 for seconds in report["seconds"].values())
    assert report["command"].startswith("python -m benchmarks.bench_checkpoint --gib 0.04")
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert bench_checkpoint.main([*arguments, "--interval-minutes", "0.000001"]) == 1
