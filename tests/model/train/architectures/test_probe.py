"""Architectures that would not train as they should are refused before the data are read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from common.errors import ConfigError
from model.load import load_causal_lm
from model.train.architectures import probe, tested
from model.train.architectures.probe import check_architecture, tiny_model
from model.train.architectures.tiny import tiny_config
from model.train.architectures.tokens import ROWS
from model.train.config import PretrainSettings
from model.train.finetune.build import choose_packing
from model.train.finetune.config import SftJob, SftSettings
from model.train.model_settings import check_model
from model.train.trainer import Trainer
from tests.model.train import ranks
from tests.model.train.architectures.shapes import GPT_OSS, SMALL, WIDE, smallest

MakeRun = Callable[..., Trainer]
CPU = torch.device("cpu")
SEE_EACH_OTHER = "documents that share a row see each other.* set separate_documents: false"
MAMBA = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 2}
HEADS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
OPT = {**HEADS, "ffn_dim": 24, "word_embed_proj_dim": 16}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mamba": (MAMBA, SEE_EACH_OTHER),
    "falcon": (HEADS, SEE_EACH_OTHER),
    "opt": (OPT, SEE_EACH_OTHER),
    "bloom": ({"hidden_size": 16, "n_layer": 2, "n_head": 2}, SEE_EACH_OTHER),
    "recurrent_gemma": ({**HEADS, "num_hidden_layers": 3, "lru_width": 16}, SEE_EACH_OTHER),
    "gpt_oss": (GPT_OSS, SEE_EACH_OTHER),
    "bert": (HEADS, "is not causal"),
    "bart": ({"d_model": 16, "decoder_layers": 2}, "weights that no text would train .*encoder"),
    "t5": ({}, "'t5' has no causal language model"),
    "gemma3n": ({}, "cannot build a 'gemma3n' .*timm"),
    "dbrx": ({}, "cannot build a 'dbrx'"),
    "reformer": ({}, "cannot build a 'reformer' .*is_decoder"),
    "gemma4_assistant": ({}, "hidden_size_per_layer_input"),
    "perceptron": ({}, "'perceptron' is unknown"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_with_one_sentence(kind: str) -> None:
    model, reason = REFUSED[kind]
    with pytest.raises(ConfigError, match=reason) as caught:
        check_model(PretrainSettings(model={"model_type": kind, **model}, sequence_length=32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["mamba", "opt", "bloom", "falcon"])
def test_joined_documents_are_allowed(kind: str) -> None:
    model = {"model_type": kind, **REFUSED[kind][0]}
    check_model(PretrainSettings(model=model, sequence_length=32, separate_documents=False))
    assert kind in tested.JOINED_ONLY


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000; it must be at most 1"),
        ({"num_hidden_layers": 2000}, "num_hidden_layers = 2000; it must be at most 1,000"),
        ({"hidden_size": 10**30}, "hidden_size = .*(is too large|at most)"),
        ({"hidden_size": 2**39}, "cannot build a 'llama'|at most|too large"),
        ({"hidden_size": -4}, "llama"),
        ({"hidden_size": [4]}, "hidden_size"),
        ({"max_position_embeddings": 16}, "max_position_embeddings = 16 is less than sequence_len"),
        ({"attn_implementation": "flex_attention"}, "no config field 'attn_implementation'"),
        ({"model_type": ["llama"]}, "unknown to Transformers"),
    ],
    ids=str,
)
def test_values_that_no_model_has(model: dict[str, Any], message: str) -> None:
    given = {"model_type": "llama", **WIDE, **model}
    with pytest.raises(ConfigError, match=message):
        check_model(PretrainSettings(model=given, sequence_length=32))
    if "num_hidden_layers" in model:
        with pytest.raises(ConfigError, match=message):
            check_model(PretrainSettings(model=model))


def test_more_than_the_memory_is_refused(make_run: MakeRun) -> None:
    model = {**ranks.TINY, "expert_intermediate_size": 9_000_000, "num_hidden_layers": 50}
    with pytest.raises(ConfigError, match=r"weights and optimizer state take [\d,]+ GiB"):
        make_run(model=model)


def test_it_is_refused_when_the_run_is_built(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=SEE_EACH_OTHER):
        make_run(model={"model_type": "opt", **OPT})


class Leaking(torch.nn.Module):
    """Adds a little of the first token to every other."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + 1e-3 * hidden[:, :1]


