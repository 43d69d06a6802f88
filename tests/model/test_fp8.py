"""Products in 8 bits: their values and gradients, which layers have them, and that a model learns.

torch computes them on a CPU, too, so that the code that a GPU runs is the code that is tested.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from functorch.compile import aot_module, make_boxed_func, min_cut_rematerialization_partition
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import CheckpointPolicy
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from common.errors import ConfigError
from model import SteelForCausalLM
from model.fp8 import Fp8Experts, Fp8Linear, fp8_linear, quantise, use_fp8
from model.train.activation_checkpoint import checkpoint_activations, keep_products
from model.train.build_model import decoder_layers
from model.train.loss import ModelWithLoss
from tests.gpu import ON_GPU, on_gpu

Maker = Callable[..., SteelForCausalLM]
SHAPE = {
    "hidden_size": 32,
    "head_dim": 8,
    "expert_intermediate_size": 16,
    "num_experts": 3,
    "vocab_size": 64,
}
DEVICES = [pytest.param("cpu"), pytest.param("cuda", marks=ON_GPU)]


def rounded(x: Tensor, *, fraction: int, exponent: int, largest: float) -> np.ndarray:
    """x as its nearest numbers of so many bits of fraction and this least exponent, times a scale
    by which its largest value is `largest`; written without torch's types. Ties go to even."""
    values = x.double().numpy()
    scale = np.float32(largest) / np.float32(np.abs(values).max())
    scaled = (values.astype(np.float32) * scale).astype(np.float64)
    with np.errstate(divide="ignore"):
        power = np.maximum(np.floor(np.log2(np.abs(scaled))), exponent)
    step = 2.0 ** (power - fraction)
    nearest: np.ndarray = np.round(scaled / step) * step / float(scale)
    return nearest


def e4m3(x: Tensor) -> np.ndarray:
    return rounded(x, fraction=3, exponent=-6, largest=448)


def e5m2(x: Tensor) -> np.ndarray:
    return rounded(x, fraction=2, exponent=-14, largest=57344)


