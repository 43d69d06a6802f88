"""A model built with one implementation of everything learns as the eager one does."""

import pytest
import torch

from model.architecture import MergedProduct
from model.config import SteelConfig
from model.kernels import OPERATIONS
from model.merged_products import merge_products
from model.modeling_steel import SteelForCausalLM
from model.train.loss import ModelWithLoss
from tests.model.kernels.cases import cases

CONFIG = {
    "vocab_size": 37,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "expert_intermediate_size": 5,
    "num_experts": 3,
    "slots_per_expert": 2,
}


@pytest.mark.parametrize(
    ("name", "device"), [case for case in cases("soft_moe") if case.values[0] != "eager"]
)
@pytest.mark.parametrize("routing", ["token", "uniform", "dense"])
@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("merged", [(), ("qkv", "ffn_in", "ffn_out")], ids=["separate", "merged"])
def test_loss_and_gradients(
    name: str, device: str, routing: str, recomputed: bool, merged: tuple[MergedProduct, ...]
) -> None:
    kernels = dict.fromkeys(OPERATIONS, name)
    torch.manual_seed(0)
    reference = SteelForCausalLM(SteelConfig(**CONFIG, routing=routing, kernels="eager"))
    model = SteelForCausalLM(SteelConfig(**CONFIG, routing=routing, kernels=kernels))
    model.load_state_dict(reference.state_dict())
    merge_products(model, merged)
    if recomputed:
        model.gradient_checkpointing_enable()
    ids = torch.randint(0, 37, (2, 7), generator=torch.Generator().manual_seed(1))
    ids[1, 3] = -100
    gradients = []
    for one, place in ((reference, "cpu"), (model, device)):
        one.to(place).train()
        labels = ids.to(place)
        loss = ModelWithLoss(one)(labels.clamp(min=0), labels).mean()
        loss.backward()
        gradients.append({"loss": loss.detach().cpu()})
        gradients[-1] |= {key: p.grad.cpu() for key, p in one.named_parameters()}
    for key, wanted in gradients[0].items():
        scale = wanted.abs().max().item()
        torch.testing.assert_close(
            gradients[1][key], wanted, rtol=1e-4, atol=1e-5 * scale, msg=lambda m, k=key: f"{k} {m}"
        )
