"""Losses of preference pairs, and what is measured beside them.

    reward r(x, y) = beta (log pi(y | x) - log pi_ref(y | x))    margin = r(chosen) - r(rejected)

    sigmoid   -log sigmoid(margin)         Rafailov et al. 2023, equation 7
    hinge     max(0, 1 - margin)           Zhao et al. 2023 (SLiC), equation 6
    ipo       (delta - 1 / (2 beta))^2     Azar et al. 2023, equation 17, where delta is the margin
                                           / beta of log ratios a token, as its authors do (TRL)

P = pairs, A = 2 P answers, T = tokens of all answers.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

PreferenceLoss = Literal["sigmoid", "hinge", "ipo"]


class AnswerScores(NamedTuple):
    """Log-probabilities of answers under the policy and the reference, nats, fp32 [P]."""

    chosen: Tensor
    """log pi(chosen | prompt), summed over its tokens; differentiable."""
    rejected: Tensor
    """log pi(rejected | prompt); differentiable."""
    reference_chosen: Tensor
    """log pi_ref(chosen | prompt)."""
    reference_rejected: Tensor
    """log pi_ref(rejected | prompt)."""
    chosen_tokens: Tensor
    """Tokens of each chosen answer, at least 1; int64."""
    rejected_tokens: Tensor
    """Tokens of each rejected answer, at least 1; int64."""

    @property
    def chosen_ratio(self) -> Tensor:
        """log (pi / pi_ref) of the chosen answers."""
        return self.chosen - self.reference_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        """log (pi / pi_ref) of the rejected answers."""
        return self.rejected - self.reference_rejected


def pair_losses(scores: AnswerScores, *, beta: float, kind: PreferenceLoss) -> Tensor:
    """Loss of each pair, fp32 [P]; differentiable in the policy's log-probabilities."""
    if kind == "ipo":
        delta = (
            scores.chosen_ratio / scores.chosen_tokens
            - scores.rejected_ratio / scores.rejected_tokens
        )
        return (delta - 1 / (2 * beta)) ** 2
    margin = beta * (scores.chosen_ratio - scores.rejected_ratio)
    return functional.relu(1 - margin) if kind == "hinge" else -functional.logsigmoid(margin)


def first_loss(kind: PreferenceLoss, beta: float) -> float:
    """Loss of a pair before the policy has moved: every margin is 0."""
    zero, one = torch.zeros(1), torch.ones(1, dtype=torch.int64)
    return float(pair_losses(AnswerScores(zero, zero, zero, zero, one, one), beta=beta, kind=kind))


FIGURES = (
    "pairs",
    "loss",
    "reward_chosen",
    "reward_rejected",
    "right",
    "logp_chosen",
    "logp_rejected",
    "chosen_tokens",
    "rejected_tokens",
    "chosen_is_longer",
    "rejected_is_longer",
    "right_though_rejected_is_longer",
    "divergence",
)
"""Sums over pairs that `figures_of` makes, in this order; `means_of` turns them into means."""


def figures_of(scores: AnswerScores, losses: Tensor, divergence: Tensor, *, beta: float) -> Tensor:
    """Sums over the pairs of a micro-batch, fp64 [FIGURES], to be added over batches and ranks.

    losses [P]; divergence []: `divergence_terms`, summed over all tokens of the answers. A pair
    with equal rewards counts as half right, one with equal lengths as half longer.
    """
    chosen, rejected = beta * scores.chosen_ratio, beta * scores.rejected_ratio
    right = _half_for_ties(chosen, rejected)
    rejected_is_longer = scores.chosen_tokens < scores.rejected_tokens
    of_pairs = (
        torch.ones_like(right),
        losses,
        chosen,
        rejected,
        right,
        scores.chosen,
        scores.rejected,
        scores.chosen_tokens,
        scores.rejected_tokens,
        _half_for_ties(scores.chosen_tokens, scores.rejected_tokens),
        rejected_is_longer,
        right * rejected_is_longer,
    )
    sums = [values.detach().double().sum() for values in of_pairs]
    return torch.stack([*sums, divergence.detach().double()])


def means_of(sums: Mapping[str, float], *, suffix: str = "") -> dict[str, float]:
    """Measurements of pairs from their sums by name (FIGURES); empty without a pair.

    suffix: behind each name, such as `_<set>`.
    """
    pairs = sums["pairs"]
    if not pairs:
        return {}
    of_pair = {name: value / pairs for name, value in sums.items()}
    found = {
        "loss": of_pair["loss"],
        "reward_chosen": of_pair["reward_chosen"],
        "reward_rejected": of_pair["reward_rejected"],
        "reward_margin": of_pair["reward_chosen"] - of_pair["reward_rejected"],
        "preference_accuracy": of_pair["right"],
        "logp_chosen": of_pair["logp_chosen"],
        "logp_rejected": of_pair["logp_rejected"],
        "kl": sums["divergence"] / (sums["chosen_tokens"] + sums["rejected_tokens"]),
        "chosen_tokens": of_pair["chosen_tokens"],
        "rejected_tokens": of_pair["rejected_tokens"],
        "length_accuracy": of_pair["chosen_is_longer"],
    }
    if sums["rejected_is_longer"]:
        found["accuracy_where_rejected_is_longer"] = (
            sums["right_though_rejected_is_longer"] / sums["rejected_is_longer"]
        )
    return {f"{name}{suffix}": value for name, value in found.items()}


def divergence_terms(policy: Tensor, reference: Tensor) -> Tensor:
    """Terms of the k3 estimator of KL(reference || policy), one a token; never negative. [T] each.

    exp(d) - 1 - d with d = log pi - log pi_ref of a token that was drawn from pi_ref (J. Schulman,
    Approximating KL Divergence, 2020). Their mean is that divergence a token if the reference said
    the answers; here others did, so it is a distance to the reference on these answers: 0 where the
    policy has not moved, and comparable between runs on the same pairs. The other direction's k3
    needs exp(-d), which a single token that the policy has given up makes astronomical.
    """
    difference = policy.detach().float() - reference
    return torch.expm1(difference) - difference


def length_accuracy(chosen: npt.ArrayLike, rejected: npt.ArrayLike) -> float:
    """Share of pairs whose chosen answer is longer, equal ones as half; token counts [P]."""
    return float((np.sign(np.subtract(chosen, rejected)).mean() + 1) / 2)


def _half_for_ties(one: Tensor, other: Tensor) -> Tensor:
    """1 where `one` is larger, 0.5 where both are equal, else 0; fp32."""
    return (one > other).float() + 0.5 * (one == other).float()
