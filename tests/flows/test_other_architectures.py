"""`steel check` of a configuration whose model is of another architecture than ours."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.commands import BAD_INPUT
from flows.config import parse_pipeline

SMOKE = Path("deployments/smoke.yaml")
LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LEAKING: dict[str, dict[str, Any]] = {
    "falcon": LAYERS,
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 2},
    "opt": {**LAYERS, "ffn_dim": 24, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
}
QWEN3_MOE = {
    **LAYERS,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 48,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}


def own(folder: Path, model: dict[str, Any], **pretrain: Any) -> Path:
    """A configuration that inherits all but its model."""
    about = {
        "base": str(SMOKE.resolve()),
        "pretrain": {"model": model, **pretrain},
        "sft": {"max_length": 256},  # positions of a model that states none: sequence_length
        "dpo": {"max_length": 256},
    }
    path = folder / "own.yaml"
    path.write_text(json.dumps(about), encoding="utf-8")
    return path


def check(path: Path, store: Path, *overrides: str) -> int:
    words = [word for override in overrides for word in ("--set", override)]
    return main(["check", str(path), "--store", str(store), *words])


@pytest.mark.parametrize("kind", LEAKING)
def test_documents_that_see_each_other_are_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own(tmp_path, {"model_type": kind, **LEAKING[kind]})
    assert check(path, tmp_path / "store") == BAD_INPUT
    [message] = capsys.readouterr().err.splitlines()  # no warnings of Transformers beside it
    assert f"pretrain: model_type {kind!r}" in message
    assert "set separate_documents: false" in message
    assert not (tmp_path / "store").exists()
    # Where the user says that they may, they may.
    assert check(path, tmp_path / "store", "pretrain.separate_documents=false") == 0


def test_a_mixture_of_experts_is_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = own(tmp_path, {"model_type": "qwen3_moe", **QWEN3_MOE})
    assert check(path, tmp_path / "store") == 0
    path = own(tmp_path, {"model_type": "qwen3_moe", **QWEN3_MOE, "head_dimm": 8})
    assert check(path, tmp_path / "store") == BAD_INPUT
    assert "qwen3_moe has no config field 'head_dimm'" in capsys.readouterr().err


def test_the_inherited_model_is_replaced_not_mixed_in(tmp_path: Path) -> None:
    """Its `num_experts` and `rope_theta` would be another architecture's, too."""
    model = {"model_type": "qwen3_moe", **QWEN3_MOE}
    assert pretrained_model(own(tmp_path, model)) == model
    overrides = ["pretrain.model.hidden_size=64", "pretrain.model.model_type=llama"]
    for given in (overrides, overrides[::-1]):
        assert pretrained_model(SMOKE, *given) == {"model_type": "llama", "hidden_size": 64}
    assert pretrained_model(SMOKE, "pretrain.model.model_type=steel")["num_experts"] == 6


def pretrained_model(path: Path, *overrides: str) -> Any:
    config = parse_pipeline(str(path), overrides).value
    assert config is not None
    return config.pretrain.model
