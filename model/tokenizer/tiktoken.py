"""Conversion of tiktoken ranks to the vocabulary and ordered merges of Hugging Face's BPE.

A rank file lists tokens as bytes, in the order in which training made them. Hugging Face needs, for
each token longer than a byte, the two tokens it was merged from. Those are what remains when the
token's own bytes are merged with the earlier ranks alone.
"""

import base64
import binascii
import importlib.util
from pathlib import Path

from common.errors import DataError

Merge = tuple[str, str]

PACKAGE = "dashscope"
"""Qwen's SDK on PyPI (Apache-2.0), whose wheel carries Qwen1.5's rank file."""


def packaged_ranks() -> Path | None:
    """Path of the rank file in the installed `dashscope`, or None.

    The package itself isn't imported: that would run its start-up code and load its HTTP clients.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "resources" / "qwen.tiktoken"
        if path.is_file():
            return path
    return None


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read token -> rank from lines `base64 rank`.

    Raises DataError for any other line, and if ranks are not 0, 1, 2, …
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            encoded, rank = line.split()
            token = base64.b64decode(encoded, validate=True)
            if int(rank) != len(ranks) or token in ranks:
                raise ValueError("ranks must count up from 0, each token once")
        except (ValueError, binascii.Error) as error:
            raise DataError(f"{path}:{number} is not a tiktoken rank line: {error}") from error
        ranks[token] = len(ranks)
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise DataError(
            f"{path} lacks {len(missing)} of the 256 single bytes, such as {missing[0]}"
        )
    return ranks


def vocabulary_and_merges(ranks: dict[bytes, int]) -> tuple[dict[str, int], list[Merge]]:
    """Compute the byte-level vocabulary (token -> id) and merges in order. About 7 s for 151,643
    ranks."""
    letters = byte_characters()

    def written(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocabulary = {written(token): rank for token, rank in ranks.items()}
    merges = []
    for token, rank in ranks.items():
        if len(token) > 1:
            left, right = _last_merge(token, rank, ranks)
            merges.append((written(left), written(right)))
    return vocabulary, merges


def byte_characters() -> list[str]:
    """The printable character that byte-level BPE writes for each of the 256 bytes.

    Bytes that Latin-1 prints stand for themselves; the rest get the characters from U+0100 on
    (Radford et al. 2019).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, spare = [], 0x100
    for byte in range(256):
        letters.append(chr(byte if byte in printable else spare))
        spare += byte not in printable
    return letters


def _last_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts left when `token` is merged with ranks below its own."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        best, place = rank, -1
        for i in range(len(parts) - 1):
            candidate = ranks.get(parts[i] + parts[i + 1], rank)
            if candidate < best:
                best, place = candidate, i
        if place < 0:
            raise DataError(f"rank {rank} ({token!r}) cannot be merged from earlier ranks")
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts[0], parts[1]
