"""Documents that are held out for validation: a function of their text alone.

    text as cleaned ──UTF-8──▶ BLAKE2b, 64 bits ──▶ digest < fraction x 2^64 ? held out : trained on

No seed, no tokenizer, no place: the same document falls on the same side wherever and whenever it
is packed, and what a smaller fraction holds out, a larger one does, too. The digest stays beside
the document in its shard's index, so that the split can be proved (verify/held_out.py,
docs/adr/0028).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from common.errors import ConfigError

Split = Literal["train", "validation"]
Digests = npt.NDArray[np.uint64]

MAX_FRACTION = 0.5
"""More than half held out is a mistake."""


def document_digests(texts: Sequence[str]) -> Digests:
    """Digest of each text, uint64 [n]."""
    joined = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64)


def threshold(fraction: float) -> np.uint64:
    """Digests below it are held out. Raises ConfigError for a fraction outside of [0, 0.5]."""
    if not 0 <= fraction <= MAX_FRACTION:  # also refuses what is not a number
        raise ConfigError(
            f"validation_fraction = {fraction}; it must be a number in [0, {MAX_FRACTION}]"
        )
    return np.uint64(math.floor(Fraction(repr(float(fraction))) * 2**64))


def is_held_out(digests: Digests, fraction: float) -> npt.NDArray[np.bool_]:
    """True for documents that a fraction holds out, [n]."""
    below: npt.NDArray[np.bool_] = digests < threshold(fraction)
    return below
