"""The architectures that tests train, by Transformers' `model_type`, and what to know about them.

Any other that Transformers has may be tried: it trains if it passes what all must pass
(model/train/architectures/probe.py). `docs/pretraining.md` shows this table.
"""

from collections.abc import Iterator

from transformers import PreTrainedModel


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


DENSE = _names(
    "arcee bitnet codegen cohere cohere2 ctrl cwm diffllama doge emu3 ernie4_5 exaone4 "
    "gemma gemma2 gemma3_text gemma3n_text gemma4 gemma4_text gemma4_unified "
    "gemma4_unified_text glm glm4 gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox "
    "gpt_neox_japanese gptj granite granite_swa helium hrm_text hyperclovax internlm3 "
    "iquestcoder jais2 lfm2 llama minicpm3 ministral3 mistral modernbert-decoder moshi "
    "nanochat olmo olmo2 olmo3 persimmon phi phi3 qwen2 qwen3 seed_oss smollm3 stablelm "
    "starcoder2 vaultgemma youtu"
)
"""One feed-forward network a layer; documents of a row are kept apart."""

ROUTER_LOSS = _names(
    "ernie4_5_moe flex_olmo flint granitemoe granitemoe_swa granitemoeshared jetmoe laguna "
    "mellum minimax_m2 minimax_m3_vl_text mixtral olmoe phimoe qwen2_moe qwen3_moe"
)
"""Mixtures of experts that define a router's loss, with which they train; documents apart."""

OTHER_EXPERTS = _names(
    "aria_text axk1 beam cohere2_moe deepseek_v2 deepseek_v3 exaone_moe glm4_moe "
    "glm4_moe_lite hy_v3 kolibri1 llama4 llama4_text longcat_flash mimo_v2_flash solar_open"
)
"""Mixtures of experts whose code in Transformers has no such loss; documents apart."""

JOINED_ONLY = _names(
    "afmoe bailing_hybrid bamba biogpt bloom blt falcon falcon_mamba gpt_oss "
    "granitemoehybrid inkling_text jamba kimi_linear lfm3 mamba mamba2 minimax mpt "
    "nemotron_h olmo_hybrid opt qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next "
    "recurrent_gemma rwkv xglm xlstm zamba zaya"
)
"""Documents of a row see each other, in attention or through a state: they train with
`separate_documents: false` only."""

TESTED = DENSE | ROUTER_LOSS | OTHER_EXPERTS
"""All that train with documents kept apart."""

BALANCING_BIAS = "e_score_correction_bias"
"""Name, in Transformers' code, of a bias on the choice of experts that no gradient reaches."""


def remarks(model: PreTrainedModel) -> Iterator[str]:
    """Yield the traps of an architecture that a user should know before it trains."""
    kind = model.config.model_type
    if kind not in TESTED | JOINED_ONLY:
        yield (
            "is none of the architectures that Steel's tests train (docs/pretraining.md); a tiny "
            "model of it has passed all checks"
        )
    tensors = [*model.named_buffers(), *model.named_parameters()]
    if any(name.endswith(BALANCING_BIAS) for name, _ in tensors):
        yield (
            f"balances its experts by a bias ({BALANCING_BIAS}) that its authors move after each "
            "step; Transformers' code does not, nor does Steel: it stays as it starts, and nothing "
            "but what the config has of a router's loss keeps the experts in balance"
        )
