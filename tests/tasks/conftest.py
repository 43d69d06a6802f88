"""A pipeline context without servers, and Qwen1.5's tokenizer.

Prefect's tasks run in a test harness, MLflow in a folder.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from prefect.testing.utilities import prefect_test_harness
from transformers import PreTrainedTokenizerBase

from model.tokenizer.qwen import load_tokenizer, obtain_tokenizer, prune_tokenizer
from model.tokenizer.tiktoken import packaged_ranks
from tasks import pack
from tasks.core.stage import Context
from tasks.core.tracking import Tracker
from tests.corpus.packing.packed import TEXTS


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A temporary Prefect server and database for the whole test session."""
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one costs seconds of migrations, copying it nothing."""
    database = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def store(tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh store with its own empty MLflow database."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "store"
    (folder / "mlflow").mkdir(parents=True)
    shutil.copy(empty_mlflow, folder / "mlflow" / "mlflow.db")
    return folder


@pytest.fixture
def context(store: Path, prefect_server: None) -> Context:
    """A fresh store and its tracker."""
    return Context(store=store, tracker=Tracker(store=store, pipeline="test", pipeline_id="test"))


@pytest.fixture(scope="session")
def full(root: Path, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """Qwen1.5's own tokenizer."""
    if packaged_ranks():
        return obtain_tokenizer("package", cache=tmp_path_factory.mktemp("cache"))
    folder = root.parent / "shared" / "data" / "tokenizer"
    if not folder.is_dir():
        pytest.skip("needs the package dashscope or ../shared/data/tokenizer")
    return obtain_tokenizer(str(folder))


@pytest.fixture
def tokenizer(
    full: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> PreTrainedTokenizerBase:
    """The same, given to the stage without obtaining it anew."""
    monkeypatch.setattr(pack, "configured_tokenizer", lambda source: full)
    return full


@pytest.fixture(scope="session")
def few_tokens(
    full: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory
) -> PreTrainedTokenizerBase:
    """A part of it that is loaded in no time."""
    folder = tmp_path_factory.mktemp("few") / "tokenizer"
    prune_tokenizer(full, [text for texts in TEXTS.values() for text in texts], folder)
    return load_tokenizer(folder)


@pytest.fixture
def small(
    few_tokens: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> PreTrainedTokenizerBase:
    """The same, given to the stage as if it were configured."""
    monkeypatch.setattr(pack, "configured_tokenizer", lambda source: few_tokens)
    return few_tokens
