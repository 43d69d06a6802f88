"""The ledger's check, and examples."""

from typing import Any

import pytest

from corpus.cleaning import ledger


def test_ledger_that_lost_a_document_does_not_add_up() -> None:
    first = ledger.LedgerEntry(
        position=1, operator="a", source="s", documents_in=3, documents_kept=3
    )
    second = ledger.LedgerEntry(
        position=2, operator="b", source="s", documents_in=2, documents_kept=2
    )
    with pytest.raises(AssertionError):
        ledger.check([first, second])


def test_examples_are_the_first_of_each_operator_and_source() -> None:
    def example(n: int, position: int, source: str) -> dict[str, Any]:
        return {"position": position, "operator": "o", "source": source, "id": str(n)}

    examples = ledger.Examples(most=2)
    for n in range(4):
        examples.take({"dropped": [example(n, 1, "s"), example(n, 2, "s")], "changed": []})
    examples.add("changed", example(9, 1, "s"))
    assert [(e["position"], e["id"]) for e in examples.dropped] == [
        (1, "0"),
        (2, "0"),
        (1, "1"),
        (2, "1"),
    ]
    assert [e["id"] for e in examples.changed] == ["9"]
