"""A model to start from."""

from pathlib import Path

import pytest

from tests.tiny_chat import write_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model with its tokenizer."""
    return write_model(tmp_path_factory.mktemp("base"))
