"""Fixtures of the tokenizer's tests."""

import pytest
from transformers import PreTrainedTokenizerBase

from model.tokenizer.qwen import build_tokenizer
from model.tokenizer.tiktoken import byte_characters


@pytest.fixture(scope="session")
def small() -> PreTrainedTokenizerBase:
    """A tokenizer of a few merges over all bytes: quick enough for many random corpora."""
    letters = byte_characters()
    pairs = [
        "t h",
        "th e",
        "a n",
        "an d",
        "i n",
        "Ġ th",
        "Ġth e",
        "in g",
        "e r",
        "Ġ a",
        "æ ĺ",
        "æĺ ¯",
        "ä ¸",
        "ä¸ Ń",
        "1 2",
    ]
    merges = [(left, right) for left, right in (pair.split(" ") for pair in pairs)]
    merged = [left + right for left, right in merges]
    return build_tokenizer({token: i for i, token in enumerate([*letters, *merged])}, merges)