class LookingAhead(torch.nn.Module):
    """Adds a little of the next token to each."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + 1e-3 * hidden.roll(-1, dims=1)


class LeakingAJump(torch.nn.Module):
    """Adds the sign of the first token, which has no gradient."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + 1e-2 * hidden[:, :1].sign()


class LeakingIntoAShortDocument(torch.nn.Module):
    """Adds a little of the first token to a document that is shorter than a kernel would be."""

    def forward(self, hidden: Tensor) -> Tensor:
        start = sum(ROWS[0][:2])
        before = torch.zeros_like(hidden)
        before[:, start : start + 1] = 1e-3 * hidden[:, :1]
        return hidden + before if hidden.shape[1] > start else hidden


class Remembering(torch.nn.Module):
    """Adds a little of the batch before."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(())

    def forward(self, hidden: Tensor) -> Tensor:
        last, self.last = self.last, hidden.detach().mean(dim=(0, 1))
        return hidden + 1e-2 * last


class MixingRows(torch.nn.Module):
    """Adds a little of another row."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + 1e-3 * hidden.roll(1, dims=0)


class NotFinite(torch.nn.Module):
    """Makes no numbers."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * float("nan")


def break_norm(monkeypatch: pytest.MonkeyPatch, change: type[torch.nn.Module]) -> None:
    """Put a fault behind the last norm of every tiny model, none of which has passed before."""

    def broken(*args: Any, **kwargs: Any) -> Any:
        model = tiny_model(*args, **kwargs)
        norm = model.model.base_model.norm
        model.model.base_model.norm = torch.nn.Sequential(norm, change())
        return model

    monkeypatch.setattr(probe, "tiny_model", broken)
    monkeypatch.setattr(probe, "_passed", set())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *((leak, SEE_EACH_OTHER) for leak in (Leaking, LeakingAJump, LeakingIntoAShortDocument)),
        (Remembering, "carries something from one batch to the next"),
        (MixingRows, "rows of a batch see each other"),
        (LookingAhead, "is not causal"),
        (NotFinite, "losses that are not finite"),
    ],
)
def test_a_small_fault_is_found(
    monkeypatch: pytest.MonkeyPatch, change: type[torch.nn.Module], message: str
) -> None:
    """In an architecture that passes without."""
    config = CONFIG_MAPPING["llama"](**SMALL["llama"], vocab_size=64)
    check_architecture(config, attention="sdpa", separate_documents=True)
    break_norm(monkeypatch, change)
    with pytest.raises(ConfigError, match=message):
        check_architecture(config, attention="sdpa", separate_documents=True)


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        ((0, 0, 1, -1), "see each other: the gradient of the loss of one reaches another"),
        ((0, 0, -1, 1), "is not causal: the gradient of a loss reaches later tokens"),
    ],
    ids=["documents", "ahead"],
)
def test_a_faint_fault_is_found_by_its_gradient(
    monkeypatch: pytest.MonkeyPatch, padding: tuple[int, ...], message: str
) -> None:
    """So little of a neighbour changes values by less than their rounding."""

    class Faint(torch.nn.Module):
        def forward(self, hidden: Tensor) -> Tensor:
            return hidden + 1e-5 * torch.nn.functional.pad(hidden, padding)

    config = CONFIG_MAPPING["llama"](**SMALL["llama"], vocab_size=64)
    break_norm(monkeypatch, Faint)
    with pytest.raises(ConfigError, match=message):
        check_architecture(config, attention="sdpa", separate_documents=True)


def test_weights_without_a_gradient_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        model = tiny_model(*args, **kwargs)
        model.model.register_parameter("idle", torch.nn.Parameter(torch.ones(2)))
        return model

    monkeypatch.setattr(probe, "tiny_model", broken)
    monkeypatch.setattr(probe, "_passed", set())
    config = CONFIG_MAPPING["qwen2"](**SMALL["qwen2"], vocab_size=64)
    with pytest.raises(ConfigError, match=r"has 1 weights that no text would train \(idle"):
        check_architecture(config, attention="eager", separate_documents=False)


def test_random_numbers_stay_as_they_are() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    config = CONFIG_MAPPING["qwen2"](**SMALL["qwen2"], vocab_size=60)
    check_architecture(config, attention="sdpa", separate_documents=True)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "mixtral"])
def test_each_attention_of_a_cpu_keeps_documents_apart(kind: str, attention: str) -> None:
    config = CONFIG_MAPPING[kind](**SMALL[kind], vocab_size=64)
    check_architecture(config, attention=attention, separate_documents=True)


def test_a_large_config_becomes_small_and_keeps_every_kind_of_layer() -> None:
    config = CONFIG_MAPPING["gemma3_text"](
        hidden_size=3840,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=256,
        intermediate_size=15360,
        num_hidden_layers=48,
        sliding_window=1024,
    )
    small = tiny_config(config)
    assert (small.hidden_size, small.num_attention_heads, small.num_key_value_heads) == (60, 4, 2)
    assert (small.head_dim, small.num_hidden_layers, small.sliding_window) == (16, 8, 8)
    assert set(small.layer_types) == set(config.layer_types)
    assert len(small.layer_types) == 8
    assert config.hidden_size == 3840, "left as it was"


def test_widths_that_kernels_ask_for_are_kept() -> None:
    """The experts of gpt_oss want a multiple of 16 bytes, and a sixteenth of 2,880 has 720."""
    config = CONFIG_MAPPING["gpt_oss"](num_local_experts=4)
    assert tiny_config(config).hidden_size == 45
    assert tiny_config(config, multiple=4).hidden_size == 180
    assert tiny_config(config, multiple=8).hidden_size == 360
    check_architecture(config, attention="eager", separate_documents=False)


def test_scaling_by_the_place_in_the_row_is_found() -> None:
    """Only where rows are so long that llama4 scales: places are the row's, not the document's."""
    model = {**smallest("llama4_text"), "floor_scale": 64, "attn_temperature_tuning": True}
    check_model(PretrainSettings(model=model, sequence_length=63))
    with pytest.raises(ConfigError, match="does not begin anew at each document of a row"):
        check_model(PretrainSettings(model=model, sequence_length=64))
    check_model(PretrainSettings(model=model, sequence_length=64, separate_documents=False))


# ── folders ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = CONFIG_MAPPING["llama"](**SMALL["llama"], vocab_size=64)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def describe(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("attention", ["flex_attention", "flash_attention_2"])
def test_attention_of_a_gpu_in_a_folder_is_refused_on_a_cpu(folder: Path, attention: str) -> None:
    """Flex attention would run there, and give NaN once there are gradients."""
    describe(folder, attn_implementation=attention)
    with pytest.raises(ConfigError, match=f"{attention}.*needs a GPU|cannot be loaded"):
        load_causal_lm(folder, torch.float32, CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize("name", ["flex_attention", "varlen", "flash_attention_2"])
@pytest.mark.parametrize("model", [{}, {"model_type": "llama", **WIDE}], ids=["steel", "llama"])
def test_attention_of_a_gpu_is_refused_before_anything(name: Any, model: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' needs a GPU"):
        check_model(PretrainSettings(model=model, attn_implementation=name, sequence_length=32))


def test_a_folder_with_code_of_its_own_is_refused(folder: Path) -> None:
    describe(folder, model_type="mine", auto_map={"AutoConfig": "mine.MineConfig"})
    with pytest.raises(ConfigError, match="'mine' is none that this version of Transformers"):
        check_model(PretrainSettings(model=str(folder), sequence_length=32))
    with pytest.raises(ConfigError, match="none that this version of Transformers"):
        load_causal_lm(folder, torch.float32, CPU)


def packed_job(folder: Path, kind: str, values: dict[str, Any]) -> SftJob:
    CONFIG_MAPPING[kind](**values, vocab_size=64).save_pretrained(folder)
    job = {"model": str(folder), "data": "", "output": "", "scratch": ""}
    return SftJob(settings=SftSettings(packing=True, max_length=32), **job)


def test_conversations_are_not_packed_where_they_would_see_each_other(tmp_path: Path) -> None:
    assert choose_packing(packed_job(tmp_path, "qwen2", SMALL["qwen2"]), CPU).packed
    with pytest.raises(ConfigError, match=f"packing: true: .*{SEE_EACH_OTHER}.*packing: false"):
        choose_packing(packed_job(tmp_path, "opt", OPT), CPU)
