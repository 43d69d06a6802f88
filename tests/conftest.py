"""Fixtures that every test may use."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Stages are run outside of flows here; Prefect would warn about each of their log lines.
os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "true"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

with contextlib.suppress(ImportError):  # a bare GPU machine may lack it
    from hypothesis import settings

    # A deadline judges how busy the machine is, not the code. The quick suite tries the same cases
    # on every machine, so that what fails is what was changed; `make test-slow` looks for new ones.
    settings.register_profile("same", deadline=None, derandomize=True)
    settings.register_profile("explore", deadline=None)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

ROOT = Path(__file__).resolve().parents[1]
GPU_SIGNS = ("from tests.gpu import", 'cases("')
"""By one of them a file of tests says that some of its cases want a GPU."""


def pytest_configure(config: pytest.Config) -> None:
    """Hide the machine's GPUs, before torch is imported, unless GPU tests are asked for."""
    if not _on_gpu(config):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m gpu`: leave out files without GPU tests, which may import what is not installed."""
    if not _on_gpu(config) or not collection_path.match("test_*.py"):
        return None
    text = collection_path.read_text(encoding="utf-8")
    return None if any(sign in text for sign in GPU_SIGNS) else True


def _on_gpu(config: pytest.Config) -> bool:
    return str(config.option.markexpr).strip() == "gpu"


@pytest.fixture(scope="session", autouse=True)
def own_devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trainings of tests wait for none outside of them, and keep none outside waiting."""
    os.environ["STEEL_DEVICES_FOLDER"] = str(tmp_path_factory.mktemp("devices"))
    yield
    del os.environ["STEEL_DEVICES_FOLDER"]


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real sample rows beside the checkout; tests that need them skip where they are absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(
            "needs the real sample rows in ../shared/data, which are not part of the project"
        )
    return folder


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Train in this process as ranks do: on one thread; signals stay pytest's."""
    import torch

    from model.train.distributed.signals import StopFlag

    monkeypatch.setattr(StopFlag, "install", lambda self: self)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def full(root: Path, tmp_path_factory: pytest.TempPathFactory) -> "PreTrainedTokenizerBase":
    """Qwen1.5's own tokenizer."""
    from model.tokenizer.qwen import get_tokenizer
    from model.tokenizer.tiktoken import packaged_ranks

    if packaged_ranks():
        return get_tokenizer("package", cache=tmp_path_factory.mktemp("cache"))
    folder = root.parent / "shared" / "data" / "tokenizer"
    if not folder.is_dir():
        pytest.skip("needs the package dashscope or ../shared/data/tokenizer")
    return get_tokenizer(str(folder))


@pytest.fixture
def tokenizer(
    full: "PreTrainedTokenizerBase", monkeypatch: pytest.MonkeyPatch
) -> "PreTrainedTokenizerBase":
    """The same, given to the stage without obtaining it anew."""
    monkeypatch.setattr("tasks.pack.configured_tokenizer", lambda source: full)
    monkeypatch.setattr("tasks.pack.check_tokenizer", lambda source: None)
    return full


@pytest.fixture(scope="session")
def few_tokens(
    full: "PreTrainedTokenizerBase", tmp_path_factory: pytest.TempPathFactory
) -> "PreTrainedTokenizerBase":
    """A part of it that is loaded in no time."""
    from model.tokenizer.pruning import prune_tokenizer
    from model.tokenizer.qwen import load_tokenizer
    from tests.corpus.packing.packed import TEXTS

    folder = tmp_path_factory.mktemp("few") / "tokenizer"
    prune_tokenizer(full, [text for texts in TEXTS.values() for text in texts], folder)
    return load_tokenizer(folder)


@pytest.fixture
def small(
    few_tokens: "PreTrainedTokenizerBase", monkeypatch: pytest.MonkeyPatch
) -> "PreTrainedTokenizerBase":
    """The same, given to the stage as if it were configured."""
    monkeypatch.setattr("tasks.pack.configured_tokenizer", lambda source: few_tokens)
    monkeypatch.setattr("tasks.pack.check_tokenizer", lambda source: None)
    return few_tokens
