"""The published names, both ways: what `steel import` read is what `steel export` writes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from common.errors import ConfigError
from flows.cli import main
from model.convert import import_published
from model.export.folder import export_model
from model.tokenizer.digest import digest_tokenizer
from model.tokenizer.folder import load_folder_tokenizer
from tests.model import test_convert
from tests.tiny_chat import byte_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:routing=:model.soft_moe.LeakWarning")


CONFIG = {
    **test_convert.CONFIG,
    "vocab_size": 264,
    "bos_token_id": None,
    "eos_token_id": byte_tokenizer().eos_token_id,
}
"""Ids that the tokenizer beside the weights has."""


def published_tensors() -> dict[str, Tensor]:
    """As many embeddings as the tokenizer needs."""
    tensors = test_convert.published_tensors()
    rows = torch.randn(264, test_convert.D, generator=torch.Generator().manual_seed(1))
    return {**tensors, "model.embed_tokens.weight": rows, "lm_head.weight": rows.flip(0).clone()}


def write(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any] = CONFIG) -> Path:
    return test_convert.write(folder, tensors, config)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"rope_theta": 5e5}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_there_and_back(tmp_path: Path, changes: dict[str, Any], dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in published_tensors().items()}
    if changes.get("tie_word_embeddings"):
        del tensors["lm_head.weight"]
    source = write(tmp_path / "source", tensors, {**CONFIG, **changes})
    import_published(source, tmp_path / "ours")
    done = export_model(tmp_path / "ours", tmp_path / "back", form="published", max_shard="30KB")
    assert (done.form, done.code) == ("published", False) and done.files > 1
    assert done.remark == "put the published code beside it"
    stored = {
        name: tensor
        for path in (tmp_path / "back").glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert stored[name].dtype == dtype and torch.equal(stored[name], tensor), name
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    given = {**CONFIG, **changes, "architectures": ["Qwen2ForCausalLM"]}
    for name in given.keys() - {"torch_dtype", "auto_map", "transformers_version"}:
        assert config[name] == given[name], name
    assert config["torch_dtype"] == str(dtype).removeprefix("torch.")
    assert not {"routing", "dtype", "num_experts", "kernels"} & config.keys()
    tokenizers = [load_folder_tokenizer(tmp_path / name) for name in ("source", "back")]
    assert len({digest_tokenizer(each).digest for each in tokenizers}) == 1
    import_published(tmp_path / "back", tmp_path / "again")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"routing": "sequence"}, "its routing is sequence"),
        ({"routing": "token"}, "its routing is token"),
        ({"gain": 2.0}, "scales the output"),
    ],
)
def test_what_the_published_code_would_compute_differently_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    import_published(write(tmp_path / "source", published_tensors()), tmp_path / "ours")
    path = tmp_path / "ours" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ConfigError, match=words):
        export_model(tmp_path / "ours", tmp_path / "back", form="published")
    assert not (tmp_path / "back").exists()


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "source", published_tensors())
    assert main(["import", str(source), str(tmp_path / "ours")]) == 0
    to = ["--to", str(tmp_path / "back"), "--form", "published"]
    assert main(["export", str(tmp_path / "ours"), *to]) == 0
    printed = capsys.readouterr()
    assert "under the published names of Steel-LLM" in printed.out
    assert "put the published code beside it" in printed.err
    shutil.rmtree(tmp_path / "back")
    # Imported with another routing it is another model, which has no published form.
    routed = str(tmp_path / "routed")
    assert main(["import", str(source), routed, "--routing", "token"]) == 0
    assert main(["export", routed, *to]) == 2
    assert "it would give other logits" in capsys.readouterr().err
