"""Documents that were there before: known by a hash of their text.

known <source>.jsonl … ─▶ 16 bytes a document, sorted ─▶ documents that are not there
"""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.files import complete_file, json_line, read_json_lines
from corpus.held_out_texts import rank

Digests = npt.NDArray[Any]
"""128-bit digests of texts, ascending, as 16 bytes each. Shape [N]."""


_WIRE = np.dtype([("high", ">u8"), ("low", ">u8")])
_KIND = _WIRE.newbyteorder("=")
"""As numbers: bytes of NumPy (S16) would lose zeros at their end."""


def _numbers(content: bytes) -> Digests:
    return np.frombuffer(content, _WIRE).astype(_KIND)


def digest(text: str) -> bytes:
    """The first 128 bits of a text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def digests_of(files: Iterable[Path], tick: Callable[[], None] = lambda: None) -> Digests:
    """Digests of all texts of some files of {"text"} lines. tick: called for each file."""
    parts: list[Digests] = []
    for path in files:
        found = b"".join(digest(row["text"]) for row in read_json_lines(path))
        parts.append(_numbers(found))
        tick()
    if not parts:
        return _numbers(b"")
    return np.unique(np.concatenate(parts))


def contains(digests: Digests, one: bytes) -> bool:
    """True if a digest is among those."""
    wanted = _numbers(one)[0]
    place = int(np.searchsorted(digests, wanted))
    return place < len(digests) and bool(digests[place] == wanted)


def write_unseen(
    path: Path, known: Digests, here: set[bytes], target: Path, *, held_out: float = 0.0
) -> tuple[int, int, int]:
    """Write the documents of a file whose text is neither known nor in an earlier line; no file
    where there is none.

    Args:
        here: digests of the new part so far; grows.
        held_out: share of all documents, by a hash of their text, that is left out.

    Returns the number written, that of unseen ones left out, and that of seen ones.
    """
    written = left_out = seen = 0
    with complete_file(target) as file:
        for row in read_json_lines(path):
            own = digest(row["text"])
            if own in here or contains(known, own):
                seen += 1
                continue
            here.add(own)
            if rank(row["text"]) < held_out:
                left_out += 1
                continue
            file.write(json_line(row))
            written += 1
    if not written:
        target.unlink()
    return written, left_out, seen
