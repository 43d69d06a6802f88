"""FLOPs that training on one token takes: the one formula of every MFU and every forecast."""


def train_flops(
    weights: float, *, num_layers: int, num_heads: int, head_dim: int, sequence_length: int
) -> float:
    """Forward and backward FLOPs to train on one token, recomputation not counted.

    6 per weight of every matrix that multiplies the token, plus 12 x layers x width x L / 2 for
    causal attention (PaLM, Chowdhery et al. 2022, appendix B).

    Args:
        weights: of the matrices that multiply a token, each counted as often as it does.
        num_layers: layers with attention.
        num_heads: query heads of a layer.
        head_dim: width of a head.
        sequence_length: L, tokens that a row holds as one document.
    """
    return float(6 * weights + 12 * num_layers * num_heads * head_dim * sequence_length / 2)
