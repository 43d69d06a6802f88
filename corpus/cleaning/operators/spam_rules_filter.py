"""Web pages that are recognisably spam, by rules: a Data-Juicer filter of ours.

The rules are in data_recipes/quality/rules.yaml; each has a reason, which stands in the document
trace as `reason`, for example `gambling: planted brand`. They drop alone, so they are made to be
right rather than complete: the model behind quality_filter judges the rest.
"""

from typing import Any

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields

from corpus.cleaning.quality.rules import reason_to_drop

SPAM, REASON = "spam_rule", "reason"
"""Statistics: 1 where a rule holds, and its reason (a string; empty for none)."""


@OPERATORS.register_module("spam_rules_filter")
class SpamRulesFilter(Filter):
    """Find pages that a rule recognises."""

    _batched_op = True

    def __init__(self, action: str = "drop", *args: Any, **kwargs: Any) -> None:
        """
        Args:
            action: `drop`, or `flag` to note the reason and keep the page.
        """
        super().__init__(*args, **kwargs)
        if action not in ("drop", "flag"):
            raise ValueError(f"spam_rules_filter: action must be drop or flag, not {action!r}")
        self.action = action

    def compute_stats_batched(self, samples: dict[str, Any]) -> dict[str, Any]:
        """Add the statistics SPAM and REASON."""
        for text, stats in zip(samples[self.text_key], samples[Fields.stats], strict=True):
            if SPAM not in stats:
                reason = reason_to_drop(text)
                stats[SPAM] = int(bool(reason))
                # The rows of a table all have it. Another filter's stays where this has none.
                stats[REASON] = reason or stats.get(REASON, "")
        return samples

    def process_batched(self, samples: dict[str, Any]) -> list[bool]:
        """Keep what no rule recognises; everything where pages are only flagged."""
        return [self.action == "flag" or not stats[SPAM] for stats in samples[Fields.stats]]
