"""Names of metrics in MLflow: sections that sort, and no chart that says nothing.

    metrics.jsonl                          MLflow
    train/loss                             train/loss
    train/loss_skypile                     train_by_source/loss_skypile
    validation/loss (with data/tokens)     validation/loss, validation/tokens
    perf/seconds_left, data/epochs_…       not there: they are read while it runs, or in tables

The part before the last slash is a section of MLflow's pages. The file has everything.
"""

from collections.abc import Iterable, Mapping

NOT_CHARTED = frozenset(
    {
        "data/batch",
        "data/samples",
        "perf/seconds_left",
        "perf/tokens_per_second_per_device",
        "train/epoch",
        "train/targets",
        "validation/targets",
        "validation/pairs",
    }
)
"""Straight lines, and numbers that mean something only while a training runs."""
NOT_CHARTED_PREFIXES = ("data/epochs_",)
BY_SOURCE = ("train", "validation")
"""Sections whose metrics by source stand in sections of their own."""
NOT_BY_SOURCE = ("validation/loss_mean_routing",)
"""Names that only look like those of a source."""
COUNTERS = ("perf/", "health/", "data/")
"""Beginnings of metrics that say something only when they are not zero."""
VALIDATION, TOKENS = "validation/loss", "data/tokens"
VALIDATION_TOKENS = "validation/tokens"
"""Tokens read before a validation: the axis of curves that have few points."""


def charted(metrics: Mapping[str, float]) -> dict[str, float]:
    """One line's metrics by the names they have in MLflow, without those that no chart needs."""
    named = {}
    for name, value in metrics.items():
        if name in NOT_CHARTED or name.startswith(NOT_CHARTED_PREFIXES):
            continue
        named[_section_name(name, metrics)] = value
    return named


def _section_name(name: str, metrics: Mapping[str, float]) -> str:
    section, _, rest = name.partition("/")
    if section not in BY_SOURCE or name in NOT_BY_SOURCE:
        return name
    # `loss_skypile` is the loss of a source where `loss` stands beside it.
    parts = rest.split("_")
    stems = ("_".join(parts[:length]) for length in range(1, len(parts)))
    if any(f"{section}/{stem}" in metrics for stem in stems):
        return f"{section}_by_source/{rest}"
    return name


def is_counter(name: str) -> bool:
    """True for a metric that is left out while it is zero."""
    return name.startswith(COUNTERS)


def benchmarks_of(metrics: Iterable[str]) -> list[str]:
    """Benchmarks that have an accuracy among the names of metrics."""
    return sorted(
        name.removeprefix("accuracy/") for name in metrics if name.startswith("accuracy/")
    )
