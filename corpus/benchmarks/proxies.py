"""Figures of a benchmark that move before its accuracy does, from the likelihoods of the options.

    letters   log P of each letter after the prompt      ─▶ P(right | the four), margin
    cloze     log P of each option's text, and its size  ─▶ bits per byte, per token, margin

Accuracy asks which option is the most likely one; of a small or young model that is chance for most
of a training, while the probability of the right one rises (Schaeffer et al. 2023, arXiv
2304.15004; Magnusson et al. 2025, arXiv 2504.11393). All are means over questions, each with its
standard error.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, TypeAlias

Answers: TypeAlias = Sequence[Mapping[str, Any]]
"""Lines of a file of answers (model/evaluate/answers.py), in the order of `targets`."""
Figure: TypeAlias = dict[str, float | int | None]
"""{"mean", "standard_error" (None for a single question), "questions"}."""


def letter_proxies(answers: Answers, targets: Sequence[int]) -> dict[str, Figure]:
    """Figures of answers by letters. targets: number of the right option of each question.

    accuracy           share of questions whose right letter is the most likely one
    p_right            P(right letter) / P(any of the four)
    log_p_right        its natural logarithm, nats
    margin             log P(right letter) - log P(best wrong letter), nats
    """
    rows = [_Options(a["log_likelihoods"], t) for a, t in zip(answers, targets, strict=True)]
    return {
        "accuracy": _mean([float(row.is_first) for row in rows]),
        "p_right": _mean([math.exp(row.log_share) for row in rows]),
        "log_p_right": _mean([row.log_share for row in rows]),
        "margin": _mean([row.margin for row in rows]),
    }


def cloze_proxies(answers: Answers) -> dict[str, Figure]:
    """Figures of answers in mode cloze.

    accuracy              share of questions whose right text is the most likely one per character
    p_right               P(right text) / P(any of the four texts)
    bits_per_byte         -log2 P(right text) / its UTF-8 bytes; lower is better
    log_p_per_character   log P(right text) / its characters, nats
    log_p_per_token       log P(right text) / its tokens, nats; not for models of other tokenizers
    margin                log P per character of the right text less that of the best wrong one
    """
    whole, single = [], []
    figures: dict[str, list[float]] = {
        "bits_per_byte": [],
        "log_p_per_character": [],
        "log_p_per_token": [],
    }
    for answer in answers:
        target, logp = answer["target"], answer["log_likelihoods"]
        whole.append(_Options(logp, target))
        sizes = answer["characters"]
        single.append(_Options([p / n for p, n in zip(logp, sizes, strict=True)], target))
        right = logp[target]
        figures["bits_per_byte"].append(-right / math.log(2) / answer["bytes"][target])
        figures["log_p_per_character"].append(right / sizes[target])
        figures["log_p_per_token"].append(right / answer["tokens"][target])
    return {
        "accuracy": _mean([float(row.is_first) for row in single]),
        "p_right": _mean([math.exp(row.log_share) for row in whole]),
        **{name: _mean(values) for name, values in figures.items()},
        "margin": _mean([row.margin for row in single]),
    }


class _Options:
    """Log-likelihoods of one question's options."""

    def __init__(self, logp: Sequence[float], target: int) -> None:
        best = max(logp)
        self.is_first = list(logp).index(best) == target
        """The right one is the most likely; of equal ones the first counts, as in lm-eval."""
        self.log_share = logp[target] - best - math.log(sum(math.exp(p - best) for p in logp))
        self.margin = logp[target] - max(p for i, p in enumerate(logp) if i != target)


def _mean(values: Sequence[float]) -> Figure:
    spread: Callable[[Sequence[float]], float] = stdev
    error = spread(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": fmean(values), "standard_error": error, "questions": len(values)}
