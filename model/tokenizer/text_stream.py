"""Text of token ids as they come, one by one.

A character of several bytes may be split over tokens, and a tokenizer may write a token differently
behind another one. So what is shown is always the difference between two decoded texts, and a text
that ends within a character waits for the token that completes it:

    ids      e4 | bd a0 e5 | a5 bd
    shown       | 你       | 好
"""

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"
"""Character that stands for bytes that are none."""

LONGEST_WAIT = 8
"""Tokens that are held back at most: a character has four bytes, so more are no character."""


class TextStream:
    """Decodes ids that come one by one; the pieces it gives are the text, stripped.

    Args:
        decode: from ids to text, as the tokenizer does it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context, self._shown = 0, 0
        """Ids from `_context` on are decoded; those before `_shown` were given already."""
        self._blank = ""
        """Space that is given when something follows it."""
        self._begun = False

    def add(self, id_: int) -> str:
        """The text that one more id completes; "" while a character is incomplete."""
        self._ids.append(id_)
        text = self._pending()
        waiting = len(self._ids) - self._shown
        if not text or (text.endswith(REPLACEMENT) and waiting < LONGEST_WAIT):
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return self._stripped(text)

    def end(self) -> str:
        """The rest of the text, without a character that lacks its last bytes."""
        text = self._pending().rstrip(REPLACEMENT)
        self._shown = len(self._ids)
        return self._stripped(text)

    def _pending(self) -> str:
        known = self._decode(self._ids[self._context : self._shown])
        return self._decode(self._ids[self._context :])[len(known) :]

    def _stripped(self, text: str) -> str:
        text = self._blank + text if self._begun else text.lstrip()
        kept = text.rstrip()
        self._blank = text[len(kept) :]
        self._begun = self._begun or bool(kept)
        return kept
