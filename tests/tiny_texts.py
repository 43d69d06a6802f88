"""Packed data of a few sentences, with a tokenizer that gives them back."""

from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from model.data import PackedManifest, ShardWriter
from model.data.held_out import Split, document_digests, is_held_out
from model.tokenizer.digest import digest_tokenizer
from tests.tiny_benchmarks import write_model

SENTENCES = [f"第{i}个问题的答案是{i * 7 % 11}，the answer of {i} is {i * 3}. " for i in range(400)]
"""The first half is the source zh, the second en."""
FRACTION = 0.1
END = 0


def write_packed_texts(folder: Path) -> Path:
    """Shards and tokenizer as the stage `pack` leaves them."""
    tokenizer = AutoTokenizer.from_pretrained(write_model(folder / "model"))
    tokenizer.save_pretrained(folder / "tokenizer")
    shards = []
    splits: tuple[Split, Split] = ("train", "validation")
    for source, texts in (("zh", SENTENCES[:200]), ("en", SENTENCES[200:])):
        for split in splits:
            with ShardWriter(
                folder / "shards", source=source, dtype="uint16", shard_tokens=5000, split=split
            ) as writer:
                for number, text in enumerate(texts):
                    digests = document_digests([text])
                    if is_held_out(digests, FRACTION)[0] == (split == "validation"):
                        ids = np.asarray([*tokenizer.encode(text, add_special_tokens=False), END])
                        writer.add_documents(ids, np.asarray([0, ids.size]), [number + 1], digests)
            shards += writer.shards
    PackedManifest(
        vocab_size=len(tokenizer),
        end_of_document=END,
        tokenizer_digest=digest_tokenizer(tokenizer).digest,
        validation_fraction=FRACTION,
        shards=tuple(shards),
    ).write(folder / "shards")
    return folder
