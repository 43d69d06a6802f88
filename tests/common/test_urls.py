"""URLs: secrets are hidden, and two signatures of one URL are the same data."""

import pytest

from common.urls import identity, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:p@h/x?a=1&b=2", "https://***@h/x?a=***&b=***"),
        (
            "see https://h/x?sig=abc and 'https://t0ken@h/'",
            "see https://h/x?sig=*** and 'https://***@h/'",
        ),
        ("hf://datasets/o/n@main/x", "hf://datasets/o/n@main/x"),
        ("https://user:pa/ss@host/x", "https://***@host/x"),
        ("https://h/x#frag?y", "https://h/x#***"),
        ("a@b.c", "a@b.c"),
        ("http://h:80/a@b", "http://h:80/a@b"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_identity_keeps_what_is_asked_for() -> None:
    assert identity("https://u:p@h/x?sig=1&se=3&page=2") == "https://h/x?page=2#"
