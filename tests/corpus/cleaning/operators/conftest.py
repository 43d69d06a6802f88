"""A recipe's operator applied to one text."""

import contextlib
from typing import Any

import pytest

from corpus.formats.record_formats import RECORD_FORMATS, Rejected, to_document
from corpus.formats.records import read_records
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


@pytest.fixture(scope="module")
def real_rows(shared: Any) -> Any:
    """real_rows(place, format) -> the texts of a file of real rows."""

    def read(place: str, name: str) -> list[str]:
        (file,) = (shared / "data" / "pretrain").glob(place)
        texts = []
        for record in read_records(file):
            with contextlib.suppress(Rejected):
                texts.append(to_document(RECORD_FORMATS[name], record.value).text)
        assert texts
        return texts

    return read
