"""Small packed data, simulated (a manifest alone) or real (files)."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from model.data import PackedManifest, ShardInfo, ShardWriter

END = 0
Simulate = Callable[..., PackedManifest]
Pack = Callable[..., PackedManifest]


@pytest.fixture(scope="session")
def simulate() -> Simulate:
    """Manifest of shards that exist on paper only: simulate({"zh": [100, 50]}, prefix="a")."""

    def make(sizes: Mapping[str, Sequence[int]], prefix: str = "") -> PackedManifest:
        shards = [
            ShardInfo(
                name=f"{prefix}{source}-{number:05d}.bin",
                source=source,
                num_tokens=tokens,
                num_documents=1,
                md5=hashlib.md5(f"{prefix}/{source}/{number}".encode()).hexdigest(),
                index_md5="0" * 32,
                dtype="uint32",
                cleaned_file=f"{source}.jsonl",
            )
            for source, all_tokens in sizes.items()
            for number, tokens in enumerate(all_tokens)
        ]
        return PackedManifest(
            vocab_size=1000, end_of_document=END, tokenizer_md5="1" * 32, shards=tuple(shards)
        )

    return make


@pytest.fixture(scope="session")
def pack() -> Pack:
    """Write real shards: pack(folder, {"zh": [[5, 6], [7]]}, shard_tokens=4)."""

    def make(
        folder: Path, documents: Mapping[str, Sequence[Sequence[int]]], shard_tokens: int = 50
    ) -> PackedManifest:
        shards: list[ShardInfo] = []
        for source, texts in documents.items():
            with ShardWriter(
                folder, source=source, dtype="uint16", shard_tokens=shard_tokens
            ) as writer:
                for number, ids in enumerate(texts):
                    writer.add_document([*ids, END], position=number + 1)
            shards += writer.shards
        manifest = PackedManifest(
            vocab_size=1000, end_of_document=END, tokenizer_md5="1" * 32, shards=tuple(shards)
        )
        manifest.write(folder)
        return PackedManifest.read(folder)

    return make


@pytest.fixture
def packed(tmp_path: Path, pack: Pack) -> PackedManifest:
    """Two sources, several shards; every token of the folder is another number."""
    ids = iter(range(1, 1000))
    documents = {
        source: [[next(ids) for _ in range(3 + number % 7)] for number in range(40)]
        for source in ("en", "zh")
    }
    return pack(tmp_path / "shards", documents)
