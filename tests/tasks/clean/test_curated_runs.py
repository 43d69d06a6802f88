"""The default recipes on Ray, and killed in the middle."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from corpus.cleaning import document_trace
from corpus.cleaning import recipe as recipes
from corpus.cleaning.ray.plan import RayConfig
from tasks.clean import CleanConfig, clean
from tasks.core.manifest import StageResult
from tasks.core.stage import StageRun
from tests.tasks.clean.planted import ROOT, benchmarks, content, documents
from tests.tasks.running import run_stage

PARTITION = 1 << 18
"""Bytes: the larger sources have several partitions, and documents of many are compared."""


def curated(
    world: StageResult, questions: dict[str, StageResult], folder: Path, **options: Any
) -> StageRun:
    """A run of the default recipes that cuts the benchmark's question out."""
    config = CleanConfig(partition_bytes=PARTITION, **options)
    return run_stage(clean, folder, config, normalized=world, benchmarks=questions)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageResult]:
    return benchmarks(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture(scope="module")
def local(
    world: StageResult, questions: dict[str, StageResult], tmp_path_factory: pytest.TempPathFactory
) -> StageRun:
    """An uninterrupted run of one worker."""
    return curated(world, questions, tmp_path_factory.mktemp("local"), workers=1)


def traces(folder: Path, source: str) -> dict[str, dict[str, Any]]:
    """The rows of a source's document traces, by id."""
    tables = [pq.read_table(path) for path in document_trace.files(folder, source)]
    return {row["id"]: row for table in tables for row in table.to_pylist()}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_family_on_ray(
    world: StageResult, questions: dict[str, StageResult], local: StageRun, tmp_path: Path
) -> None:
    """Every document meets the same end as here, up to copies and to lines that pages share."""
    ray = curated(world, questions, tmp_path, executor="ray", ray=RayConfig(num_cpus=2))
    families = {source: row["family"] for source, row in local.notes["sources"].items()}
    assert len(set(families.values())) > 3
    ids = {name for source in families for name in traces(ray.folder, source)}
    copies: Counter[str] = Counter()
    for source, family in families.items():
        alone = len(recipes.load(CleanConfig().recipe_of(family)).by_document)
        here, there = traces(local.folder, source), traces(ray.folder, source)
        assert list(here) == list(there)
        for name, row in here.items():
            other = there[name]
            if 0 < row["dropped_by"] <= alone or 0 < other["dropped_by"] <= alone:
                assert other["dropped_by"] == row["dropped_by"], name
            elif other["dropped_by"]:
                copies[source] += 1
                assert other["duplicate_of"] in ids
        kept = {
            id_: document
            for path in sorted((ray.folder / source).glob("*.jsonl"))
            for id_, document in documents(path).items()
        }
        assert list(kept) == [name for name, row in there.items() if not row["dropped_by"]]
    assert copies
    left_out = {one["operator"]: one["replaced_by"] for one in ray.notes["ray"]["replaced"]}
    assert left_out == {
        "document_minhash_deduplicator": "ray_bts_minhash_deduplicator",
        "repeated_lines_deduplicator": "",
    }


KILLED = """
import sys
from pathlib import Path
from tests.tasks.clean.test_curated_runs import curated
from tests.tasks.running import data_sets, result_of, stage_run
world, questions = (result_of(stage_run(Path(p))) for p in sys.argv[1:3])
curated(world, data_sets(questions), Path(sys.argv[3]), workers=3)
"""

MOMENTS = {
    "at the first documents": ".scratch/work/filtered/*",
    "between documents": ".scratch/work/filtered/*[0-9]",
    "while copies are looked for": ".scratch/work/duplicates/*",
    "while files are written": "*/*.jsonl",
}
"""Moment of the kill -> a file that says so."""


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_of_every_family_goes_on_to_the_same_bytes(
    moment: str,
    world: StageResult,
    questions: dict[str, StageResult],
    local: StageRun,
    tmp_path: Path,
) -> None:
    killed = tmp_path / "killed"
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            KILLED,
            str(world.folder),
            str(questions["cmmlu"].folder),
            str(killed),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    workers: list[psutil.Process] = []
    try:
        while not any(killed.glob(MOMENTS[moment])):
            assert child.poll() is None, f"finished before the moment {moment!r} came"
            time.sleep(0.002)
        workers = psutil.Process(child.pid).children(recursive=True)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    curated(world, questions, killed, workers=2)
    assert content(killed) == content(local.folder)
