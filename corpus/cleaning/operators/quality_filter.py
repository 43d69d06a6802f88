"""Drop web pages of low quality, by the score of a model: a Data-Juicer filter of ours.

Scores are from 0 (spam, garbled, adverts, lists of links) to 1. In a run of the stage the model and
the bounds of each source come from `clean.quality` (corpus/cleaning/quality/config.py); where it
gives none, the model that Steel ships serves with the recipe's `min_score`.
"""

import functools
from collections.abc import Mapping
from typing import Any

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields

from corpus.cleaning.quality.model import Scorer, load
from corpus.cleaning.quality.scope import is_judged

QUALITY = "quality"
"""Statistic: the score."""
SOURCE = "source"
"""Column with the corpus that a document is from."""


@functools.cache
def _model(path: str, good_label: str) -> Scorer:
    """Read once in every process."""
    return load(path, good_label)


@OPERATORS.register_module("quality_filter")
class QualityFilter(Filter):
    """Score pages, and keep those that reach the bound of their source."""

    _batched_op = True

    def __init__(
        self,
        model: str = "",
        min_score: float = 0.45,
        min_scores: Mapping[str, float] | None = None,
        good_label: str = "__label__pos",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            model: an .npz that Steel trained or a fastText .bin; empty: the one that Steel ships.
            min_score: lowest score that is kept.
            min_scores: the same for single sources, as in {skypile: 0.6}.
            good_label: label of good pages in a fastText model.
        """
        super().__init__(*args, **kwargs)
        self.model, self.good_label = model, good_label
        self.min_score, self.min_scores = min_score, dict(min_scores or {})

    def compute_stats_batched(self, samples: dict[str, Any]) -> dict[str, Any]:
        """Add the statistic QUALITY."""
        pairs = list(zip(samples[self.text_key], samples[Fields.stats], strict=True))
        left = [(text, stats) for text, stats in pairs if QUALITY not in stats]
        scores = _model(self.model, self.good_label).scores([text for text, _ in left])
        for (_, stats), score in zip(left, scores, strict=True):
            stats[QUALITY] = score
        return samples

    def process_batched(self, samples: dict[str, Any]) -> list[bool]:
        """Keep what reaches the bound of its source, or the general one, and what no model of web
        pages can judge (corpus/cleaning/quality/scope.py)."""
        measured, texts = samples[Fields.stats], samples[self.text_key]
        sources = samples.get(SOURCE) or [""] * len(measured)
        return [
            stats[QUALITY] >= self.min_scores.get(source, self.min_score) or not is_judged(text)
            for source, stats, text in zip(sources, measured, texts, strict=True)
        ]
