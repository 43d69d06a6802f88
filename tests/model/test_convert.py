"""`steel import`: published checkpoints compute here what they computed there.

The published function is stated again below, in float64 and from its equations and names, without
any code of the model.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from common.errors import ConfigError, DataError
from model import SteelForCausalLM, convert
from model.convert import import_published
from model.tokenizer.digest import digest_tokenizer
from model.tokenizer.folder import load_folder_tokenizer
from model.tokenizer.identity import SEAL
from tests.model.tokenizer.kinds import KINDS
from tests.tiny_chat import byte_tokenizer

D, HEADS, KV, LAYERS, EXPERTS, SLOTS, WIDTH, VOCABULARY = 24, 4, 2, 2, 3, 2, 10, 61
CONFIG: dict[str, Any] = {
    "architectures": ["SteelForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_steel.SteelForCausalLM"},
    "model_type": "qwen2",
    "FFN_type": "softmoe_v3",
    "mlp_type": "senet",
    "n_experts": EXPERTS,
    "slots_per_expert": SLOTS,
    "intermediate_size": 4 * WIDTH,
    "mlp_div_ratio": 4,
    "hidden_act": "silu",
    "hidden_size": D,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000.0,
    "sliding_window": 128,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
    "transformers_version": "4.37.0",
}


def published_tensors() -> dict[str, Tensor]:
    """Names and shapes of a published checkpoint, with values in which no part is negligible."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / math.sqrt(shape[-1])

    head = D // HEADS
    tensors = {
        "model.embed_tokens.weight": draw(VOCABULARY, D) * 5,
        "model.norm.weight": 1 + 0.3 * draw(1, D)[0],
        "lm_head.weight": draw(VOCABULARY, D) * 3,
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name, rows in (("q", HEADS), ("k", KV), ("v", KV)):
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = 2 * draw(rows * head, D)
            tensors[f"{prefix}self_attn.{name}_proj.bias"] = draw(1, rows * head)[0]
        tensors[f"{prefix}self_attn.o_proj.weight"] = 2 * draw(D, D)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = 1 + 0.3 * draw(1, D)[0]
        tensors[f"{prefix}mlp.phi"] = draw(D, EXPERTS, SLOTS)
        # Larger than the bound that our own routings keep to.
        tensors[f"{prefix}mlp.scale"] = torch.tensor([3.0 if layer else 47.0])
        for expert in range(EXPERTS):
            own = f"{prefix}mlp.experts.{expert}."
            for name in ("gate_up_proj", "up_proj"):
                tensors[f"{own}{name}.weight"] = 8 * draw(WIDTH, D)
            for name in ("gate_down_proj", "down_proj"):
                tensors[f"{own}{name}.weight"] = 4 * draw(D, WIDTH)
    return tensors


def published_logits(tensors: dict[str, Tensor], ids: list[int]) -> Tensor:
    """The published forward pass of one row, [M] -> [M, V]."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    size = D // HEADS
    length = len(ids)

    def rms(x: Tensor, name: str) -> Tensor:
        return w[name] * x / (x.pow(2).mean(-1, keepdim=True) + CONFIG["rms_norm_eps"]).sqrt()

    def turn(x: Tensor, position: int) -> Tensor:
        turned = x.clone()
        for i in range(size // 2):
            angle = position * CONFIG["rope_theta"] ** (-2 * i / size)
            a, b = x[i], x[i + size // 2]
            turned[i] = a * math.cos(angle) - b * math.sin(angle)
            turned[i + size // 2] = b * math.cos(angle) + a * math.sin(angle)
        return turned

    def attention(x: Tensor, prefix: str) -> Tensor:
        q, k, v = (x @ w[f"{prefix}{n}_proj.weight"].T + w[f"{prefix}{n}_proj.bias"] for n in "qkv")
        rows = []
        for t in range(length):
            heads = []
            for h in range(HEADS):
                own, shared = slice(h * size, (h + 1) * size), h // (HEADS // KV)
                kept = slice(shared * size, (shared + 1) * size)
                query = turn(q[t, own], t)
                scores = torch.stack([query @ turn(k[s, kept], s) for s in range(t + 1)])
                heads.append((scores / math.sqrt(size)).softmax(0) @ v[: t + 1, kept])
            rows.append(torch.cat(heads))
        return torch.stack(rows) @ w[f"{prefix}o_proj.weight"].T

    def silu(x: Tensor) -> Tensor:
        return x * x.sigmoid()

    def expert(x: Tensor, prefix: str) -> Tensor:
        h = silu(w[f"{prefix}gate_up_proj.weight"] @ x) * (w[f"{prefix}up_proj.weight"] @ x)
        return silu(w[f"{prefix}gate_down_proj.weight"] @ h) * (w[f"{prefix}down_proj.weight"] @ h)

    def soft_moe(x: Tensor, prefix: str) -> Tensor:
        unit = x / x.norm(dim=1, keepdim=True)
        phi = w[f"{prefix}phi"]
        phi = w[f"{prefix}scale"] * phi / phi.norm(dim=0, keepdim=True)
        logits = torch.einsum("md,dnp->mnp", unit, phi)
        dispatch = logits.softmax(dim=0)
        combine = logits.flatten(1).softmax(dim=1).view_as(logits)
        y = torch.zeros_like(x)
        for n in range(EXPERTS):
            for p in range(SLOTS):
                slot = (dispatch[:, n, p, None] * unit).sum(dim=0)
                y += combine[:, n, p, None] * expert(slot, f"{prefix}experts.{n}.")
        return y

    x = w["model.embed_tokens.weight"][ids]
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        x = x + attention(rms(x, f"{prefix}input_layernorm.weight"), f"{prefix}self_attn.")
        x = x + soft_moe(rms(x, f"{prefix}post_attention_layernorm.weight"), f"{prefix}mlp.")
    return rms(x, "model.norm.weight") @ w["lm_head.weight"].T


def write(
    folder: Path,
    tensors: dict[str, Tensor],
    config: dict[str, Any] | None = None,
    num_files: int = 1,
) -> Path:
    """A checkpoint folder; tensors are dealt out to files, so that layers straddle them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or CONFIG), encoding="utf-8")
    byte_tokenizer().save_pretrained(folder)
    (folder / "modeling_steel.py").write_text("raise SystemExit\n", encoding="utf-8")
    names = list(tensors)
    if num_files == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    where = {}
    for number in range(num_files):
        file = f"model-{number}.safetensors"
        part = {name: tensors[name] for name in names[number::num_files]}
        save_file(part, folder / file)
        where |= dict.fromkeys(part, file)
    index = json.dumps({"metadata": {}, "weight_map": where})
    (folder / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    return folder


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return published_tensors()


def load(folder: Path) -> SteelForCausalLM:
    with pytest.warns(UserWarning, match="later tokens"):
        loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert type(loaded) is SteelForCausalLM
    return loaded.eval()


@pytest.mark.parametrize("num_files", [1, 3])
def test_computes_what_was_published(
    tmp_path: Path, tensors: dict[str, Tensor], num_files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "MAX_FILE_BYTES", 10_000)
    source = write(tmp_path / "source", tensors, num_files=num_files)
    done = import_published(source, tmp_path / "out")
    assert done.exact and done.tensors == len(tensors) and done.files > 1
    assert done.parameters == sum(tensor.numel() for tensor in tensors.values())
    ids = [5, 60, 7, 7, 33, 2, 19, 40, 11]
    with torch.no_grad():
        found = load(tmp_path / "out")(torch.tensor([ids])).logits[0]
    expected = published_logits(tensors, ids)
    assert expected.std() > 0.5
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_cached_decoding_is_what_the_published_code_generated_with(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    """One token at a time its routing saw one token: x^ goes to every expert as it is."""
    import_published(write(tmp_path / "source", tensors), tmp_path / "out")
    model = load(tmp_path / "out")
    model.config.decode_with_cache = True
    moe = model.model.layers[1].mlp
    x = torch.randn(1, 1, D)
    prefix = "model.layers.1.mlp."
    unit = (x / x.norm()).double()[0, 0]
    phi = tensors[f"{prefix}phi"].double()
    logits = torch.einsum("d,dnp->np", unit, 3 * phi / phi.norm(dim=0, keepdim=True))
    combine = logits.flatten().softmax(0).view_as(logits).sum(dim=1)
    expected = torch.zeros(D, dtype=torch.float64)
    for n in range(EXPERTS):
        own = {
            name: tensors[f"{prefix}experts.{n}.{name}.weight"].double()
            for name in ("gate_up_proj", "up_proj", "gate_down_proj", "down_proj")
        }
        gate = own["gate_up_proj"] @ unit
        h = gate * gate.sigmoid() * (own["up_proj"] @ unit)
        gate = own["gate_down_proj"] @ h
        expected += combine[n] * gate * gate.sigmoid() * (own["down_proj"] @ h)
    torch.testing.assert_close(moe(x)[0, 0].double(), expected, rtol=1e-4, atol=1e-5)
    made = model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, do_sample=False)
    assert made.shape == (1, 5)


def test_a_tokenizer_that_cannot_be_loaded_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    source = write(tmp_path / "source", tensors)
    (source / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be loaded"):
        import_published(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_files_are_taken_over_and_code_is_not(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    half = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    half["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3, dtype=torch.bfloat16)
    assert import_published(write(tmp_path / "source", half), tmp_path / "out").dtype == "bfloat16"
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    tokenizer = ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json", SEAL]
    assert files == sorted(["config.json", "model.safetensors", *tokenizer])
    # Later programs compare it: files that are exchanged are refused.
    sealed = json.loads((tmp_path / "out" / SEAL).read_text())
    assert sealed["digest"] == digest_tokenizer(byte_tokenizer()).digest
    KINDS["llama-3"]().save_pretrained(tmp_path / "out")
    with pytest.raises(DataError, match="trained with"):
        load_folder_tokenizer(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert "auto_map" not in config
    assert (config["model_type"], config["dtype"]) == ("steel", "bfloat16")
    loaded = load(tmp_path / "out")
    row = loaded.model.layers[1].mlp.experts.up_out[2 * WIDTH + 3]
    assert torch.equal(row, half["model.layers.1.mlp.experts.2.down_proj.weight"][:, 3])
    assert not (tmp_path / "out.partial").exists()


def test_tied_embeddings_are_stored_once(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    del tensors["lm_head.weight"]
    config = {**CONFIG, "tie_word_embeddings": True}
    import_published(write(tmp_path / "source", tensors, config), tmp_path / "out")
    loaded = load(tmp_path / "out")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded.lm_head.weight, tensors["model.embed_tokens.weight"])


def change(name: str, tensor: Tensor | None) -> Callable[[dict[str, Tensor]], None]:
    def apply(tensors: dict[str, Tensor]) -> None:
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor

    return apply


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (change("model.layers.1.mlp.phi", None), r"lacks model\.layers\.1\.mlp\.phi"),
        (change("lm_head.weight", None), r"lacks lm_head\.weight"),
        (change("model.layers.2.mlp.phi", torch.zeros(2)), r"no Steel-LLM has, model\.layers\.2"),
        (
            change("model.layers.0.mlp.experts.1.up_proj.weight", torch.zeros(9, D)),
            r"experts\.1\.up_proj\.weight is \[9, 24\], config.json says \[10, 24\]",
        ),
        (
            change("model.layers.0.mlp.phi", torch.zeros(D, EXPERTS * SLOTS)),
            r"phi is \[24, 6\], config.json says \[24, 3, 2\]",
        ),
        (change("model.norm.weight", torch.full((D,), math.nan)), r"norm\.weight has values that"),
        (change("model.norm.weight", torch.zeros(D, dtype=torch.int8)), "weights as I8"),
    ],
)
def test_wrong_tensors_are_refused_by_name(
    tmp_path: Path,
    tensors: dict[str, Tensor],
    apply: Callable[[dict[str, Tensor]], None],
    message: str,
) -> None:
    apply(tensors)
    source = write(tmp_path / "source", tensors)
    with pytest.raises(DataError, match=message):
        import_published(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"FFN_type": "softmoe_v2"}, "FFN_type is 'softmoe_v2', only 'softmoe_v3'"),
        ({"FFN_type": None}, "FFN_type is None"),
        ({"mlp_type": "raw"}, "mlp_type is 'raw'"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"n_experts": None}, "no field n_experts"),
        ({"model_type": "steel", "routing": "token"}, "ours already"),
    ],
)
def test_other_configs_are_refused(
    tmp_path: Path, tensors: dict[str, Tensor], changes: dict[str, Any], message: str
) -> None:
    source = write(tmp_path / "source", tensors, {**CONFIG, **changes})
    with pytest.raises(DataError, match=message):
        import_published(source, tmp_path / "out")


def test_pickled_and_damaged_weights_are_not_opened(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    source = write(tmp_path / "source", tensors)
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"model\.safetensors cannot be read"):
        import_published(source, tmp_path / "out")
    weights.rename(source / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pickled weights .pytorch_model\.bin.*save_pretrained"):
        import_published(source, tmp_path / "out")
    (source / "pytorch_model.bin").unlink()
    with pytest.raises(DataError, match="is the download complete"):
        import_published(source, tmp_path / "out")
    index = source / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"x": "../elsewhere.safetensors"}}', encoding="utf-8")
    with pytest.raises(DataError, match=r"names \.\./elsewhere"):
        import_published(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("routing", "lacks"), [("dense", "no experts to import"), ("uniform", "no router to import")]
)
def test_a_routing_without_a_place_for_all_weights_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor], routing: Any, lacks: str
) -> None:
    source = write(tmp_path / "source", tensors)
    with pytest.raises(ConfigError, match=f"'{routing}' has {lacks}.*choose reference_norm"):
        import_published(source, tmp_path / "output", routing)
    assert not (tmp_path / "output").exists()


def test_an_output_that_exists_is_left_alone(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    source = write(tmp_path / "source", tensors)
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists"):
        import_published(source, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
