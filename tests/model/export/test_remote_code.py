"""The code beside exported weights computes what the model here computes, to the last bit."""

import ast
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from model import SteelForCausalLM
from model.export.remote_code import (
    AUTO_MAP,
    CONFIGURATION_FILE,
    MODELING_FILE,
    OLDEST_TRANSFORMERS,
    remote_code,
)

MakeModel = Callable[..., SteelForCausalLM]
PACKAGE = "exported_steel"


@pytest.fixture(scope="module")
def modeling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The files as a package of their own, as Transformers imports them."""
    folder = tmp_path_factory.mktemp("code") / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name, text in remote_code().items():
        (folder / name).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(folder.parent))
    try:
        yield importlib.import_module(f"{PACKAGE}.modeling_steel")
    finally:
        sys.path.remove(str(folder.parent))
        for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
            del sys.modules[name]


def copied(modeling: ModuleType, model: SteelForCausalLM) -> Any:
    """The same model by the code of the files."""
    config = modeling.SteelConfig(**{**model.config.to_dict(), "kernels": "triton"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", modeling.LeakWarning)
        other = modeling.SteelForCausalLM(config).eval()
    assert type(other) is not type(model)
    other.load_state_dict(model.state_dict())
    return other


VARIANTS: list[dict[str, Any]] = [
    {},
    {"routing": "sequence"},
    {"routing": "reference_norm", "slots_per_expert": 2},
    {"routing": "sequence", "decode_with_cache": True},
    {"routing": "dense"},
    {"routing": "uniform", "learn_gain": True},
    {"slots_per_expert": 3, "num_experts": 2},
    {"learn_gain": True, "gain": 1.7},
    {"gain": 0.5, "tie_word_embeddings": True, "head_dim": None},
    {"num_key_value_heads": 4, "pad_head_dim": 16},
    {"kernels": {"rope": "eager"}},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@torch.no_grad()
def test_logits_are_equal_for_every_kind_of_call(
    modeling: ModuleType, make_model: MakeModel, tokens: torch.Tensor, changes: dict[str, Any]
) -> None:
    ours = make_model(**changes)
    theirs = copied(modeling, ours)
    mask = torch.ones_like(tokens)
    left, right = mask.clone(), mask.clone()
    left[0, :5], right[1, 7:] = 0, 0
    packed = torch.arange(12).expand(3, -1).clone()
    packed[:, 5:] -= 5
    bounds = torch.tensor([0, 4, 12, 24, 30, 36], dtype=torch.int32)
    calls: list[dict[str, Any]] = [
        {"input_ids": tokens},
        {"input_ids": tokens, "attention_mask": left},
        {"input_ids": tokens, "attention_mask": right, "labels": tokens},
        {"input_ids": tokens, "position_ids": packed},
        {"input_ids": tokens, "cu_seq_lens_q": bounds, "max_length_q": 12},
        {"inputs_embeds": ours.get_input_embeddings()(tokens), "logits_to_keep": 2},
        {"input_ids": tokens, "output_hidden_states": True, "use_cache": False},
    ]
    for call in calls:
        one, other = ours(**call), theirs(**call)
        assert torch.equal(one.logits, other.logits), call.keys()
        assert (one.loss is None) == (other.loss is None)
        assert one.loss is None or torch.equal(one.loss, other.loss)
    made = [
        model.generate(tokens[:, :4], attention_mask=left[:, :4], max_new_tokens=6, do_sample=False)
        for model in (ours, theirs)
    ]
    assert torch.equal(*made)


def test_it_can_be_trained_further(
    modeling: ModuleType, make_model: MakeModel, tokens: torch.Tensor
) -> None:
    ours = make_model(learn_gain=True)
    theirs = copied(modeling, ours)
    for model in (ours, theirs):
        model.train()
        model.gradient_checkpointing_enable()
        model(tokens, labels=tokens).loss.backward()
    other = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None and torch.equal(parameter.grad, other[name].grad), name


def test_a_new_model_starts_as_ours_does(modeling: ModuleType, make_model: MakeModel) -> None:
    ours = make_model(seed=3)
    torch.manual_seed(3)
    theirs = modeling.SteelForCausalLM(modeling.SteelConfig(**ours.config.to_dict()))
    for (name, one), other in zip(
        ours.state_dict().items(), theirs.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_the_files_import_nothing_of_the_project() -> None:
    code = remote_code()
    assert set(code) == {CONFIGURATION_FILE, MODELING_FILE}
    for name, text in code.items():
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                roots = {(node.module or "").split(".")[0]}
            else:
                continue
            assert roots <= {"torch", "transformers", *sys.stdlib_module_names}, (name, roots)
        defined = [
            node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)
        ]
        assert len(defined) == len(set(defined)), "a name is defined twice"
        assert "triton" not in text.replace('"triton"', "").replace("`triton`", "").lower()
    for place in AUTO_MAP.values():
        file, name = place.split(".")
        assert f"class {name}(" in code[f"{file}.py"]


def test_the_oldest_transformers_is_that_of_the_project(root: Path) -> None:
    major, minor = OLDEST_TRANSFORMERS
    assert f'"transformers>={major}.{minor},' in (root / "pyproject.toml").read_text()


def test_an_older_transformers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "4.57.1")
    with pytest.raises(ImportError, match=r"needs Transformers 5\.17 or newer, here is 4\.57\.1"):
        exec(compile(remote_code()[CONFIGURATION_FILE], CONFIGURATION_FILE, "exec"), {})
