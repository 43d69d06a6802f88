"""Ids in bulk by gigatoken, and the proofs that they are Transformers' own.

    texts ──┬─ with a character that tables of Unicode differ on ──▶ reference ─────┐
            └─ all others ──▶ NFC ──▶ gigatoken ──▶ one text of the batch again by ─┴─▶ ids
                                                    the reference: equal, or an error

gigatoken (https://github.com/marcelroed/gigatoken) cuts some twenty times as fast as `tokenizers`
on one core. It is young, so nothing is believed: its ids are compared when it is opened (texts made
to break tokenizers), and on a text of every batch afterwards.
"""

import json
import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from model._tokenizer_probes import PROBES
from model.encoder import Encoded, ReferenceEncoder, joined
from model.errors import StageError
from tasks._packing.unicode import unusual

CACHE_BYTES = 512 * 1024**2
"""How far a process may grow until the words that gigatoken remembers are thrown away: it keeps
every one it has met, which for a terabyte is all memory there is."""

CACHED_TEXT = 64 * 1024**2
"""The same in bytes of text, where the system does not say how large the process is."""

SPOT_CHARACTERS = 4_000
"""A text that is compared is no longer than this: some 2 % of the time goes into comparing."""


class UnsuitableTokenizer(Exception):
    """This tokenizer, or this machine, is none that gigatoken can be used for."""


class DifferentIds(StageError):
    """The fast encoder gave other ids than Transformers."""


class FastEncoder:
    """The ids of a byte-level BPE tokenizer of Qwen's kind, also of a pruned one.

    Args:
        backend: `tokenizer.backend_tokenizer` of a fast Transformers tokenizer. It is not changed.
        threads: use all cores for a batch; else the calling thread alone.

    Raises:
        UnsuitableTokenizer: gigatoken is not installed or cannot do what the tokenizer asks for.
        DifferentIds: when opened, or of some batch: ids differ; says of which text.
    """

    def __init__(self, backend: Tokenizer, *, threads: bool = False) -> None:
        self._json = _without_normalizer(json.loads(backend.to_str()))
        self._threads = threads
        self._reference = ReferenceEncoder(backend)
        self._open()
        self._compare(self._cut(probes()), probes())

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of raw texts; give it some MB at a time."""
        found = self._cut(texts)
        # Not always the first of many: a batch begins wherever the one before was full.
        short = next((i for i, text in enumerate(texts) if len(text) <= SPOT_CHARACTERS), None)
        if short is not None:
            self._compare(joined([found[short]]), [texts[short]])
        self._bound(texts)
        return found

    def _cut(self, texts: Sequence[str]) -> Encoded:
        if not texts:
            return joined([])
        odd = unusual(texts)
        sent = [
            text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)
            for text in texts
        ]
        for number in odd:
            sent[number] = ""
        layout = self._tokenizer.encode_batch(sent, parallel=self._threads).layout
        found = Encoded(
            ids=np.asarray(layout.content.data), offsets=np.asarray(layout.offsets.data)
        )
        if not odd:
            return found
        parts = [found[number] for number in range(len(texts))]
        again = self._reference.encode([texts[number] for number in odd])
        for place, number in enumerate(odd):
            parts[number] = again[place]
        return joined(parts)

    def _compare(self, found: Encoded, texts: Sequence[str]) -> None:
        expected = self._reference.encode(texts)
        place = expected.first_difference(found)
        if place is not None:
            raise DifferentIds(
                f"gigatoken cuts a text into other ids than Transformers: {texts[place][:200]!r} "
                f"gives {found[place][:20].tolist()} instead of {expected[place][:20].tolist()}"
            )

    def _open(self) -> None:
        try:
            from gigatoken import Tokenizer as GigaTokenizer

            self._tokenizer: Any = GigaTokenizer.from_json(self._json)
        except (ImportError, ValueError, RuntimeError) as error:
            raise UnsuitableTokenizer(f"gigatoken cannot be used: {error}") from error
        self._room = (_resident_bytes() or 0) + CACHE_BYTES
        self._text_room = CACHED_TEXT

    def _bound(self, texts: Sequence[str]) -> None:
        """Forget remembered words when they take too much memory. Ids do not depend on them."""
        resident = _resident_bytes()
        self._text_room -= sum(map(len, texts))
        if resident > self._room if resident is not None else self._text_room < 0:
            del self._tokenizer
            self._open()


def probes() -> list[str]:
    """Texts made to break tokenizers: Qwen's probes, and pieces that patterns trip over."""
    chance = random.Random(0)
    mixed = []
    for _ in range(300):
        pieces = [chance.choice(_PIECES) for _ in range(chance.randrange(24))]
        pieces += [chr(chance.choice((chance.randrange(0x3000), chance.randrange(0x3000, 0xD800))))]
        chance.shuffle(pieces)
        mixed.append("".join(pieces))
    return [text for text, _ in PROBES] + mixed + [piece * 50 for piece in _PIECES]


_PIECES = (
    "'s", "'S", "'\u017f", "'LL", "'Re", "'", "''", " ", "  ", "\n", "\r\n", "\t", "\v", "\f",
    "\x85", "\x1c", "\xa0", "\u2028", "\u3000", "\u200b", "\u200d", "\ufeff", "\ufffd", "\x00",
    "a", "B", "word", " word", "\u212a", "\xe9", "e\u0301", "\u0301", "\u1100\u1161", "\uac00",
    "\u0928\u093c", "\u0344", "\u2126", "\uf900", "1", "2024", "\xbd", "\u0663", "\u2167", "\u4e09",
    "，", "。", "中", "文字", "臺灣", "\U00020000", "🍍", "👩\u200d👧", "☀\ufe0f", "<|endoftext|>",
    "<|im_end|>", "!", "...", "==", "://", "()", "{\n", "_", "\\n",
)  # fmt: skip


def _without_normalizer(backend: dict[str, Any]) -> str:
    """tokenizer.json without control tokens and NFC, which is done here. Raises where it asks for
    something that would be left out."""
    model, steps = backend["model"], (backend["pre_tokenizer"] or {}).get("pretokenizers", [])
    extras = (
        "dropout", "unk_token", "byte_fallback", "ignore_merges", "end_of_word_suffix",
        "continuing_subword_prefix",
    )  # fmt: skip
    plain = (
        model["type"] == "BPE"
        and not any(model.get(name) for name in extras)
        and backend["normalizer"] == {"type": "NFC"}
        and [step["type"] for step in steps] == ["Split", "ByteLevel"]
        and not steps[1]["add_prefix_space"]
        and not steps[1]["use_regex"]
        and all(token["special"] for token in backend["added_tokens"])
    )
    if not plain:
        raise UnsuitableTokenizer("it is no byte-level BPE of Qwen's kind (NFC, one pattern)")
    return json.dumps(backend | {"normalizer": None, "added_tokens": []})


def _resident_bytes() -> int | None:
    """Memory of this process (Linux); None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * 4096
