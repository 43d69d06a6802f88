"""Sample data as a whole: same bytes for the same seed, the scale, requests that are refused."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from corpus.sample_data import DATASETS, SampleDataConfig, write_dataset
from tests.corpus.sample_data.records import all_rows

CONFIG = SampleDataConfig()


def digests(folder: Path) -> dict[str, str]:
    """MD5 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("kind", DATASETS)
def test_the_same_seed_gives_the_same_bytes(kind: Any, sample_files: Path, tmp_path: Path) -> None:
    for name in DATASETS[kind]:
        write_dataset(kind, name, tmp_path / name, CONFIG)
    assert digests(tmp_path) == digests(sample_files / kind)


@pytest.mark.parametrize("kind", DATASETS)
def test_another_seed_gives_other_data(kind: Any, tmp_path: Path) -> None:
    for seed in (7, 8):
        for name in DATASETS[kind]:
            config = SampleDataConfig(seed=seed, scale=0.05)
            write_dataset(kind, name, tmp_path / str(seed) / name, config)
    first, second = digests(tmp_path / "7"), digests(tmp_path / "8")
    first.pop("self_awareness/self_cognition_EmoLLM.json", None)  # holds no facts
    assert first.keys() <= second.keys()
    same = [path for path in first if first[path] == second[path]]
    assert [path for path in same if not path.endswith("subject_mapping.json")] == []


def test_scale_multiplies_the_rows(tmp_path: Path) -> None:
    for scale in (0.5, 1.0):
        config = SampleDataConfig(scale=scale)
        write_dataset("corpora", "firefly", tmp_path / str(scale), config)
    half, whole = len(all_rows(tmp_path / "0.5")), len(all_rows(tmp_path / "1.0"))
    assert whole == 2 * half


@pytest.mark.parametrize(
    ("kind", "name", "scale", "message"),
    [
        ("corpora", "nosuch", 1.0, "no corpora data set 'nosuch'.*skypile"),
        ("evals", "skypile", 1.0, "no evals data set 'skypile'.*ceval"),
        ("corpora", "skypile", 0.0, r"sample_data.scale = 0.0; .* in \(0, 1000\)"),
        ("corpora", "skypile", float("nan"), r"sample_data.scale = nan; .* in \(0, 1000\)"),
    ],
)
def test_wrong_requests_are_refused(
    kind: Any, name: str, scale: float, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        write_dataset(kind, name, tmp_path / "x", SampleDataConfig(scale=scale))
    assert not (tmp_path / "x").exists()
