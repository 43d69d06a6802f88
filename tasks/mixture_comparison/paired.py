"""Models that answered the same questions, compared in pairs.

    right[S, N]   1 where the model of a seed answered a question correctly: S seeds, N questions

One training each: a difference is tested by McNemar's exact test, on the questions that only one
of the two answered correctly. Several seeds: questions are paired (both models answered the same
ones), seeds are not (seed 1 of one mixture has nothing in common with seed 1 of another), and both
vary:

    variance of a difference = questions + seeds - what both hold (docs/adr/0062)
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import stats

from corpus.benchmarks.scoring import wilson_interval

Right = npt.NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)

LEVEL = 0.95
"""Of every interval."""


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """Variances of a training that is repeated, pooled over all mixtures that were."""

    seeds: float = 0.0
    """Of the accuracy of one seed."""
    residual: float = 0.0
    """Of one answer, beyond what its question and its seed explain."""
    freedom: int = 0
    """Degrees of freedom: seeds less mixtures; 0: nothing was repeated."""

    @classmethod
    def of(cls, models: Sequence[Right]) -> "SeedSpread":
        """Pool the mixtures with two seeds or more; others say nothing about it."""
        repeated = [right for right in models if len(right) > 1]
        freedom = sum(len(right) - 1 for right in repeated)
        if not freedom:
            return cls()
        seeds = residual = 0.0
        for right in repeated:
            by_seed, by_question = right.mean(1), right.mean(0)
            seeds += float(((by_seed - by_seed.mean()) ** 2).sum())
            rest = right - by_seed[:, None] - by_question + right.mean()
            residual += float((rest**2).sum()) / max(1, right.shape[1] - 1)
        return cls(seeds=seeds / freedom, residual=residual / freedom, freedom=freedom)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An accuracy or a difference of two, with its 95 % interval; shares, not per cent."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Difference(Estimate):
    """Accuracy of one mixture less that of the first."""

    p: float
    """Probability of a difference as large where there is none, two-sided."""
    only_this: int | None
    """Questions that this mixture alone answered correctly; None with several seeds."""
    only_first: int | None
    """Questions that the first mixture alone answered correctly; None with several seeds."""


def accuracy(right: Right, spread: SeedSpread) -> Estimate:
    """Mean over seeds and questions, with its interval.

    Wilson's where no training was repeated; else of Student's t, over other seeds and questions.
    """
    value = float(right.mean())
    if not spread.freedom:
        low, high = wilson_interval(float(right.sum()), right.size)
        return Estimate(value=value, low=low, high=high)
    variance, freedom = _variance(right.mean(0), spread, 1 / len(right))
    reach = _t(freedom) * math.sqrt(variance)
    return Estimate(value=value, low=max(0.0, value - reach), high=min(1.0, value + reach))


def difference(this: Right, first: Right, spread: SeedSpread) -> Difference:
    """Compare two mixtures on the same questions, in the same order."""
    paired = this.mean(0) - first.mean(0)
    value = float(paired.mean())
    if not spread.freedom:
        gained, lost = int((paired > 0).sum()), int((paired < 0).sum())
        low, high = _agresti_min(gained, lost, len(paired))
        return Difference(
            value=value,
            low=low,
            high=high,
            p=mcnemar(gained, lost),
            only_this=gained,
            only_first=lost,
        )
    variance, freedom = _variance(paired, spread, 1 / len(this) + 1 / len(first))
    reach = _t(freedom) * math.sqrt(variance)
    if variance:
        p = float(2 * stats.t.sf(abs(value) / math.sqrt(variance), freedom))
    else:
        p = 0.0 if value else 1.0
    return Difference(
        value=value,
        low=max(-1.0, value - reach),
        high=min(1.0, value + reach),
        p=p,
        only_this=None,
        only_first=None,
    )


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact test: a fair coin decides each question that only one model answered."""
    if gained + lost == 0:
        return 1.0
    return float(stats.binomtest(gained, gained + lost, 0.5).pvalue)


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Adjust p for the number of comparisons (Holm 1979): the chance of one false finding among
    all stays below the level at which the adjusted values are read."""
    adjusted: dict[Key, float] = {}
    least = 0.0
    for place, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[key]))
        adjusted[key] = least
    return adjusted


def _variance(by_question: Right, spread: SeedSpread, shares: float) -> tuple[float, float]:
    """Variance of a mean over questions and seeds, and its degrees of freedom (Satterthwaite's).

    by_question: [N], of each question, over the seeds; shares: sum of 1 / S of the models in it.
    """
    num = len(by_question)
    questions = float(by_question.var(ddof=1)) / num if num > 1 else 0.0
    seeds = spread.seeds * shares
    both = spread.residual * shares / num  # chance of single answers stands in both
    variance = max(questions + seeds - both, questions, seeds)
    parts = seeds**2 / spread.freedom + questions**2 / max(1, num - 1)
    return variance, variance**2 / parts if parts else float(spread.freedom)


def _t(freedom: float) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))


def _agresti_min(gained: int, lost: int, total: int) -> tuple[float, float]:
    """Interval of a difference of paired proportions (Agresti and Min 2005): half a question is
    added to each of the four outcomes, so that it is never without width."""
    more, less, size = gained + 0.5, lost + 0.5, total + 2
    centre = (more - less) / size
    reach = stats.norm.ppf((1 + LEVEL) / 2) * math.sqrt(more + less - size * centre**2) / size
    return max(-1.0, centre - float(reach)), min(1.0, centre + float(reach))
