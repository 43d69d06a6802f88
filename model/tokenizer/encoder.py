"""Token ids of many texts at once, as two arrays.

    texts ──encode──▶ ids      uint32 [N]      all texts' tokens, one after the other
                      offsets  int64  [n + 1]  text i owns ids[offsets[i] : offsets[i + 1]]

An encoder splits raw text into tokens: NFC first, no control token (one that is spelled out is
plain text), no end of document. `ReferenceEncoder` is the `tokenizers` library itself, which is
what Transformers runs; a faster encoder is one that gives the same ids.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

Ids: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The ids of a batch of texts."""

    ids: Ids
    """[N]."""
    offsets: npt.NDArray[np.int64]
    """[n + 1], from 0 to N, ascending."""

    @property
    def num_texts(self) -> int:
        """Texts in the batch."""
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> Ids:
        """The ids of one text."""
        return self.ids[self.offsets[number] : self.offsets[number + 1]]

    def with_end(self, end: int) -> "Encoded":
        """The same texts, each followed by the id `end`."""
        return Encoded(
            ids=np.insert(self.ids, self.offsets[1:], end),
            offsets=self.offsets + np.arange(len(self.offsets)),
        )

    def first_difference(self, other: "Encoded") -> int | None:
        """Index of the first text whose ids differ in `other`; None if all are equal."""
        assert self.num_texts == other.num_texts
        if np.array_equal(self.offsets, other.offsets):
            (unequal,) = np.nonzero(self.ids != other.ids)
            if not unequal.size:
                return None
            return int(np.searchsorted(self.offsets, unequal[0], side="right")) - 1
        return next(i for i in range(self.num_texts) if not np.array_equal(self[i], other[i]))


class Encoder(Protocol):
    """Converter of texts to ids."""

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode raw texts."""


EncoderFactory: TypeAlias = Callable[[Tokenizer], Encoder]
"""Function from a tokenizer of the `tokenizers` library to an encoder with the same ids."""


class ReferenceEncoder:
    """Encoder with the ids of Transformers. Uses all cores unless TOKENIZERS_PARALLELISM is false.

    Args:
        backend: `tokenizer.backend_tokenizer` of a fast Transformers tokenizer.
    """

    def __init__(self, backend: Tokenizer) -> None:
        # A tokenizer's file may ask for these, as whoever saved it last had set them.
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode raw texts; pass some MB at a time."""
        before = self._backend.encode_special_tokens
        self._backend.encode_special_tokens = True
        try:
            found = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        finally:
            self._backend.encode_special_tokens = before
        return joined([np.asarray(encoding.ids, dtype=np.uint32) for encoding in found])


def joined(parts: Sequence[Ids]) -> Encoded:
    """Join the ids of single texts to one batch."""
    offsets = np.zeros(len(parts) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint32)
    return Encoded(ids=ids, offsets=offsets)
