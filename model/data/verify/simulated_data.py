"""Manifests of packed data that do not exist, of any size: to prove an order before there are data.

Twelve sources with the proportions of the paper's corpora (arXiv 2502.06635, section 5: four fifths
Chinese, the rest English and code), in shards of a hundred million tokens.
"""

from __future__ import annotations

import hashlib

from common.errors import ConfigError
from model.data.held_out import Split
from model.data.manifest import PackedManifest, ShardInfo

SHARES = {
    "skypile": 450,
    "wanjuan-zh": 250,
    "wanjuan-en": 130,
    "code-python": 30,
    "code-java": 25,
    "code-cpp": 25,
    "baike": 40,
    "wikipedia": 5,
    "zhihu": 5,
    "baidu-qa": 5,
    "belle": 20,
    "firefly": 15,
}
"""Parts in a thousand."""

SHARD_TOKENS = 100_000_000
DOCUMENT_TOKENS = 800
MAX_SHARDS = 100_000
"""Shards on paper: 10^13 tokens, ten times those of the paper."""


def simulated_manifest(
    num_blocks: int,
    *,
    sequence_length: int,
    name: str = "simulated",
    validation_fraction: float = 0.0,
) -> PackedManifest:
    """A manifest from which exactly `num_blocks` blocks can be cut at this sequence length.

    name: data of different names have different content. validation_fraction: of each source's
    blocks, rounded down, lie in shards of held-out documents.
    """
    if num_blocks < 1 or sequence_length < 1:
        raise ConfigError(f"cannot simulate {num_blocks} blocks of {sequence_length} tokens")
    most = max(1, SHARD_TOKENS // sequence_length)
    if num_blocks > MAX_SHARDS * most:
        raise ConfigError(
            f"cannot simulate {num_blocks:,} blocks of {sequence_length:,} tokens: at most "
            f"{MAX_SHARDS * most:,} of this length ({MAX_SHARDS:,} shards)"
        )
    shards: list[ShardInfo] = []
    done = parts = 0
    for source, share in SHARES.items():
        parts += share
        wanted = num_blocks * parts // sum(SHARES.values())  # exact in the end, without rounding
        held_out = int(validation_fraction * (wanted - done))
        splits: list[tuple[Split, int]] = [("validation", done + held_out), ("train", wanted)]
        for split, end in splits:
            number = 0
            while done < end:
                blocks = min(most, end - done)
                stem = f"{name}-{source}{'-validation' if split == 'validation' else ''}"
                shards.append(
                    _shard(f"{stem}-{number:05d}", source, split, blocks, sequence_length)
                )
                done, number = done + blocks, number + 1
    return PackedManifest(
        vocab_size=151_646,
        end_of_document=151_643,
        tokenizer_digest=_md5("tokenizer"),
        validation_fraction=validation_fraction,
        shards=tuple(shards),
    )


def _shard(stem: str, source: str, split: Split, blocks: int, sequence_length: int) -> ShardInfo:
    md5 = _md5(stem)
    # The last token of the last block, and a few that are left over.
    num_tokens = blocks * sequence_length + 1 + int(md5[:8], 16) % sequence_length
    return ShardInfo(
        name=f"{stem}.bin",
        source=source,
        split=split,
        num_tokens=num_tokens,
        num_documents=1 + num_tokens // DOCUMENT_TOKENS,
        md5=md5,
        index_md5=_md5(stem + "/index"),
        dtype="uint32",
        cleaned_file="",
    )


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
