"""Small models and small packed data for every test of the model."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch

from model import SteelConfig, SteelForCausalLM
from model.data import PackedManifest, ShardInfo
from model.data.held_out import Split
from model.soft_moe import LeakWarning
from tests.model.data.blocks import write_documents

VOCABULARY = 61
END = 0
Simulate = Callable[..., PackedManifest]
Pack = Callable[..., PackedManifest]


@pytest.fixture
def make_model() -> Callable[..., SteelForCausalLM]:
    """Build an evaluation-mode model of 2 layers from a fixed seed; keywords change its config."""

    def build(seed: int = 0, **changes: object) -> SteelForCausalLM:
        shape = {
            "vocab_size": VOCABULARY,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "expert_intermediate_size": 10,
            "num_experts": 3,
            "max_position_embeddings": 64,
            "eos_token_id": 1,
            "pad_token_id": 0,
        }
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeakWarning)
            return SteelForCausalLM(SteelConfig(**{**shape, **changes})).eval()

    return build


@pytest.fixture
def tokens() -> torch.Tensor:
    """Token ids [3, 12] of a fixed seed, none of them special."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(2, VOCABULARY, (3, 12), generator=generator)


@pytest.fixture(scope="session")
def simulate() -> Simulate:
    """Manifest of shards that exist on paper only: simulate({"zh": [100, 50]}, prefix="a").

    validation: sizes of shards of held-out documents; the fraction says how many documents were.
    """

    def make(
        sizes: Mapping[str, Sequence[int]],
        prefix: str = "",
        validation: Mapping[str, Sequence[int]] | None = None,
        fraction: float | None = None,
    ) -> PackedManifest:
        splits: list[tuple[Split, str, Mapping[str, Sequence[int]]]] = [
            ("train", "", sizes),
            ("validation", "-validation", validation or {}),
        ]
        shards = [
            ShardInfo(
                name=f"{prefix}{source}{suffix}-{number:05d}.bin",
                source=source,
                split=split,
                num_tokens=tokens,
                num_documents=1,
                md5=hashlib.md5(f"{prefix}/{source}{suffix}/{number}".encode()).hexdigest(),
                index_md5="0" * 32,
                dtype="uint32",
                cleaned_file=f"{source}.jsonl",
            )
            for split, suffix, each in splits
            for source, all_tokens in each.items()
            for number, tokens in enumerate(all_tokens)
        ]
        return PackedManifest(
            vocab_size=1000,
            end_of_document=END,
            tokenizer_digest="1" * 32,
            validation_fraction=(0.1 if validation else 0.0) if fraction is None else fraction,
            shards=tuple(shards),
        )

    return make


@pytest.fixture(scope="session")
def pack() -> Pack:
    """Write real shards: pack(folder, {"zh": [[5, 6], [7]]}, shard_tokens=4)."""

    def make(
        folder: Path,
        documents: Mapping[str, Sequence[Sequence[int]]],
        shard_tokens: int = 50,
        validation_fraction: float = 0.0,
    ) -> PackedManifest:
        shards: list[ShardInfo] = []
        for source, texts in documents.items():
            shards += write_documents(
                folder,
                source,
                texts,
                shard_tokens=shard_tokens,
                validation_fraction=validation_fraction,
                end=END,
            )
        manifest = PackedManifest(
            vocab_size=1000,
            end_of_document=END,
            tokenizer_digest="1" * 32,
            validation_fraction=validation_fraction,
            shards=tuple(shards),
        )
        manifest.write(folder)
        return PackedManifest.read(folder)

    return make
