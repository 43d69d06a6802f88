"""Held-out documents of packed data, as texts again, for bits per byte.

    <source>-validation-00000.bin ──in order of their digests──decode──same digest?──▶ texts

A document's digest is that of its text (docs/adr/0028). So which documents are taken depends on
neither shards nor tokenizer, and a text that decoding does not restore exactly is noticed.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from model.data import PackedManifest
from model.data.held_out import document_digests
from model.data.shards import map_starts, map_tokens, open_digests
from model.tokenizer.folder import load_folder_tokenizer


@dataclass(frozen=True, kw_only=True)
class HeldOutTexts:
    """Documents of one source that are held out, or a part of them."""

    texts: list[str]
    """In the order of their digests; each once."""
    num_unrestored: int
    """Documents left out because the tokenizer does not give back their text."""


def held_out_texts(packed: Path, *, max_bytes: int) -> dict[str, HeldOutTexts]:
    """Source -> held-out documents, whole, of about `max_bytes` UTF-8 bytes together, at least one.

    packed: folder with shards/ and tokenizer/. Sources without such documents are left out.
    Raises DataError for damaged files.
    """
    folder = packed / "shards"
    manifest = PackedManifest.read(folder)
    tokenizer = load_folder_tokenizer(packed / "tokenizer")
    found: dict[str, HeldOutTexts] = {}
    for source in manifest.sources:
        documents: dict[int, np.ndarray] = {}
        for shard in manifest.of_split("validation"):
            if shard.source != source:
                continue
            tokens, starts = map_tokens(folder, shard), map_starts(folder, shard)
            ends = np.append(starts[1:], tokens.size) - 1  # without the id that ends it
            places = zip(open_digests(folder, shard), starts, ends, strict=True)
            documents |= {int(digest): tokens[start:end] for digest, start, end in places}
        one = _texts(documents, tokenizer, max_bytes)
        if one.texts or one.num_unrestored:
            found[source] = one
    return found


def _texts(
    documents: dict[int, np.ndarray], tokenizer: PreTrainedTokenizerBase, max_bytes: int
) -> HeldOutTexts:
    texts: list[str] = []
    size = unrestored = 0
    for digest in sorted(documents):
        if size >= max_bytes:
            break
        text = tokenizer.decode(
            documents[digest].tolist(),
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        assert isinstance(text, str)
        if not text or int(document_digests([text])[0]) != digest:
            unrestored += 1
            continue
        texts.append(text)
        size += len(text.encode())
    return HeldOutTexts(texts=texts, num_unrestored=unrestored)
