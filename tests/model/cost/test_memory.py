"""Memory by arithmetic, against the tensors that autograd, AdamW and the loss really keep."""

import warnings
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface

import model.kernels
from model.architecture import MergedProduct
from model.config import SteelConfig
from model.cost.memory import activation_bytes, loss_bytes, memory_of
from model.cost.parts import parameters_of
from model.kernels import cross_entropy
from model.merged_products import merge_products
from model.modeling_steel import SteelForCausalLM
from model.train.activation_checkpoint import checkpoint_activations
from model.train.config import PretrainSettings
from model.train.loss import ModelWithLoss
from model.train.optim.optimizer import build_optimizer

ROWS, LENGTH = 2, 64


def small(routing: str, **fields: Any) -> SteelConfig:
    """A model that is small, with sizes that differ from each other."""
    sizes = {
        "vocab_size": 512,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "expert_intermediate_size": 24,
        "num_experts": 6,
    }
    return SteelConfig(**{**sizes, "routing": routing, "attn_implementation": "sdpa", **fields})


def built(
    config: SteelConfig, dtype: torch.dtype, merged: tuple[MergedProduct, ...] = ()
) -> SteelForCausalLM:
    """The model in training mode, its weights made in `dtype`."""
    torch.set_default_dtype(dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = SteelForCausalLM(config).train()
    finally:
        torch.set_default_dtype(torch.float32)
    merge_products(model, merged)
    return model


def kept_bytes(model: SteelForCausalLM, length: int = LENGTH) -> int:
    """Bytes of all storages that a forward pass keeps for the backward pass, but for weights."""
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, so that no other takes its place
        return tensor

    ids = torch.zeros(ROWS, length, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.model(input_ids=ids, use_cache=False).last_hidden_state
    assert output.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


MERGED: tuple[tuple[MergedProduct, ...], ...] = ((), ("qkv",), ("ffn_in", "ffn_out"))


@pytest.mark.parametrize("merged", MERGED, ids="+".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("routing", ["token", "uniform", "dense", "sequence", "reference_norm"])
def test_activations_are_what_autograd_keeps_on_a_cpu(
    routing: str, slots: int, dtype: torch.dtype, merged: tuple[MergedProduct, ...]
) -> None:
    config = small(routing, slots_per_expert=slots, kernels="eager")
    expected = activation_bytes(
        config,
        rows=ROWS,
        length=LENGTH,
        element=dtype.itemsize,
        fused=False,
        gpu=False,
        documents=False,
        merged=merged,
    )
    exact = routing in ("token", "uniform", "dense")
    found = kept_bytes(built(config, dtype, merged))
    assert found == pytest.approx(expected, rel=1e-3 if exact else 0.03)


class _Flash(torch.autograd.Function):
    """Keeps the tensors of a flash kernel, without its mathematics."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        sums = query.new_empty(query.shape[:3], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, sums)
        return output


def _flash(_: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
    return _Flash.apply(query, key, value).transpose(1, 2), None


@pytest.mark.parametrize("merged", MERGED, ids="+".join)
@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("routing", ["token", "uniform", "dense", "sequence", "reference_norm"])
def test_activations_are_what_autograd_keeps_of_fused_kernels(
    routing: str, slots: int, merged: tuple[MergedProduct, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Their shapes are known without a GPU; only running them needs one.
    monkeypatch.setattr(model.kernels, "_check_available", lambda *_: None)
    AttentionInterface.register("stand_in", _flash)
    config = small(routing, slots_per_expert=slots, kernels="triton")
    config._attn_implementation = "stand_in"
    expected = activation_bytes(config, rows=ROWS, length=LENGTH, documents=False, merged=merged)
    with FakeTensorMode():
        kept = kept_bytes(built(config, torch.bfloat16, merged))
    exact = routing in ("token", "uniform", "dense")
    assert kept == pytest.approx(expected, rel=1e-3 if exact else 0.03)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations make and somebody still holds."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {
            t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        }
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in given or storage._cdata in self._seen:
                continue
            self._seen.add(storage._cdata)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _gone(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.now -= size


@pytest.mark.parametrize("amount", ["none", "selective", "full"])
@pytest.mark.parametrize("routing", ["token", "uniform", "dense"])
def test_recomputed_activations_are_not_held_between_the_passes(routing: str, amount: Any) -> None:
    config = small(routing, kernels="eager")
    network = built(config, torch.float32)
    checkpoint_activations(network.model.layers, amount)
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    with LiveBytes() as live:
        output = network.model(input_ids=ids, use_cache=False).last_hidden_state
        held = live.now - output.untyped_storage().nbytes()
    assert output.requires_grad
    layers = {"rows": ROWS, "length": LENGTH, "element": 4, "fused": False, "gpu": False}
    expected = activation_bytes(config, **layers, documents=False, recomputation=amount)
    if amount != "none":  # one layer's are made again, one layer after the other
        one = small(routing, kernels="eager", num_hidden_layers=1)
        none = small(routing, kernels="eager", num_hidden_layers=2)
        layer = activation_bytes(none, **layers) - activation_bytes(one, **layers)
        expected -= layer
    # The ids are given, and small tensors of positions may be held or not.
    assert held == pytest.approx(expected, rel=0.06)


def test_the_loss_takes_what_is_said() -> None:
    config = small("token", vocab_size=4096)
    hidden, weight = torch.randn(512, 64), torch.randn(4096, 64)
    labels = torch.zeros(512, dtype=torch.int64)
    with LiveBytes() as live, torch.no_grad():
        held = cross_entropy._run(hidden, weight, labels, -100, 0, False, True, True)
    expected = loss_bytes(config, 512, element=4, loss="chunked")
    assert 0.95 * live.peak < expected < 1.3 * live.peak
    assert held[3].shape == weight.shape

    weight.requires_grad_(True)
    with LiveBytes() as live:
        total = cross_entropy.linear_cross_entropy_eager(hidden, weight, labels, reduction="sum")
        total.backward()  # type: ignore[no-untyped-call]
    expected = loss_bytes(config, 512, element=4, loss="eager")
    assert 0.7 * live.peak < expected < 1.3 * live.peak


@pytest.mark.parametrize("routing", ["token", "dense"])
@pytest.mark.parametrize("algorithm", ["adamw", "muon"])
def test_weights_gradients_and_moments_are_those_of_a_step(algorithm: Any, routing: str) -> None:
    config = small(routing, kernels="eager")
    network = ModelWithLoss(built(config, torch.float32))
    optimizer = build_optimizer(network, PretrainSettings(model={}, optimizer=algorithm))
    ids = torch.ones(ROWS, LENGTH, dtype=torch.int64)
    network(ids, ids).total.backward()
    found = memory_of(
        config,
        micro_batch_size=ROWS,
        sequence_length=LENGTH,
        element=4,
        fused=False,
        loss="chunked",
        gpu=False,
        documents=False,
        optimizer=algorithm,
    )
    weights = list(network.parameters())
    moments = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
    assert found.weights == sum(p.nbytes for p in weights)
    assert found.gradients == sum(p.grad.nbytes for p in weights if p.grad is not None)
    assert found.optimizer == sum(t.nbytes for t in moments)
    assert (found.gathered, found.runtime) == (0, 0)


def test_muon_keeps_one_momentum_where_adamw_keeps_two_moments() -> None:
    table_1 = SteelConfig()
    adamw, muon = (
        memory_of(table_1, micro_batch_size=8, sequence_length=2048, width=8, optimizer=name)
        for name in ("adamw", "muon")
    )
    hidden = 18 * (4 * 1792**2 + 4 * 6 * 448 * 1792)
    assert adamw.optimizer - muon.optimizer == 4 * hidden / 8
    assert replace(muon, optimizer=adamw.optimizer) == adamw


def test_ranks_share_all_but_activations_and_gathered_weights() -> None:
    config = SteelConfig()  # Table 1
    one = memory_of(config, micro_batch_size=8, sequence_length=2048)
    eight = memory_of(config, micro_batch_size=8, sequence_length=2048, width=8, accumulation=8)
    n = parameters_of(config).total
    assert (one.weights, one.optimizer, one.gradients) == (4 * n, 8 * n, 4 * n)
    assert (eight.weights, eight.optimizer) == (n / 2, n)
    assert eight.gradients == n / 2 + 4 * n, "gradients of eight micro-batches are summed unreduced"
    assert one.gathered == eight.gathered == 2 * n
    assert one.activations == eight.activations
    halved = memory_of(config, micro_batch_size=4, sequence_length=2048)
    assert halved.activations == pytest.approx(one.activations / 2, rel=1e-3)
    freed = memory_of(config, micro_batch_size=8, sequence_length=2048, width=8, reshard=True)
    assert freed.gathered < 0.65 * eight.gathered
