"""Ids of some texts, and the ids in the full vocabulary that a pruned tokenizer came from."""

import json
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from model.tokenizer.encoder import ReferenceEncoder
from model.tokenizer.identity import PRUNED_FROM


def encode_corpus(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Ids of raw texts, in which a control token is plain text."""
    found = ReferenceEncoder(tokenizer.backend_tokenizer).encode(texts)
    return [found[number].tolist() for number in range(found.num_texts)]


def pruned_from(folder: Path) -> list[int] | None:
    """Id in the full vocabulary of each id of the tokenizer in a folder; None if not pruned."""
    path = folder / PRUNED_FROM
    if not path.is_file():
        return None
    old_ids: list[int] = json.loads(path.read_text(encoding="utf-8"))["old_ids"]
    return old_ids
