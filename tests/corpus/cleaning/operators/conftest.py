"""A recipe's operator applied to one text."""

from typing import Any

import pytest

from tests.corpus.cleaning.operators.loading import operator


@pytest.fixture(scope="module")
def apply() -> Any:
    """apply(recipe, operator, text) -> text."""
    built: dict[tuple[str, str], Any] = {}

    def run(recipe: str, name: str, text: str) -> str:
        if (recipe, name) not in built:
            built[recipe, name] = operator(recipe, name)
        return str(built[recipe, name].process({"text": [text]})["text"][0])

    return run
