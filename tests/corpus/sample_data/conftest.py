"""All sample data, written once for these tests."""

from pathlib import Path

import pytest

from corpus.sample_data import DATASETS, SampleDataConfig, write_dataset


@pytest.fixture(scope="session")
def sample_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every data set at scale 1, as <kind>/<name>/…"""
    folder = tmp_path_factory.mktemp("sample-data")
    for kind, names in DATASETS.items():
        for name in names:
            write_dataset(kind, name, folder / kind / name, SampleDataConfig())
    return folder
