"""A model is trained on data of its own tokenizer only, through the real programs."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from flows.cli import main
from flows.commands import BAD_INPUT
from model.data import PackedManifest
from model.tokenizer.digest import digest_tokenizer
from model.tokenizer.encoder import ReferenceEncoder
from model.tokenizer.pruning import prune_tokenizer
from model.tokenizer.qwen import load_tokenizer, save_tokenizer
from tests.model.data.blocks import write_documents
from tests.model.train.ranks import settings, write_job
from tests.tiny_chat import save_tiny_model

TEXTS = ["炼钢先看火候，炼模型先看数据。", "The steel was forged in 1873.", "a b c d e f g " * 30]

SHAPE = {"hidden_size": 8, "expert_intermediate_size": 8, "max_position_embeddings": 64}


@dataclasses.dataclass
class Folders:
    packed: Path
    """Data packed with a pruned vocabulary."""
    model: Path
    """A model with the whole one."""


def write_packed(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert isinstance(end, int)
    found = ReferenceEncoder(tokenizer.backend_tokenizer).encode(
        [f"{number} {text}" for number in range(40) for text in TEXTS]
    )
    documents = [found[number].tolist() for number in range(found.num_texts)]
    shards = write_documents(
        folder / "shards", "s", documents, shard_tokens=10**6, validation_fraction=0.05, end=end
    )
    PackedManifest(
        vocab_size=len(tokenizer),
        end_of_document=end,
        tokenizer_digest=digest_tokenizer(tokenizer).digest,
        validation_fraction=0.05,
        shards=tuple(shards),
    ).write(folder / "shards")
    return folder


@pytest.fixture(scope="module")
def folders(full: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    folder = tmp_path_factory.mktemp("tokenizers")
    prune_tokenizer(full, TEXTS, folder / "packed" / "tokenizer")
    packed = write_packed(folder / "packed", load_tokenizer(folder / "packed" / "tokenizer"))
    model = save_tiny_model(folder / "model", full, seed=0, vocab_size=151_936, **SHAPE)  # type: ignore[arg-type]
    return Folders(packed, model)


def train(packed: Path, output: Path, **changes: Any) -> tuple[int, str]:
    """Exit code of the program that torchrun starts, and what it said."""
    job = write_job(packed, output, settings(**changes))
    command = [sys.executable, "-m", "model.entry.pretrain", str(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_a_whole_model_beside_pruned_data(folders: Folders, tmp_path: Path) -> None:
    code, said = train(folders.packed, tmp_path / "run", model=str(folders.model))
    assert code == BAD_INPUT, said
    pruned = load_tokenizer(folders.packed / "tokenizer")
    own = load_tokenizer(folders.model)
    for word in (
        str(folders.model),
        str(folders.packed),
        digest_tokenizer(own).digest[:12],
        digest_tokenizer(pruned).digest[:12],
        f"151,646 tokens instead of {len(pruned)}",
        f"pack.tokenizer: {folders.model}",
    ):
        assert word in said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_other_shards_than_the_tokenizer_beside_them(
    folders: Folders, full: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    shutil.copytree(folders.packed, tmp_path / "packed")
    shutil.rmtree(tmp_path / "packed" / "tokenizer")
    save_tokenizer(full, tmp_path / "packed" / "tokenizer")
    code, said = train(tmp_path / "packed", tmp_path / "run")
    assert code == BAD_INPUT
    assert "were packed with the tokenizer" in said


@pytest.mark.slow
def test_steel_check_compares_before_anything_runs(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(*values: str) -> tuple[int, str]:
        given = [word for value in values for word in ("--set", value)]
        code = main(["check", "deployments/smoke.yaml", "--store", str(tmp_path / "s"), *given])
        return code, capsys.readouterr().err

    start = f"pretrain.model={folders.model}"
    code, said = check(start, "pack.prune=true")
    assert code == BAD_INPUT
    assert (
        f"has 151,646 tokens of its own: set pack.prune: false and pack.tokenizer: {folders.model}"
        in said
    )
    # As the message says.
    assert check(start, "pack.prune=false", f"pack.tokenizer={folders.model}") == (0, "")

    pruned = tmp_path / "pruned"
    tokenizer = load_tokenizer(folders.packed / "tokenizer")
    save_tiny_model(pruned, tokenizer, seed=0, vocab_size=len(tokenizer), **SHAPE)  # type: ignore[arg-type]
    start = f"pretrain.model={pruned}"
    code, said = check(start, "pack.prune=false", f"pack.tokenizer={folders.model}")
    assert code == BAD_INPUT
    assert f"{len(tokenizer)} tokens instead of 151,646" in said
    assert check(start, "pack.prune=false", f"pack.tokenizer={pruned}") == (0, "")
    code, said = check(start, "pack.prune=true", f"pack.tokenizer={pruned}")
    assert code == BAD_INPUT
    assert "pack.prune cuts Qwen1.5's vocabulary" in said

    (pruned / "tokenizer.json").unlink()
    code, said = check(start, "pack.prune=false")
    assert code == BAD_INPUT
    assert "holds no tokenizer" in said
