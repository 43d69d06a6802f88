"""Cleaned corpora that several files look at."""

from random import Random

import pytest

from corpus.sample_data import DATASETS, SampleDataConfig
from tasks.acquire import AcquireConfig, acquire
from tasks.clean import CleanConfig, clean
from tasks.core.manifest import StageResult
from tasks.core.stage import StageRun
from tasks.normalize import NormalizeConfig, normalize
from tests.tasks.clean.planted import (
    CONFIG,
    SIMPLIFIED,
    benchmarks,
    normalized,
    planted,
    prose,
    write_source,
)
from tests.tasks.running import result_of, run_stage


@pytest.fixture(scope="session")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    """One run of the repaired recipes over planted documents. The language model learns from prose
    of the same kind."""
    folder = tmp_path_factory.mktemp("clean")
    rng = Random(1)
    encyclopaedia = {f"w{i}": prose(rng, 400) for i in range(60)} | {
        f"t{i}": text for i, text in enumerate([SIMPLIFIED] * 20)
    }
    write_source(folder / "in", "wikipedia_cn", encyclopaedia)
    write_source(folder / "in", "skypile", planted())
    config = CleanConfig(workers=1, recipes="repaired")
    run = run_stage(
        clean,
        folder / "out",
        config,
        normalized=normalized(folder / "in"),
        benchmarks=benchmarks(folder / "benchmarks"),
    )
    return result_of(run)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    """A fifth of the sample data, normalised."""
    folder = tmp_path_factory.mktemp("world")
    datasets = dict.fromkeys(DATASETS["corpora"], "sample-data")
    config = AcquireConfig(
        kind="corpora", datasets=datasets, sample_data=SampleDataConfig(scale=0.2)
    )
    raw = run_stage(acquire, folder / "raw", config)
    return result_of(
        run_stage(normalize, folder / "normalized", NormalizeConfig(), raw=result_of(raw))
    )


@pytest.fixture(scope="session")
def whole(world: StageResult, tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """An uninterrupted run of one worker."""
    return run_stage(clean, tmp_path_factory.mktemp("whole"), CONFIG, normalized=world)
