"""Merged matrix products: fewer of them, the same values, weights and names."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from common.config import validate
from common.errors import ConfigError
from model.architecture import MergedProduct
from model.config import SteelConfig
from model.fp8 import use_fp8
from model.merged_products import REPLACED, merge_products
from model.modeling_steel import SteelForCausalLM
from model.train.activation_checkpoint import MATRIX_PRODUCTS
from model.train.config import PretrainSettings
from model.train.model_settings import check_model

ALL: tuple[MergedProduct, ...] = tuple(REPLACED)
ROUTINGS = ("token", "uniform", "sequence", "reference_norm", "dense")
LAYERS = 2
IDS = (torch.arange(36).view(3, 12) * 7) % 53


def build(routing: str, merged: tuple[MergedProduct, ...] = (), **fields: Any) -> SteelForCausalLM:
    """Equal weights at each call; sizes that differ from each other."""
    sizes = {
        "vocab_size": 53,
        "hidden_size": 24,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "expert_intermediate_size": 5,
        "num_experts": 3,
        "slots_per_expert": 2,
        "learn_gain": True,
        "initializer_range": 0.2,  # small weights would have gradients that are all rounding
    }
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SteelForCausalLM(SteelConfig(**{**sizes, "routing": routing, **fields})).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    merge_products(model, merged)
    return model


class Products(TorchDispatchMode):
    """Number of matrix products: of all, or of these."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names or MATRIX_PRODUCTS
        self.number = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.number += function._opname in self.names
        return function(*args, **(kwargs or {}))


def learn(model: SteelForCausalLM, **inputs: Any) -> dict[str, Tensor]:
    """Logits and gradients."""
    output = model(input_ids=IDS, labels=IDS, use_cache=False, **inputs)
    output.loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": output.logits.detach(), **found}