def random(*shape: int, dtype: torch.dtype, device: str, scale: float = 1.0) -> Tensor:
    """Normal numbers. In bf16 many are ties, which a scale that is off by its last bit would round
    the other way: there the largest one is 1.75 times a power of two, as the 8-bit types' are."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    if dtype == torch.bfloat16:
        values = values.clamp(-1.75, 1.75)
        values.view(-1)[0] = 1.75
        scale = 2.0 ** round(np.log2(scale))
    return (values * scale).to(device, dtype).requires_grad_()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("leading", "inputs", "outputs"), [((64,), 64, 48), ((3, 7), 32, 16), ((1,), 16, 32)]
)
def test_values_and_gradients_are_those_of_rounded_operands(
    leading: tuple[int, ...], inputs: int, outputs: int, dtype: torch.dtype, device: str
) -> None:
    x = random(*leading, inputs, dtype=dtype, device=device)
    weight = random(outputs, inputs, dtype=dtype, device=device, scale=0.05)
    bias = random(outputs, dtype=dtype, device=device)
    grad = random(*leading, outputs, dtype=dtype, device=device, scale=1e-7).detach()
    y = fp8_linear(x, weight, bias)
    y.backward(grad)
    assert y.dtype == dtype and y.shape == (*leading, outputs)

    x_, w_, b_, g_ = (t.detach().cpu().flatten(0, -2) for t in (x, weight, bias[None], grad))
    near_x, near_w, near_g = e4m3(x_), e4m3(w_), e5m2(g_)
    expected = {
        "y": near_x @ near_w.T + b_.double().numpy(),
        "dx": near_g @ near_w,
        "dw": near_g.T @ near_x,
        "db": g_.double().numpy().sum(axis=0, keepdims=True),
    }
    exact = x_.double().numpy() @ w_.double().numpy().T + b_.double().numpy()
    assert x.grad is not None and weight.grad is not None and bias.grad is not None
    found = {"y": y, "dx": x.grad, "dw": weight.grad, "db": bias.grad[None]}
    # On a GPU sums of 8-bit products have fewer bits.
    last_bits = 2e-2 if device == "cuda" else 8e-3 if dtype == torch.bfloat16 else 1e-5
    for name, values in expected.items():
        got = found[name].detach().cpu().double().flatten(0, -2).numpy()
        largest = np.abs(values).max()
        np.testing.assert_allclose(got, values, atol=last_bits * largest, rtol=0, err_msg=name)
    off = np.linalg.norm(expected["y"] - exact) / np.linalg.norm(exact)
    assert 1e-3 < off < 0.08, "8 bits and no more"


def test_zeros_give_zeros_and_what_is_not_finite_shows() -> None:
    weight = torch.ones(16, 32)
    assert not fp8_linear(torch.zeros(5, 32), weight).any()
    assert not fp8_linear(torch.ones(5, 32), torch.zeros(16, 32)).any()
    for value in (float("inf"), float("-inf"), float("nan")):
        x = torch.ones(5, 32)
        x[2, 3] = value
        assert fp8_linear(x, weight).isnan().all()
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        small, scale = quantise(torch.tensor([[1e-38, -3e38, 3.0]]), dtype)
        assert small.float().isfinite().all() and scale.isfinite()


def test_an_expert_without_tokens_has_gradients_of_zero() -> None:
    weight = torch.ones(16, 32, requires_grad=True)
    y = fp8_linear(torch.ones(0, 32), weight, torch.ones(16))
    assert y.shape == (0, 16)
    y.sum().backward()
    assert weight.grad is not None and not weight.grad.any()


def test_autocast_gives_its_type() -> None:
    x, weight = torch.ones(16, 32), torch.ones(16, 32, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = fp8_linear(x, weight)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert weight.grad is not None and weight.grad.dtype == torch.float32


# ── which layers ─────────────────────────────────────────────────────────────────────────────────


def in_8_bits(model: nn.Module) -> set[str]:
    found = {n for n, m in model.named_modules() if isinstance(m, Fp8Linear | Fp8Experts)}
    return {name.removeprefix("model.layers.0.") for name in found if ".layers.0." in name}


ATTENTION = {f"self_attn.{name}_proj" for name in "qkvo"}


@pytest.mark.filterwarnings("ignore::model.soft_moe.LeakWarning")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {*ATTENTION, "mlp.experts"}),
        ({"routing": "sequence"}, {*ATTENTION, "mlp.experts"}),
        ({"routing": "dense"}, ATTENTION | {f"mlp.{n}_proj" for n in ("gate", "up", "down")}),
        ({"expert_intermediate_size": 10}, ATTENTION),
        ({"num_key_value_heads": 1}, {f"self_attn.{n}_proj" for n in "qo"} | {"mlp.experts"}),
    ],
)
def test_it_is_the_layers_products_of_whole_tiles(
    make_model: Maker, changes: dict[str, Any], expected: set[str]
) -> None:
    model = make_model(**{**SHAPE, **changes})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    number = use_fp8(decoder_layers(model))
    assert in_8_bits(model) == expected
    experts = "mlp.experts" in expected
    assert number == 2 * (len(expected) + experts)
    assert type(model.lm_head) is nn.Linear
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in after.items())


OTHER = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
MOE = {"num_experts": 16, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}


def test_other_architectures_have_theirs_and_keep_their_routers() -> None:
    made = {
        kind: AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**OTHER, **changes))
        for kind, changes in {"llama": {}, "qwen2_moe": MOE}.items()
    }
    for model in made.values():
        use_fp8(decoder_layers(model))
    ffn = {f"{n}_proj" for n in ("gate", "up", "down")}
    assert in_8_bits(made["llama"]) == ATTENTION | {f"mlp.{name}" for name in ffn}
    assert in_8_bits(made["qwen2_moe"]) == ATTENTION | {f"mlp.shared_expert.{n}" for n in ffn}


def test_a_linear_layer_that_chooses_experts_is_left_alone() -> None:
    layer = nn.ModuleDict({"gate": nn.Linear(32, 16), "up_proj": nn.Linear(32, 16)})
    assert use_fp8([layer]) == 1 and type(layer["gate"]) is nn.Linear


def test_a_model_without_such_a_layer_is_refused(make_model: Maker) -> None:
    model = make_model()  # 24 wide
    with pytest.raises(ConfigError, match=r"no linear layer in this model .* multiples of 16"):
        use_fp8(decoder_layers(model))


# ── a model ──────────────────────────────────────────────────────────────────────────────────────


def losses_and_gradients(model: SteelForCausalLM, ids: Tensor) -> list[Tensor]:
    model.zero_grad()
    found = ModelWithLoss(model)(ids[:, :-1], ids[:, 1:])
    found.total.backward()
    return [found.total.detach(), *(p.grad.clone() for p in model.parameters())]


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(2, 61, (3, 14), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("routing", ["token", "dense"])
def test_it_computes_in_8_bits_in_training_alone(
    make_model: Maker, ids: Tensor, routing: str
) -> None:
    """Every weight's gradient points where the exact one does; validation is the exact model."""
    exact = make_model(**SHAPE, routing=routing)
    model = copy.deepcopy(exact)
    use_fp8(decoder_layers(model))
    for mode in (False, True):
        results = [losses_and_gradients(m.train(mode), ids) for m in (exact, model)]
        for name, one, other in zip(
            ("loss", *dict(model.named_parameters())), *results, strict=True
        ):
            if not mode:
                assert torch.equal(one, other), name
            elif name == "loss":
                torch.testing.assert_close(other, one, rtol=5e-3, atol=0)
            elif one.numel() > 1:
                cosine = functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)
                assert cosine > 0.9, (name, float(cosine))
    assert not torch.equal(results[0][0], results[1][0])


