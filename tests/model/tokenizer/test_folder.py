"""A model's folder holds the model's own tokenizer, or is refused by name."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from common.errors import DataError
from common.paths import ROOT
from model.tokenizer.digest import digest_tokenizer
from model.tokenizer.folder import (
    check_model_folder,
    check_same,
    load_folder_tokenizer,
    save_digest,
)
from model.tokenizer.identity import SEAL
from model.tokenizer.qwen import build_tokenizer, save_tokenizer
from model.tokenizer.tiktoken import byte_characters
from tests.model.tokenizer.kinds import KINDS
from tests.tiny_chat import byte_tokenizer, write_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with its tokenizer, sealed."""
    write_model(tmp_path / "model")
    save_digest(load_folder_tokenizer(tmp_path / "model"), tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_sound_folder_passes(folder: Path) -> None:
    check_model_folder(folder)
    assert digest_tokenizer(load_folder_tokenizer(folder)) == digest_tokenizer(byte_tokenizer())


def test_the_type_of_our_models_is_known_where_only_the_tokenizer_is_read(tmp_path: Path) -> None:
    """Otherwise Transformers warns of a model of an unknown type, into every log."""
    write_model(tmp_path / "model")
    # A class of tokenizer for which AutoTokenizer looks into config.json.
    tokenizer = build_tokenizer({c: i for i, c in enumerate(byte_characters())}, [])
    save_tokenizer(tokenizer, tmp_path / "t")
    shutil.copy(tmp_path / "model" / "config.json", tmp_path / "t")
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from model.tokenizer.folder import load_folder_tokenizer\n"
        "load_folder_tokenizer(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "t")], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_without_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"holds no tokenizer.*tokenizer.json"):
        check_model_folder(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be loaded"):
        check_model_folder(folder)


def test_exchanged_files(folder: Path) -> None:
    KINDS["llama-3"]().save_pretrained(folder)
    with pytest.raises(DataError, match=r"267 tokens, but .* trained with .* 259: they differ in"):
        load_folder_tokenizer(folder)
    (folder / SEAL).unlink()  # as a folder from elsewhere: its own files count
    load_folder_tokenizer(folder)


def test_another_chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(DataError, match=r"chat template in .* is not the one"):
        load_folder_tokenizer(folder)


def test_a_damaged_seal(folder: Path) -> None:
    (folder / SEAL).write_text('{"schema_version": 9}')
    with pytest.raises(DataError, match="schema_version 9"):
        load_folder_tokenizer(folder)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config", {"vocab_size": 200}, "config.vocab_size is 200, but .* ids up to 258"),
        ("config", {"eos_token_id": 300}, "eos_token_id in config is 300, which .* not have"),
        ("config", {"eos_token_id": 5}, "eos_token_id in config is 5, an ordinary token"),
        ("config", {"eos_token_id": 257}, r"eos_token_id is \[257\], in the tokenizer 256"),
        ("config", {"pad_token_id": 5}, "pad_token_id in config is 5 .*, in the tokenizer 256"),
        ("config", {"bos_token_id": 400}, "bos_token_id in config is 400, which"),
        ("generation_config", {"eos_token_id": [258, 7]}, "eos_token_id in generation_config is 7"),
        ("generation_config", {"pad_token_id": 258}, "pad_token_id in generation_config is 258"),
    ],
)
def test_ids_that_do_not_fit(
    folder: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    if "vocab_size" not in changes and name == "config":
        (folder / "generation_config.json").unlink()
    edit(folder / f"{name}.json", **changes)
    with pytest.raises(DataError, match=message):
        check_model_folder(folder)


def test_ids_that_fit(folder: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=[258, 256])
    edit(folder / "config.json", bos_token_id=None, pad_token_id=-1)
    check_model_folder(folder)


def test_a_generation_config_that_corrects_the_config(folder: Path) -> None:
    """DeepSeek's distilled models: bos_token_id is Qwen's in config.json, and theirs beside it."""
    tokenizer = load_folder_tokenizer(folder)
    tokenizer.bos_token = "<|im_start|>"
    (folder / SEAL).unlink()
    tokenizer.save_pretrained(folder)
    edit(folder / "config.json", bos_token_id=256)
    with pytest.raises(DataError, match=r"bos_token_id in config is 256 .*, in the tokenizer 257"):
        check_model_folder(folder)
    edit(folder / "generation_config.json", bos_token_id=257)
    check_model_folder(folder)


def test_an_embedding_of_too_few_rows(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    (name,) = [name for name in weights if name.endswith("embed_tokens.weight")]
    weights[name] = weights[name][:100].clone()
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"embedding .*embed_tokens\.weight is 100, but"):
        check_model_folder(folder)


def test_a_class_that_reads_the_file_otherwise(tmp_path: Path) -> None:
    """Transformers builds some tokenizers anew, and ignores what the file says of normalization."""
    tokenizer = build_tokenizer({c: i for i, c in enumerate(byte_characters())}, [])
    save_tokenizer(tokenizer, tmp_path / "t")
    load_folder_tokenizer(tmp_path / "t")
    edit(tmp_path / "t" / "tokenizer.json", normalizer={"type": "NFKC"})
    with pytest.raises(DataError, match=r"Qwen2Tokenizer.* differ in the normalizer"):
        load_folder_tokenizer(tmp_path / "t")


def test_two_tokenizers_are_compared_by_name(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "other")
    same = load_folder_tokenizer(folder), load_folder_tokenizer(tmp_path / "other")
    check_same(same[0], "one", same[1], "other")
    digests = [digest_tokenizer(t).digest[:12] for t in (same[0], KINDS["llama-3"]())]
    with pytest.raises(DataError) as refused:
        check_same(same[0], "model A", KINDS["llama-3"](), "data B")
    for word in ("model A", "data B", *digests, "259 tokens instead of 267", "id "):
        assert word in str(refused.value)


def test_the_models_type_does_not_choose_another_tokenizer(folder: Path) -> None:
    """AutoTokenizer would build Qwen2Tokenizer beside any model of that type."""
    edit(folder / "config.json", model_type="qwen2")
    assert digest_tokenizer(load_folder_tokenizer(folder)) == digest_tokenizer(byte_tokenizer())
