"""The ledger's check."""

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
