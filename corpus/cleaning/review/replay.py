"""Verdicts as tests: today's operators over the documents that were judged.

    changed   the operator, with today's parameters, on the text that it got then
    dropped   the same
    kept      all operators of the family's recipe on the text that was kept

An operator that the recipe no longer has leaves every document alone. What looks at other documents
(deduplicators), or needs a model or the benchmarks, is not replayed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from corpus.cleaning.quality.labels import sha256_of
from corpus.cleaning.recipe import Operator, Recipe
from corpus.cleaning.review.sample import Sample
from corpus.cleaning.review.verdicts import BAD, UNSURE

Outcome = Literal["as judged", "mended", "still bad", "worse", "different", "not replayed"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
FAILURES: tuple[Outcome, ...] = ("still bad", "worse")
"""Outcomes that fail the check."""

NEEDS_MORE = ("perplexity_filter", "contamination_filter")
"""Operators with a model or an index of their own."""


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """A verdict and its document's fate today."""

    row: Mapping[str, Any]
    """The verdict."""
    outcome: Outcome
    why: str
    """Reason, in words."""

    def as_json(self) -> dict[str, Any]:
        """As JSON values, without texts."""
        shown = ("kind", "operator", "family", "id", "verdict", "note")
        return {name: self.row.get(name, "") for name in shown} | {
            "outcome": self.outcome,
            "why": self.why,
        }


def replay(
    verdicts: Iterable[Mapping[str, Any]],
    recipes: Mapping[str, Recipe],
    documents: Mapping[str, Mapping[str, Any]],
) -> Iterator[Replayed]:
    """Run today's operators over judged documents.

    Args:
        recipes: family -> today's recipe.
        documents: sha256 -> document of a sample, for verdicts without a text.
    """
    from corpus.cleaning.offline import refuse_installs

    refuse_installs()
    for one in recipes.values():
        one.import_custom_operators()
    built: dict[str, Any] = {}
    for row in verdicts:
        if row["verdict"] == UNSURE:
            continue
        known = documents.get(row["sha256"], {})
        text = row.get("text", known.get("before"))
        recipe = recipes.get(row["family"])
        if recipe is None:
            yield Replayed(row=row, outcome="not replayed", why="no recipe for its family")
        elif row.get("cut"):
            yield Replayed(row=row, outcome="not replayed", why="its text is not stored whole")
        elif text is None or sha256_of(text) != row["sha256"]:
            yield Replayed(row=row, outcome="not replayed", why="its text is in no sample")
        else:
            operators, why = _operators(row, recipe)
            if why:
                yield Replayed(row=row, outcome="not replayed", why=why)
                continue
            meta = row.get("meta") or known.get("meta") or {}
            dropped_by, after = _run(operators, built, text, meta, row["id"])
            yield _judged(row, text, dropped_by, after)


def _operators(row: Mapping[str, Any], recipe: Recipe) -> tuple[list[Operator], str]:
    """Operators to run, and why none can be."""
    if row["kind"] == "kept":
        return [op for op in recipe.by_document if not _needs_more(op)], ""
    if row["operator"].endswith("_deduplicator"):
        return [], "it depends on other documents"
    found = [op for op in recipe.operators if op.name == row["operator"]]
    if row["operator"] in NEEDS_MORE or any(map(_needs_more, found)):
        return [], "the operator needs a model or the benchmarks"
    return found, ""


def _needs_more(operator: Operator) -> bool:
    return operator.name in NEEDS_MORE or operator.tokenizes


def _run(
    operators: list[Operator], built: dict[str, Any], text: str, meta: Any, document: str
) -> tuple[str, str]:
    """Name of the operator that drops a text, or nothing, and the text behind the last one."""
    from corpus.cleaning.engine import pipeline

    for operator in operators:
        if operator.key not in built:
            (built[operator.key],) = pipeline.build([operator])
    item = pipeline.TracedDocument.of({"id": document, "source": "", "text": text, "meta": meta})
    pipeline.run_operators([built[op.key] for op in operators], [item], Sample(most=0))
    return (operators[item.dropped_by - 1].name if item.dropped_by else ""), item.text


def _judged(row: Mapping[str, Any], before: str, dropped_by: str, after: str) -> Replayed:
    bad = row["verdict"] == BAD[row["kind"]]
    if row["kind"] != "changed":
        same = bool(dropped_by) == (row["kind"] == "dropped")
        why = f"dropped by {dropped_by}" if dropped_by else "kept"
    elif dropped_by:
        return Replayed(row=row, outcome="worse", why="the operator drops it, or fails on it")
    else:
        same = sha256_of(after) == row.get("sha256_after")
        why = (
            "changed as it was"
            if same
            else "left alone"
            if after == before
            else "changed otherwise"
        )
        if why == "changed otherwise":
            return Replayed(row=row, outcome="different", why="changed otherwise: look at it again")
    outcome: Outcome = (
        ("still bad" if same else "mended") if bad else ("as judged" if same else "worse")
    )
    return Replayed(row=row, outcome=outcome, why=why)