def count(model: SteelForCausalLM) -> tuple[int, int]:
    """Number of products forward and backward."""
    with Products() as forward:
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    with Products() as backward:
        loss.backward()
    return forward.number, backward.number


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor], limit: float) -> None:
    """The error is at most `limit` of each tensor's norm."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert (found[name] - tensor).norm() <= limit * tensor.norm(), name


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("merged", [("qkv",), ("ffn_in",), ("ffn_out",), ALL], ids="+".join)
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "documents"])
def test_values_and_gradients_are_those_of_separate_products(
    routing: str, merged: tuple[MergedProduct, ...], packed: bool
) -> None:
    inputs: dict[str, Any] = {}
    if packed:
        bounds = torch.tensor([0, 5, 12, 24, 31, 36], dtype=torch.int32)
        inputs = {"cu_seq_lens_q": bounds, "max_length_q": 12}
    wanted = learn(build(routing).double(), **inputs)
    assert wanted.keys() == {"logits", *dict(build(routing).named_parameters())}
    # The routing is fp32 in any model: a last bit of what it is given may be one of what it gives.
    assert_close(learn(build(routing, merged).double(), **inputs), wanted, 1e-8)
    found = learn(build(routing, merged), **inputs)
    assert_close({name: tensor.double() for name, tensor in found.items()}, wanted, 1e-4)


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize(
    ("merged", "fewer"), [("qkv", 2), ("ffn_in", 1), ("ffn_out", 1)], ids=lambda value: str(value)
)
def test_three_products_become_one_or_two_become_one(
    routing: str, merged: MergedProduct, fewer: int
) -> None:
    """Each has two of its own in the backward pass."""
    if (routing, merged) == ("dense", "ffn_out"):
        fewer = 0  # it is one
    separate, together = count(build(routing)), count(build(routing, (merged,)))
    spared = [a - b for a, b in zip(separate, together, strict=True)]
    assert spared == [LAYERS * fewer, 2 * LAYERS * fewer]


@pytest.mark.parametrize("routing", ["token", "dense"])
def test_products_in_8_bits_are_merged_too(routing: str) -> None:
    """Weights side by side share a scale: as far from exact as those with one each."""
    shape = {"hidden_size": 32, "num_attention_heads": 4, "expert_intermediate_size": 16}
    exact = learn(build(routing, **shape))
    numbers, errors = [], []
    for merged in ((), ("qkv", "ffn_in")):
        model = build(routing, merged, **shape)
        use_fp8(model.model.layers)
        with Products("_scaled_mm") as forward:
            model(input_ids=IDS, use_cache=False)
        numbers.append(forward.number)
        found = learn(model)
        errors.append(
            torch.tensor(
                [(found[name] - exact[name]).norm() / exact[name].norm() for name in found]
            )
        )
    assert numbers[0] - numbers[1] == LAYERS * 3 and numbers[1] >= LAYERS * 3
    assert errors[1].mean() <= 1.2 * errors[0].mean()


@pytest.mark.parametrize("routing", ROUTINGS)
def test_in_bf16_the_error_is_that_of_separate_products(routing: str) -> None:
    """Against float64: merging must not lose more than bf16 itself does."""
    exact = learn(build(routing).double())
    errors = []
    for merged in ((), ALL):
        found = learn(build(routing, merged).bfloat16())
        # Gradients of single numbers are differences of nearly equal sums.
        errors.append(
            {
                name: ((found[name] - tensor).norm() / tensor.norm()).item()
                for name, tensor in exact.items()
                if not name.endswith(("scale", "gain"))
            }
        )
    for name, error in errors[1].items():
        assert error <= max(1.5 * errors[0][name], 0.03), (name, error, errors[0][name])


@pytest.mark.parametrize("routing", ROUTINGS)
def test_under_autocast(routing: str) -> None:
    found = []
    for merged in ((), ALL):
        model = build(routing, merged)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=IDS, use_cache=False).logits
        logits.float().square().sum().backward()
        found.append(logits.detach().float())
        assert all(p.grad is not None and p.grad.dtype == p.dtype for p in model.parameters())
    assert (found[0] - found[1]).norm() <= 0.02 * found[0].norm()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo looks at it
@pytest.mark.parametrize("routing", ROUTINGS)
def test_compiled_layers_are_one_graph_and_learn_the_same(routing: str) -> None:
    wanted = learn(build(routing, ALL))
    model = build(routing, ALL)
    for layer in model.model.layers:
        layer.compile(fullgraph=True, backend="aot_eager")
    found = learn(model)
    assert_close(found, wanted, 1e-4)


def test_weights_are_their_own_and_a_copy_uses_its_own_ones() -> None:
    plain, merged = build("token"), build("token", ALL)
    assert {name: p.shape for name, p in merged.state_dict().items()} == {
        name: p.shape for name, p in plain.state_dict().items()
    }
    with torch.no_grad():
        before = merged(input_ids=IDS).logits
        other = copy.deepcopy(merged)
        for parameter in other.parameters():
            parameter.mul_(2)
        assert torch.equal(merged(input_ids=IDS).logits, before)
        for parameter in other.parameters():
            parameter.div_(2)
        assert torch.equal(other(input_ids=IDS).logits, before)


def test_generation_is_that_of_separate_products() -> None:
    """One token at a time, with a cache."""
    found = [
        build("token", merged).eval().generate(IDS[:1], max_new_tokens=8, do_sample=False)
        for merged in ((), ALL)
    ]
    assert torch.equal(*found)


def test_other_architectures_and_unknown_products_are_refused() -> None:
    qwen = {"model_type": "qwen2", "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1}
    with pytest.raises(ConfigError, match=r"merged_products = \['qkv'\].*'qwen2'; leave it out"):
        check_model(PretrainSettings(model=qwen, merged_products=("qkv",)))
    check_model(PretrainSettings(model={"vocab_size": 64}, merged_products=("qkv",)))
    with pytest.raises(ConfigError, match="merged_products"):
        validate(PretrainSettings(merged_products=("ffn",)), "pretrain")  # type: ignore[arg-type]