@pytest.mark.parametrize("amount", ["selective", "full"])
def test_recomputed_layers_have_the_same_gradients(
    make_model: Maker, ids: Tensor, amount: Any
) -> None:
    kept = make_model(**SHAPE).train()
    use_fp8(decoder_layers(kept))
    again = copy.deepcopy(kept)
    checkpoint_activations(decoder_layers(again), amount)
    for one, other in zip(*(losses_and_gradients(m, ids) for m in (kept, again)), strict=True):
        assert torch.equal(one, other)
    product = torch.ops.aten._scaled_mm.default
    assert keep_products(None, product) == CheckpointPolicy.MUST_SAVE


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo looks at it
def test_torch_compile_takes_it_as_one_graph(make_model: Maker, ids: Tensor) -> None:
    eager = make_model(**SHAPE).train()
    use_fp8(decoder_layers(eager))
    compiled = copy.deepcopy(eager)
    for layer in compiled.model.layers:
        layer.compile(fullgraph=True, backend="aot_eager")
    for one, other in zip(*(losses_and_gradients(m, ids) for m in (eager, compiled)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_compiled_layer_rounds_its_input_once_for_all_products() -> None:
    """Query, key and value, or both first layers of the experts, share it."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(32, 16), nn.Linear(32, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) * self.two(x)

    roundings = []

    def look(graph: torch.fx.GraphModule, _: Any) -> Any:
        roundings.append(
            sum(
                node.meta["val"].dtype == torch.float8_e4m3fn
                for node in graph.graph.nodes
                if node.op == "call_function" and "_to_copy" in str(node.target)
            )
        )
        return make_boxed_func(graph)

    model = Two()
    use_fp8([model])
    traced = aot_module(
        model,
        fw_compiler=look,
        bw_compiler=lambda graph, _: make_boxed_func(graph),
        partition_fn=min_cut_rematerialization_partition,
    )
    traced(torch.randn(8, 32, requires_grad=True)).sum().backward()
    assert roundings == [3], "the input and two weights"


# ── learning ─────────────────────────────────────────────────────────────────────────────────────


def texts(steps: int, device: str) -> Iterator[Tensor]:
    """Batches [8, 33] of sequences that count up by 1, 3 or 7: what comes next can be learnt."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(steps):
        first = torch.randint(61, (8, 1), generator=generator)
        stride = torch.tensor([1, 3, 7])[torch.randint(3, (8, 1), generator=generator)]
        yield ((first + stride * torch.arange(33)) % 61).to(device)


def learn(model: SteelForCausalLM, steps: int, device: str) -> list[float]:
    """Mean losses of a token, step by step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    losses = []
    for ids in texts(steps, device):
        total = ModelWithLoss(model)(ids[:, :-1], ids[:, 1:]).total / (8 * 32)
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(total.detach()))
    return losses


@pytest.mark.parametrize("routing", ["token", "dense"])
def test_it_learns_as_without(make_model: Maker, routing: str) -> None:
    """100 steps from 4.2 to below 1.5; the mean of the last 20 losses is within 0.1 of fp32's."""
    exact = make_model(**SHAPE, routing=routing).train()
    small = copy.deepcopy(exact)
    use_fp8(decoder_layers(small))
    means = [float(np.mean(learn(model, 100, "cpu")[-20:])) for model in (exact, small)]
    assert max(means) < 1.5, "both learn"
    assert abs(means[0] - means[1]) < 0.1, means


@on_gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("routing", ["token", "dense"])
def test_on_the_gpu_it_learns_as_bf16(make_model: Maker, routing: str, compiled: bool) -> None:
    """A model of 8 M parameters, 200 steps."""
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("this GPU has no use for fp8")
    shape = {"hidden_size": 256, "head_dim": 64, "expert_intermediate_size": 128, "num_experts": 6}
    exact = make_model(**{**SHAPE, **shape}, routing=routing).train().to("cuda")
    small = copy.deepcopy(exact)
    use_fp8(decoder_layers(small))
    means = []
    for model in (exact, small):
        if compiled:
            for layer in model.model.layers:
                layer.compile(fullgraph=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            means.append(float(np.mean(learn(model, 200, "cuda")[-20:])))
    assert max(means) < 1.0, "both learn"
    assert abs(means[0] - means[1]) < 0.1, means


def test_functional_linear_is_what_the_class_replaces() -> None:
    """In evaluation the very function of torch computes, so that nothing else can differ."""
    layer = nn.Linear(32, 16)
    use_fp8([nn.ModuleDict({"proj": layer})])
    x = torch.randn(5, 32)
    expected = functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer.eval()(x), expected)
    assert not torch.equal(layer.train()(x), expected)
