"""A model is trained on data of its own tokenizer only, through the real programs."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from common.config import from_json
from common.errors import DataError
from flows.cli import main
from flows.commands import BAD_INPUT
from model.data import PackedManifest
from model.tokenizer.digest import digest_tokenizer
from model.tokenizer.encoder import ReferenceEncoder
from model.tokenizer.folder import load_folder_tokenizer
from model.tokenizer.identity import SEAL
from model.tokenizer.pruning import prune_tokenizer
from model.tokenizer.qwen import bpe_tables, build_tokenizer, load_tokenizer
from model.train.config import PretrainJob, PretrainSettings
from model.train.run.folder import METRICS_FILE
from model.train.tokenizers import training_tokenizer
from tests.corpus.packing.packed import TEXTS as TEXTS_BY_SOURCE
from tests.corpus.packing.packed import documents, pack_in, write_cleaned
from tests.model.data.blocks import write_documents
from tests.model.tokenizer.kinds import KINDS
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


@pytest.mark.slow
def test_a_whole_model_beside_pruned_data(folders: Folders, tmp_path: Path) -> None:
    code, said = train(folders.packed, tmp_path / "run", model=str(folders.model))
    assert code == BAD_INPUT, said
    pruned = load_tokenizer(folders.packed / "tokenizer")
    assert f"151,646 tokens instead of {len(pruned)}" in said
    assert f"pack.tokenizer: {folders.model}" in said


def model_of(folder: Path, tokenizer: PreTrainedTokenizerBase, rows: int) -> Path:
    return save_tiny_model(folder, tokenizer, seed=0, vocab_size=rows, **SHAPE)  # type: ignore[arg-type]


def configured(packed: Path, folder: Path, **changes: Any) -> PretrainSettings:
    return from_json(PretrainJob, write_job(packed, folder / "run", settings(**changes))).settings


def changed(packed: Path, change: str) -> PreTrainedTokenizerBase:
    """The tokenizer of packed data, or another one that is nearly the same."""
    tokenizer = load_folder_tokenizer(packed / "tokenizer")
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces = described["model"]["vocab"]
    if change == "exchanged ids":
        pieces["w3"], pieces["w5"] = pieces["w5"], pieces["w3"]
    if change == "another token":
        pieces["W3"] = pieces.pop("w3")
    if change == "one more":
        pieces["new"] = len(pieces)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)),
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
    )


OTHERS = {
    "exchanged ids": "id 3 is 'w5', not 'w3'",
    "another token": "id 3 is 'W3', not 'w3'",
    "one more": "65 tokens instead of 64; id 64 is 'new', not no token",
}
"""Change -> how a message calls it."""


@pytest.mark.parametrize("change", OTHERS)
def test_a_model_of_another_tokenizer_is_refused(packed: Path, tmp_path: Path, change: str) -> None:
    model = model_of(tmp_path / "model", changed(packed, change), 72)
    started = configured(packed, tmp_path, model=str(model))
    packed_with = PackedManifest.read(packed / "shards").tokenizer_digest
    with pytest.raises(DataError, match="mean other tokens") as refused:
        training_tokenizer(started, packed, packed_with)
    assert OTHERS[change] in str(refused.value)


def test_the_program_refuses_it_by_name(packed: Path, tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", changed(packed, "one more"), 72)
    code, said = train(packed, tmp_path / "run", model=str(model))
    assert code == BAD_INPUT, said
    digests = [
        digest_tokenizer(load_folder_tokenizer(folder)).digest[:12]
        for folder in (model, packed / "tokenizer")
    ]
    for word in (str(model), str(packed), *digests, f"pack.tokenizer: {model}"):
        assert word in said
    assert "Traceback" not in said
    assert not (tmp_path / "run" / METRICS_FILE).exists()


@pytest.mark.parametrize("rows", [64, 72])
def test_a_longer_embedding_is_no_other_tokenizer(packed: Path, tmp_path: Path, rows: int) -> None:
    """As of Qwen1.5: 151,936 rows for 151,646 tokens."""
    model = model_of(tmp_path / "model", changed(packed, "saved again"), rows)
    started = configured(packed, tmp_path, model=str(model))
    packed_with = PackedManifest.read(packed / "shards").tokenizer_digest
    assert digest_tokenizer(training_tokenizer(started, packed, packed_with)).digest == packed_with


def test_other_shards_than_the_tokenizer_beside_them(packed: Path, tmp_path: Path) -> None:
    shutil.copytree(packed, tmp_path / "packed")
    changed(packed, "exchanged ids").save_pretrained(tmp_path / "packed" / "tokenizer")
    packed_with = PackedManifest.read(packed / "shards").tokenizer_digest
    with pytest.raises(DataError, match="were packed with the tokenizer"):
        training_tokenizer(configured(packed, tmp_path), tmp_path / "packed", packed_with)


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

    # Pruning may give this vocabulary; not one of the same tokens with two ids exchanged.
    assert check(start, "pack.prune=true") == (0, "")
    vocabulary, merges = bpe_tables(tokenizer)
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    exchanged = save_tiny_model(
        tmp_path / "exchanged",
        build_tokenizer(vocabulary, merges),  # type: ignore[arg-type]
        seed=0,
        vocab_size=len(tokenizer),
        **SHAPE,  # type: ignore[arg-type]
    )
    code, said = check(f"pretrain.model={exchanged}", "pack.prune=true")
    assert code == BAD_INPUT
    assert f"no pruning of the vocabulary of auto gives that of the model {exchanged}" in said

    (pruned / "tokenizer.json").unlink()
    code, said = check(start, "pack.prune=false")
    assert code == BAD_INPUT
    assert "holds no tokenizer" in said


def test_data_packed_with_a_models_own_tokenizer_trains_it(tmp_path: Path) -> None:
    """As the refusal says: pack.tokenizer is the folder of the model; any family's tokenizer."""
    own = KINDS["llama-3"]()
    model = model_of(tmp_path / "model", own, len(own) + 5)
    cleaned = write_cleaned(tmp_path / "cleaned", {"zh": TEXTS_BY_SOURCE["zh"] * 30})
    run = pack_in(tmp_path / "packed", cleaned, tokenizer=str(model), validation_fraction=0.1)
    manifest = PackedManifest.read(tmp_path / "packed" / "shards")
    assert manifest.tokenizer_digest == run.notes["tokenizer_digest"]
    assert manifest.tokenizer_digest == digest_tokenizer(own).digest
    assert manifest.end_of_document == own.convert_tokens_to_ids("<|eot_id|>")
    found = documents(tmp_path / "packed")["zh"]
    texts = [own.decode(ids[:-1]) for ids in found]
    assert sorted({*texts}) == sorted({*TEXTS_BY_SOURCE["zh"]})
    for ids, text in zip(found, texts, strict=True):
        assert ids[:-1] == own.encode(text, add_special_tokens=False)

    code, said = train(
        tmp_path / "packed", tmp_path / "run", model=str(model), steps=3, warmup_steps=1
    )
    assert code == 0, said
    exported = tmp_path / "run" / "model"
    assert digest_tokenizer(load_folder_tokenizer(exported)).digest == manifest.tokenizer_digest
    assert (exported / SEAL).is_file()
