"""The choice of attention, and torch's varlen kernel behind Transformers' interface.

The kernel runs on GPUs only. Here a stand-in with its signature, which splits at the bounds and
calls sdpa for each document, shows that layout, bounds, scale, heads and window arrive intact.
"""

import copy
import itertools
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.utils.checkpoint import CheckpointPolicy
from transformers import Gemma2Config, LlamaConfig, LlamaForCausalLM, MistralConfig, T5Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from common.errors import ConfigError
from model import SteelConfig, SteelForCausalLM, attention, cudnn_attention
from model.attention import choose_attention, padded_head_size
from model.train.activation_checkpoint import keep_products
from tests.gpu import on_gpu

Maker = Callable[..., SteelForCausalLM]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
STEEL = SteelConfig(hidden_size=8, num_attention_heads=2, vocab_size=9)


def by_document(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """Reference of torch.nn.attention.varlen: q [T, H, D], k and v [T, H_kv, D] -> [T, H, D]."""
    assert cu_seq_q.dtype == torch.int32 and torch.equal(cu_seq_q, cu_seq_k)
    assert window_size[1] == 0, "causal"
    if query.shape[1] != key.shape[1]:
        assert enable_gqa, "torch 2.13 refuses other numbers of heads without it"
    outputs = []
    for start, end in itertools.pairwise(cu_seq_q.tolist()):
        assert end - start <= max_q == max_k
        q, k, v = (x[start:end].transpose(0, 1) for x in (query, key, value))
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
        seen = distance >= 0
        if window_size[0] >= 0:
            seen &= distance <= window_size[0]
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, scale=scale, enable_gqa=enable_gqa
        )
        outputs.append(out.transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture(params=["2.13", "2.11"])
def varlen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in, on this machine; torch 2.11's kernel knows no groups of heads."""

    def without_groups(*args: Tensor, scale: float, window_size: tuple[int, int]) -> Tensor:
        assert args[0].shape == args[1].shape
        return by_document(*args, scale=scale, window_size=window_size)

    new = request.param == "2.13"
    monkeypatch.setattr(attention, "varlen_attn", by_document if new else without_groups)
    monkeypatch.setattr(attention, "VARLEN_GROUPS_HEADS", new)
    monkeypatch.setattr(attention, "has_varlen", lambda _: True)
    monkeypatch.setattr(attention, "HALF", (torch.float32, torch.bfloat16))


def gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], *installed: int) -> None:
    """A GPU of this capability, with these versions of FlashAttention."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    names = {f"is_flash_attn_{n}_available": lambda n=n: n in installed for n in (2, 3, 4)}
    monkeypatch.setattr(attention, "import_utils", SimpleNamespace(**names))


def chosen(
    requested: str = "auto",
    config: object = STEEL,
    device: torch.device = GPU,
    dtype: torch.dtype = torch.bfloat16,
    documents: bool = True,
) -> str:
    return choose_attention(
        requested, config, device=device, dtype=dtype, separate_documents=documents
    )


# ── the choice ───────────────────────────────────────────────────────────────────────────────────


def test_auto_on_a_cpu_is_sdpa() -> None:
    assert chosen(device=CPU, dtype=torch.float32) == "sdpa"


@pytest.mark.parametrize(
    ("capability", "installed", "documents", "expected"),
    [
        ((9, 0), (2, 3, 4), True, "flash_attention_3"),
        ((9, 0), (2, 4), True, "flash_attention_4"),
        ((10, 0), (2, 3, 4), True, "flash_attention_4"),
        ((8, 0), (2, 3, 4), True, "flash_attention_2"),
        ((8, 0), (2,), False, "flash_attention_2"),
        ((9, 0), (2,), False, "sdpa_cudnn"),
        ((9, 0), (2, 3), False, "flash_attention_3"),
        ((9, 0), (), True, "varlen"),
        ((9, 0), (), False, "sdpa_cudnn"),
        ((8, 0), (), False, "sdpa"),
        ((7, 0), (2,), True, "flex_attention"),
    ],
)
def test_auto_on_a_gpu_takes_the_best_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    installed: tuple[int, ...],
    documents: bool,
    expected: str,
) -> None:
    gpu(monkeypatch, capability, *installed)
    monkeypatch.setattr(attention, "varlen_attn", by_document)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    assert chosen(documents=documents) == expected


@pytest.mark.parametrize(("installed", "expected"), [((), "sdpa"), ((2,), "flash_attention_2")])
def test_cudnn_is_not_taken_for_rows_of_every_length(
    monkeypatch: pytest.MonkeyPatch, installed: tuple[int, ...], expected: str
) -> None:
    gpu(monkeypatch, (9, 0), *installed)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    where = {"device": GPU, "dtype": torch.bfloat16, "separate_documents": False}
    assert choose_attention("auto", STEEL, one_length=False, **where) == expected


def test_auto_avoids_what_cannot_compute_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, (9, 0))
    monkeypatch.setattr(attention, "varlen_attn", by_document)
    assert chosen(dtype=torch.float32) == "flex_attention"
    assert chosen(config=LlamaConfig(attention_dropout=0.1)) == "sdpa"
    assert chosen(config=Gemma2Config()) == "flex_attention"
    assert chosen(config=Gemma2Config(), device=CPU) == "eager"
    monkeypatch.setattr(attention, "varlen_attn", None)  # torch 2.10 and older
    assert chosen() == "flex_attention"


@pytest.mark.parametrize(
    ("requested", "device", "dtype", "message"),
    [
        ("fast", CPU, torch.float32, "'fast': choose one of auto, eager"),
        ("varlen", CPU, torch.bfloat16, "needs a GPU"),
        ("varlen", GPU, torch.float32, "bf16 or fp16, not float32"),
        ("flash_attention_2", GPU, torch.bfloat16, "not installed .package flash-attn"),
        ("flash_attention_3", GPU, torch.bfloat16, "for Hopper"),
    ],
)
def test_what_cannot_run_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    requested: str,
    device: torch.device,
    dtype: torch.dtype,
    message: str,
) -> None:
    gpu(monkeypatch, (8, 6))
    with pytest.raises(ConfigError, match=message):
        chosen(requested, device=device, dtype=dtype)


def test_what_is_no_causal_language_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="'t5' has no causal language model"):
        chosen(config=T5Config(), device=CPU)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo looks at it
@pytest.mark.parametrize("compiled", [False, True])
def test_cudnn_first_is_sdpa(make_model: Maker, compiled: bool) -> None:
    """Without cuDNN the next one computes; torch.compile keeps one graph, priority included."""
    ids = torch.randint(2, 61, (2, 13), generator=torch.Generator().manual_seed(0))
    expected, found = (
        make_model(attn_implementation=name, pad_head_dim="off") for name in ("sdpa", "sdpa_cudnn")
    )
    if compiled:
        for layer in found.model.layers:
            layer.compile(fullgraph=True)
    losses = [model(ids, labels=ids, use_cache=False).loss for model in (expected, found)]
    torch.testing.assert_close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_cudnn_is_asked_first_in_its_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(*_: object, **__: object) -> tuple[None, None]:
        seen.append(torch._C._get_sdp_priority_order()[0])
        return None, None

    before = torch._C._get_sdp_priority_order()
    monkeypatch.setattr(cudnn_attention, "sdpa_attention_forward", look)
    x = torch.randn(1, 2, 4, 8)
    cudnn_attention.cudnn_first_attention(torch.nn.Module(), x, x, x, None)
    assert seen == [int(SDPBackend.CUDNN_ATTENTION)]
    assert torch._C._get_sdp_priority_order() == before


# ── varlen ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("varlen")
@pytest.mark.parametrize("routing", ["token", "sequence"])
def test_varlen_is_sdpa_with_a_mask(
    make_model: Maker, monkeypatch: pytest.MonkeyPatch, routing: str
) -> None:
    ids = torch.randint(2, 61, (2, 13), generator=torch.Generator().manual_seed(0))
    bounds = torch.tensor([0, 5, 13, 14, 26], dtype=torch.int32)
    kwargs = {"cu_seq_lens_q": bounds, "max_length_q": 12, "use_cache": False}
    expected = make_model(routing=routing)(ids, **kwargs).logits

    def no_mask(**kwargs: object) -> None:
        raise AssertionError("a mask was made")

    monkeypatch.setattr("model.attention.create_causal_mask", no_mask)
    found = make_model(routing=routing, attn_implementation="varlen")(ids, **kwargs).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("varlen")
@pytest.mark.parametrize("pad", ["off", 8, 16])
@pytest.mark.parametrize("implementation", ["sdpa", "eager", "varlen"])
def test_padded_heads_give_the_same(make_model: Maker, implementation: str, pad: str | int) -> None:
    ids = torch.randint(2, 61, (1, 12), generator=torch.Generator().manual_seed(1))
    bounds = torch.tensor([0, 5, 12], dtype=torch.int32)

    def gradients(**changes: object) -> list[Tensor]:
        model = make_model(attn_implementation=implementation, **changes)
        loss = model(ids, cu_seq_lens_q=bounds, labels=ids, use_cache=False).loss
        loss.backward()
        return [loss, *(p.grad for p in model.parameters())]

    for one, other in zip(gradients(pad_head_dim=pad), gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_head_size_is_padded_only_where_a_flash_kernel_wants_it() -> None:
    assert padded_head_size(56, "auto", "varlen") == 56
    assert padded_head_size(6, "auto", "flash_attention_2") == 8
    assert padded_head_size(6, "auto", "sdpa") == 6
    assert padded_head_size(56, 64, "sdpa") == 64
    assert padded_head_size(6, "off", "varlen") == 6
    with pytest.raises(ConfigError, match="pad_head_dim is 60"):
        SteelConfig(pad_head_dim=60)
    with pytest.raises(ConfigError, match="at least head_dim = 56"):
        SteelConfig(pad_head_dim=48)


@pytest.mark.usefixtures("varlen")
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_varlen_serves_other_architectures(kind: str) -> None:
    shape = {
        "vocab_size": 61,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
    }
    config = LlamaConfig(**shape) if kind == "llama" else MistralConfig(**shape, sliding_window=3)
    torch.manual_seed(0)
    plain, other = (
        AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=name).eval()
        for name in ("eager", "varlen")
    )
    other.load_state_dict(plain.state_dict())
    ids = torch.randint(2, 61, (2, 13), generator=torch.Generator().manual_seed(2))
    bounds = torch.tensor([0, 5, 13, 14, 26], dtype=torch.int32)
    positions = torch.cat([torch.arange(n) for n in (5, 8, 1, 12)]).view(2, 13)
    arguments = attention.document_bound_arguments(bounds, 12)
    with torch.no_grad():
        found = other(ids, position_ids=positions, use_cache=False, **arguments).logits
        expected = plain(ids, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}])
def test_a_model_set_to_varlen_still_generates(
    make_model: Maker, tokens: Tensor, options: dict[str, str]
) -> None:
    """Without bounds it is sdpa, with the mask that padding wants."""
    masked = torch.cat([torch.zeros(3, 2), torch.ones(3, 12)], dim=1).long()
    padded = torch.cat([torch.zeros(3, 2).long(), tokens], dim=1)

    def generate(implementation: str) -> Tensor:
        model = make_model(attn_implementation=implementation, eos_token_id=None)
        made: Tensor = model.generate(
            padded,
            attention_mask=masked,
            max_new_tokens=5,
            do_sample=False,
            **({**options, "disable_compile": True} if options else {}),
        )
        return made

    assert torch.equal(generate("varlen"), generate("sdpa"))


def test_recomputing_selectively_keeps_what_varlen_computed() -> None:
    operators = torch.ops.torch_attn
    kept, made_again = CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_RECOMPUTE
    assert keep_products(None, operators._varlen_attn.default) == kept
    assert keep_products(None, operators._varlen_attn_backward.default) == made_again


@pytest.mark.usefixtures("varlen")
@pytest.mark.parametrize(
    ("options", "message"), [({"dropout": 0.1}, "no dropout"), ({"softcap": 30.0}, "no softcap")]
)
def test_varlen_says_what_it_does_not_have(options: dict[str, float], message: str) -> None:
    x = torch.randn(1, 2, 4, 8)
    bounds = torch.tensor([0, 4], dtype=torch.int32)
    module = torch.nn.Module()
    with pytest.raises(ValueError, match=message):
        attention.varlen_attention_forward(
            module, x, x, x, None, cu_seq_lens_q=bounds, max_length_q=4, max_length_k=4, **options
        )


@pytest.mark.usefixtures("varlen")
def test_varlen_computes_in_half_precision_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "HALF", (torch.bfloat16, torch.float16))
    x = torch.randn(1, 2, 4, 8)
    options = attention.document_bound_arguments(torch.tensor([0, 4], dtype=torch.int32), 4)
    with pytest.raises(ValueError, match="bf16 or fp16"):
        attention.varlen_attention_forward(torch.nn.Module(), x, x, x, None, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = attention.varlen_attention_forward(torch.nn.Module(), x, x, x, None, **options)
    assert output.dtype == torch.bfloat16


@on_gpu
@pytest.mark.parametrize("routing", ["token", "sequence"])
def test_on_the_gpu_varlen_is_sdpa_with_a_mask(make_model: Maker, routing: str) -> None:
    ids = torch.randint(2, 61, (2, 13), device="cuda")
    bounds = torch.tensor([0, 5, 13, 14, 26], dtype=torch.int32, device="cuda")
    shape = {"hidden_size": 64, "head_dim": 56, "routing": routing}

    def run(implementation: str, **changes: object) -> list[Tensor]:
        model = make_model(attn_implementation=implementation, **shape, **changes)
        model.to("cuda", torch.bfloat16)
        loss = model(ids, cu_seq_lens_q=bounds, max_length_q=12, labels=ids, use_cache=False).loss
        loss.backward()
        return [loss, *(p.grad for p in model.parameters())]

    expected = run("sdpa")
    for changes in ({}, {"pad_head_dim": 64}):
        for one, other in zip(run("varlen", **changes), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=5e-2, atol=5e-2)


def test_llama_is_named_as_trained_with_sdpa_by_default() -> None:
    """The registered name must not become anyone's default."""
    config = LlamaConfig(
        vocab_size=9, hidden_size=8, num_attention_heads=2, intermediate_size=8, num_hidden_layers=1
    )
    assert LlamaForCausalLM(config).config._attn_implementation == "sdpa"
