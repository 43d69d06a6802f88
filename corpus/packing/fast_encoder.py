"""Token ids in bulk by fastokens, compared with those of Transformers.

    texts ──▶ fastokens ──▶ ids
      └─ one text of every batch ──▶ tokenizers ──▶ the same ids, or an error

fastokens (https://github.com/crusoecloud/fastokens) encodes some forty times as fast as
`tokenizers` on one core. It is young, so its ids are compared when it is opened, on texts made to
break tokenizers, and on a text of every batch afterwards.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from common.errors import StageError
from model.tokenizer.encoder import Encoded, ReferenceEncoder, joined
from model.tokenizer.reference_ids import REFERENCE_IDS

SPOT_CHARACTERS = 4_000
"""Longest text that is compared; of longer ones the beginning is. Comparing then takes some
hundredths of the time."""


class UnsupportedTokenizerError(Exception):
    """fastokens cannot be used for this tokenizer or on this machine."""


class TokenMismatchError(StageError):
    """The fast encoder gave other ids than Transformers."""


class FastEncoder:
    """Encodes texts as a byte-level BPE tokenizer, also a pruned one, does.

    Uses all cores unless RAYON_NUM_THREADS, read at the first batch, says otherwise.

    Args:
        backend: `tokenizer.backend_tokenizer` of a fast Transformers tokenizer.

    Raises:
        UnsupportedTokenizerError: fastokens is not installed or cannot do what it asks for.
        TokenMismatchError: ids differ, when opened or in a later batch; names the text.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._reference = ReferenceEncoder(backend)
        try:
            from fastokens import Tokenizer as Fastokens

            self._tokenizer: Any = Fastokens.from_json_str(backend.to_str())
        except (ImportError, ValueError) as error:
            raise UnsupportedTokenizerError(f"fastokens cannot be used: {error}") from error
        self._compare(self._encode_fast(probes()), probes())

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Encode raw texts, some MB at a time."""
        found = self._encode_fast(texts)
        # Some text of the corpus: a batch begins wherever the one before was full.
        short = next((i for i, text in enumerate(texts) if len(text) <= SPOT_CHARACTERS), None)
        if short is not None:
            self._compare(joined([found[short]]), [texts[short]])
        elif texts:
            beginning = [texts[0][:SPOT_CHARACTERS]]
            self._compare(self._encode_fast(beginning), beginning)
        return found

    def _encode_fast(self, texts: Sequence[str]) -> Encoded:
        ids, offsets = self._tokenizer.encode_batch_flat(
            list(texts), add_special_tokens=False, split_special_tokens=True
        )
        return Encoded(
            ids=np.frombuffer(ids, dtype="<u4"), offsets=np.frombuffer(offsets, dtype="<i8")
        )

    def _compare(self, found: Encoded, texts: Sequence[str]) -> None:
        expected = self._reference.encode(texts)
        place = expected.first_difference(found)
        if place is not None:
            raise TokenMismatchError(
                f"fastokens cuts a text into other ids than Transformers: {texts[place][:200]!r} "
                f"gives {found[place][:20].tolist()} instead of {expected[place][:20].tolist()}"
            )


def probes() -> list[str]:
    """Texts made to break tokenizers: Qwen's probes, and pieces that are hard for patterns."""
    chance, all_pieces = random.Random(0), _PIECES.split("¦")
    mixed = []
    for _ in range(300):
        pieces = [chance.choice(all_pieces) for _ in range(chance.randrange(24))]
        pieces += [chr(chance.choice((chance.randrange(0x3000), chance.randrange(0x3000, 0xD800))))]
        chance.shuffle(pieces)
        mixed.append("".join(pieces))
    return [*REFERENCE_IDS, *mixed, *(piece * 50 for piece in all_pieces)]


_PIECES = (
    "'s¦'S¦'\u017f¦'LL¦'Re¦'¦''¦ ¦  ¦\n¦\r\n¦\t¦\v¦\f¦\x85¦\x1c¦\xa0¦\u2028¦\u3000¦"
    "\u200b¦\u200d¦\ufeff¦\ufffd¦\x00¦a¦B¦word¦ word¦\u212a¦\xe9¦e\u0301¦\u0301¦"
    "\u1100\u1161¦\uac00¦\u0928\u093c¦\u0344¦\u2126¦\uf900¦1¦2024¦\xbd¦\u0663¦\u2167¦"
    "\u4e09¦，¦。¦中¦文字¦臺灣¦\U00020000¦🍍¦👩\u200d👧¦☀\ufe0f¦<|endoftext|>¦<|im_end|>¦!¦...¦==¦"
    "://¦()¦{\n¦_¦\\n"
)
"""Pieces that are hard for a tokenizer's pattern, separated by ¦."""
