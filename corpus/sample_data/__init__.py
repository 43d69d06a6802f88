"""Sample data: generated texts in the raw formats of the paper's data sets, from a seed.

    facts ──▶ templates, code ──▶ noise ──▶ corpora               (13 native raw formats)
      └─────▶ questions ──held-out rule──▶ conversations          (SFT, preferences)
                                    └────▶ benchmarks             (C-Eval, CMMLU, MMLU files)

All wordings are in phrases/*.yaml. docs/sample-data.md describes the contents, the noise, the
held-out questions, and the results of a tiny model trained on them.
"""

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Literal

from common.config import Config, validate
from common.errors import ConfigError
from common.ranges import Gt, Lt, Seed
from corpus.sample_data.benchmarks import SUBJECTS, write_benchmark
from corpus.sample_data.conversations import PREFERENCES, SFT
from corpus.sample_data.corpora import CORPORA
from corpus.sample_data.facts import draw_facts

__all__ = ["DATASETS", "DatasetKind", "SampleDataConfig", "generator_files", "write_dataset"]

DatasetKind = Literal["corpora", "sft", "preferences", "evals"]

DATASETS: dict[DatasetKind, tuple[str, ...]] = {
    "corpora": tuple(CORPORA),
    "sft": tuple(SFT),
    "preferences": tuple(PREFERENCES),
    "evals": tuple(SUBJECTS),
}
"""Every data set that can be written."""


def generator_files() -> list[Path]:
    """Files that decide what is written: the code and the phrases of this package."""
    package = Path(__file__).parent
    return sorted(p for p in package.rglob("*") if p.suffix in (".py", ".yaml"))


MIN_ROWS = 20
"""Rows of a data set at the smallest scale: enough for every part of its format."""


@dataclass(frozen=True, kw_only=True)
class SampleDataConfig(Config):
    """Settings of the generator."""

    seed: Seed = 7
    """Seed of the facts and of all texts."""
    scale: Annotated[float, Gt(0), Lt(1000)] = 1.0
    """Multiplies the number of rows: 1 is about 3,300 documents of pretraining text,
    0.56 million tokens of Qwen1.5."""


def write_dataset(kind: DatasetKind, name: str, folder: Path, config: SampleDataConfig) -> None:
    """Write one data set in its native raw format into `folder`; the same bytes every time.

    Raises ConfigError for a name that is not in `DATASETS[kind]`, or a scale that is not positive.
    """
    if name not in DATASETS.get(kind, ()):
        known = (
            ", ".join(DATASETS.get(kind, ())) or f"none of this kind; kinds: {', '.join(DATASETS)}"
        )
        raise ConfigError(f"The sample data have no {kind} data set {name!r}. Known: {known}.")
    validate(config, "sample_data")
    folder.mkdir(parents=True, exist_ok=True)
    base = draw_facts(config.seed)
    # The name is part of the seed: another one would give other data.
    rng = Random(f"sample-world/{config.seed}/{kind}/{name}")
    if kind == "evals":
        write_benchmark(rng, base, name, folder, config.scale)
        return
    writer = {"corpora": CORPORA, "sft": SFT, "preferences": PREFERENCES}[kind][name]
    writer.write(rng, base, max(MIN_ROWS, round(writer.rows * config.scale)), folder)
