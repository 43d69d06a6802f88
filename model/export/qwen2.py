"""A dense Steel model as Qwen2, which every inference engine knows.

Both are the same architecture under the same names: attention with bias on Q, K, V only, RMSNorm
before attention and FFN, a SwiGLU FFN without bias, rotary positions. No weight changes.
"""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedConfig, Qwen2Config

from model.architecture import SteelArchitecture
from model.config import SteelConfig
from model.export.source import Source
from model.tokenizer.folder import PROBES

TAKEN_OVER = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_dropout",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "use_cache",
)
"""Fields of the same name and meaning in both configs."""


def obstacle(config: PreTrainedConfig) -> str:
    """Say why a model cannot be exported as Qwen2; "" where it can."""
    if not isinstance(config, SteelConfig):
        return f"it is a {config.model_type} model already known to Transformers"
    if config.routing != "dense":
        return f"its FFN has experts (routing: {config.routing}), and Qwen2 has one dense FFN"
    return heads_obstacle(config)


def heads_obstacle(config: SteelConfig) -> str:
    """Say why heads are not as those of Qwen2; "" where they are."""
    width, heads = config.hidden_size, config.num_attention_heads
    if config.head_dim is not None and config.head_dim * heads == width:
        return ""
    return (
        f"its heads are {config.head_dim} wide, and those of a Qwen2 hidden_size / "
        f"num_attention_heads = {width / heads:g}"
    )


def tokenizer_obstacle(folder: Path, source: Source) -> str:
    """Say why Transformers would make another tokenizer of an exported one; "" where it does not.

    For a Qwen2 model it builds Qwen2's tokenizer, whatever tokenizer.json says. Writes the config
    into the folder, which decides that.
    """
    assert isinstance(source.network.config, SteelConfig)
    as_qwen2(source.network.config).save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    for text in PROBES:
        if loaded.encode(text) != source.tokenizer.encode(text):
            return (
                "its tokenizer is not of Qwen's kind, which Transformers builds for every Qwen2 "
                f"model: {text!r} would get other ids"
            )
    return ""


def as_qwen2(config: SteelArchitecture) -> Qwen2Config:
    """The config under which Qwen2ForCausalLM computes what the dense Steel model does."""
    return Qwen2Config(
        **{name: getattr(config, name) for name in TAKEN_OVER},
        intermediate_size=config.dense_intermediate_size,
        hidden_act="silu",
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        use_sliding_window=False,
        sliding_window=None,
    )
