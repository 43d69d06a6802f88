"""Parameters of our architecture by part, and the weights that multiply one token.

Shapes: V = vocabulary, d = hidden size, n = experts, p = slots of an expert, h = expert width.
"""

from dataclasses import dataclass

from model.architecture import SteelArchitecture
from model.cost.flops import train_flops


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers of parameters by part."""

    embedding: int
    """Rows that tokens are looked up in: V d."""
    attention: int
    """Projections of all layers, with their biases."""
    ffn: int
    """Experts of all layers, or their dense FFNs."""
    router: int
    """Keys of the slots, scales and learned gains of all layers; 0 without routing."""
    norms: int
    """Weights of all norms."""
    head: int
    """Projection onto the vocabulary: V d, or 0 where it is the embedding's."""
    active: int
    """Those that one token's forward pass uses: all but the embedding's other rows."""

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.attention + self.ffn + self.router + self.norms + self.head


def parameters_of(architecture: SteelArchitecture) -> Parameters:
    """Parameters of a completed architecture (`SteelArchitecture.complete`)."""
    d, layers = architecture.hidden_size, architecture.num_hidden_layers
    q, kv = widths(architecture)
    attention = layers * (2 * d * q + 2 * d * kv + q + 2 * kv)
    router = 0
    if architecture.routing == "dense":
        ffn = layers * 3 * d * architecture.dense_intermediate_size
    else:
        ffn = layers * 4 * architecture.num_experts * architecture.expert_intermediate_size * d
        router = layers * int(architecture.learn_gain)
        if architecture.has_router:
            router += layers * (d * num_slots(architecture) + 1)
    norms = layers * 2 * d + d
    embedding = architecture.vocab_size * d
    head = 0 if architecture.tie_word_embeddings else embedding
    parts = {
        "embedding": embedding,
        "attention": attention,
        "ffn": ffn,
        "router": router,
        "norms": norms,
        "head": head,
    }
    # Every expert computes every token (`token`), or every slot (`sequence`): none stands idle.
    other_rows = embedding - d if head else 0
    return Parameters(**parts, active=sum(parts.values()) - other_rows)


def hidden_weights(architecture: SteelArchitecture) -> int:
    """Parameters of the matrices of hidden layers, which Muon updates: projections and experts
    (model/train/optim/parameters.py)."""
    parts = parameters_of(architecture)
    q, kv = widths(architecture)
    biases = architecture.num_hidden_layers * (q + 2 * kv)
    return parts.attention - biases + parts.ffn


def weights_per_token(architecture: SteelArchitecture, sequence_length: int) -> float:
    """Weights of matrices that multiply one token, each counted as often as it does.

    Routing over the sequence feeds each expert slots instead of tokens, so its experts count for
    p / L of a token, and its keys three times: logits, tokens to slots, slots to tokens. Rows
    count as one document each.
    """
    d, layers = architecture.hidden_size, architecture.num_hidden_layers
    q, kv = widths(architecture)
    parts = parameters_of(architecture)
    experts, keys = 1.0, 1.0
    if architecture.leaks:
        experts, keys = architecture.slots_per_expert / sequence_length, 3.0
    router = layers * d * num_slots(architecture) if architecture.has_router else 0
    projections = layers * (2 * d * q + 2 * d * kv)
    return projections + experts * parts.ffn + keys * router + (parts.head or parts.embedding)


def flops_per_token(architecture: SteelArchitecture, sequence_length: int) -> float:
    """FLOPs to train on one token: those of the trained model (model/train/callbacks/speed.py)."""
    assert architecture.head_dim is not None
    return train_flops(
        weights_per_token(architecture, sequence_length),
        num_layers=architecture.num_hidden_layers,
        num_heads=architecture.num_attention_heads,
        head_dim=architecture.head_dim,
        sequence_length=sequence_length,
    )


def widths(architecture: SteelArchitecture) -> tuple[int, int]:
    """Width of all query heads, and of all key or value heads."""
    assert architecture.head_dim is not None
    kv_heads = architecture.num_key_value_heads or architecture.num_attention_heads
    return (
        architecture.num_attention_heads * architecture.head_dim,
        kv_heads * architecture.head_dim,
    )


def num_slots(architecture: SteelArchitecture) -> int:
    """Slots of a layer: n p."""
    return architecture.num_experts * architecture.slots_per_expert
