"""Differences between models of a run on the same questions, tested in pairs.

One list for the report's first page, its table of differences, and whoever shows it elsewhere:
tasks/mixture_comparison has the statistics.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from common.errors import DataError
from tasks.core.manifest import StageResult

SIGNIFICANT_P = 0.05
"""Adjusted p below which a difference is called one."""

log = logging.getLogger("steel.report")


@dataclass(frozen=True, kw_only=True)
class ModelDifference:
    """Accuracy of a model less that of another one, on one benchmark."""

    other: str
    """The model that it is compared with."""
    value: float
    low: float
    high: float
    """95 % interval (Agresti and Min)."""
    p: float
    """McNemar's exact test, adjusted for all differences to the same model (Holm)."""

    @property
    def is_found(self) -> bool:
        """True if chance alone would seldom give a difference as large."""
        return self.p < SIGNIFICANT_P


Differences: TypeAlias = Mapping[tuple[str, str], ModelDifference]
"""(model, benchmark) -> its difference."""


def read_differences(
    evaluations: Mapping[str, StageResult], pairs: Mapping[str, str]
) -> dict[tuple[str, str], ModelDifference]:
    """Compare models question by question.

    Args:
        evaluations: model -> its evaluation.
        pairs: model -> the one it is compared with.

    Empty where single answers were not kept, or where models were asked different questions.
    """
    wanted = {m: o for m, o in pairs.items() if m in evaluations and o in evaluations}
    models = {name: evaluations[name] for name in (*wanted, *wanted.values())}
    if not wanted or not all((r.folder / "samples").is_dir() for r in models.values()):
        return {}
    from tasks.mixture_comparison.answers import read_answers
    from tasks.mixture_comparison.paired import SeedSpread, difference, holm

    try:
        answers = read_answers({name: {0: result} for name, result in models.items()})
    except DataError as error:
        log.warning("models are not compared in pairs: %s", error)
        return {}
    found = {
        (model, one.name): difference(one.right[model], one.right[other], SeedSpread())
        for model, other in wanted.items()
        for one in answers
    }
    # A family for each model that others are compared with, as in the comparison of mixtures.
    adjusted: dict[tuple[str, str], float] = {}
    for other in set(wanted.values()):
        adjusted |= holm({key: one.p for key, one in found.items() if wanted[key[0]] == other})
    return {
        key: ModelDifference(
            other=wanted[key[0]], value=one.value, low=one.low, high=one.high, p=adjusted[key]
        )
        for key, one in found.items()
    }
