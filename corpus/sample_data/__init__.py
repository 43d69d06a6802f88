"""A small invented world, written as the raw data sets of the paper: own text, from a seed.

    world ──▶ telling_zh, telling_en, code ──▶ dirt ──▶ corpora          (13 native raw formats)
      └─────▶ exams ──held-out rule──▶ conversations (SFT, preferences), exam_files (C-Eval, …)

See docs/sample-data.md for what is told, what is dirty, what is held out and what a tiny model
learns from it.
"""

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from common.errors import ConfigError
from corpus.sample_data.conversations import PREFERENCES, SFT
from corpus.sample_data.conversations import ROWS as CONVERSATION_ROWS
from corpus.sample_data.corpora import CORPORA
from corpus.sample_data.corpora import ROWS as CORPUS_ROWS
from corpus.sample_data.question_files import SUBJECTS, write_exam
from corpus.sample_data.world import make_world

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


FEWEST_ROWS = 20
"""Rows of a data set at the smallest scale: enough for every part of its format."""


@dataclass(frozen=True, kw_only=True)
class SampleDataConfig:
    """Which valley, and how much is told about it."""

    seed: int = 7
    """Draws the facts and all texts; another seed is another valley."""
    scale: float = 1.0
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
    if not 0 < config.scale < 1000:
        raise ConfigError(f"sample_data.scale must be above 0 and below 1000 (got {config.scale})")
    folder.mkdir(parents=True, exist_ok=True)
    world = make_world(config.seed)
    rng = Random(f"sample-world/{config.seed}/{kind}/{name}")
    if kind == "evals":
        write_exam(rng, world, name, folder, config.scale)
        return
    writers = {"corpora": CORPORA, "sft": SFT, "preferences": PREFERENCES}[kind]
    rows = (CORPUS_ROWS if kind == "corpora" else CONVERSATION_ROWS)[name]
    writers[name](rng, world, max(FEWEST_ROWS, round(rows * config.scale)), folder)
