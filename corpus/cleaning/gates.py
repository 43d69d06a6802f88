"""Attrition gates: the largest share of its documents that a source may lose, by operator.

    max_drop:
      "*":     {total: 0.95}                 # no source may lose more than 95 %
      skypile: {symbol_ratio_filter: 0.2}    # this filter drops at most a fifth of SkyPile

They are compared with the ledger after the stage is complete, in every flow: a gate that is moved
costs no second cleaning, and a tightened one also counts for a corpus that was cleaned before.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from common.config import errors_of
from common.errors import ConfigError, SteelError
from common.paths import display
from common.ranges import Ge, Le
from corpus.cleaning.recipe import Recipe
from corpus.cleaning.recipe_sets import recipe_file
from corpus.recipes import corpus

TOTAL = "total"
ANY = "*"
LISTED_OPERATORS = 6
"""Operators listed for a source that lost too much."""

MaxDrop = Mapping[str, Mapping[str, Annotated[float, Ge(0), Le(1)]]]


@dataclass(frozen=True, kw_only=True)
class ExceededGate:
    """A gate, and the share that was dropped instead."""

    source: str
    operator: str
    share: float
    allowed: float
    gate: str

    def row(self) -> dict[str, Any]:
        """As a row of a table."""
        return {
            "source": self.source,
            "operator": self.operator,
            "dropped %": _percent(self.share),
            "allowed %": _percent(self.allowed),
            "gate": self.gate,
        }


def problems(max_drop: MaxDrop, recipes: Iterable[Recipe]) -> Iterator[SteelError]:
    """Yield an error for each gate with an unknown name: it could never close."""
    operators = {op.name for recipe in recipes for op in recipe.operators}
    known = {*operators, "contamination_filter", TOTAL, ANY}
    for source, gates in max_drop.items():
        if source != ANY:
            yield from errors_of(corpus, source)  # names the known ones where there is none
        for operator in sorted(gates.keys() - known):
            yield ConfigError(
                f"max_drop.{source}.{operator}: no family's recipe has this operator. Known: "
                f"{', '.join(sorted(known))}"
            )


def exceeded(rows: Sequence[Mapping[str, Any]], max_drop: MaxDrop) -> list[ExceededGate]:
    """Return the gates that a ledger exceeds."""
    documents_in: dict[str, int] = {}
    for row in rows:
        documents_in.setdefault(row["source"], row["documents_in"])
    last = {row["source"]: row for row in rows}
    drops = [
        (row["source"], row["operator"], row["documents_dropped"], row["documents_in"])
        for row in rows
    ]
    drops += [
        (source, TOTAL, documents - last[source]["documents_kept"], documents)
        for source, documents in documents_in.items()
    ]
    found = []
    for source, operator, dropped, documents in drops:
        gate = _gate(max_drop, source, operator)
        if gate and documents and (share := dropped / documents) > gate[0]:
            found.append(
                ExceededGate(
                    source=source, operator=operator, share=share, allowed=gate[0], gate=gate[1]
                )
            )
    return found


def _gate(max_drop: MaxDrop, source: str, operator: str) -> tuple[float, str] | None:
    """The narrowest gate for an operator and a source."""
    # `*` stands for any operator; the total is none.
    names = (operator,) if operator == TOTAL else (operator, ANY)
    for at in (source, ANY):
        for name in names:
            if name in max_drop.get(at, {}):
                return max_drop[at][name], f"clean.max_drop.{at}.{name}"
    return None


def describe(
    gates: Sequence[ExceededGate],
    rows: Sequence[Mapping[str, Any]],
    recipes: Mapping[str, str],
    folder: Path,
) -> str:
    """Message on exceeded gates: the shares, where the documents went, and what to change.

    Args:
        rows: the ledger.
        recipes: family -> name of its cleaning recipe.
        folder: the cleaned corpus.
    """
    lines = [_sentence(gate) for gate in gates]
    for source in dict.fromkeys(gate.source for gate in gates):
        lines += _losses(source, rows)
    families = {row["source"]: row["family"] for row in rows}
    used = sorted({display(recipe_file(recipes[families[g.source]])) for g in gates})
    return (
        "Cleaning dropped more than its gates allow:\n"
        + "\n".join(lines)
        + f"\nThe cleaned corpus and its ledger are in {display(folder)}: look at attrition.png "
        f"and dropped-examples.jsonl there. Then change {' or '.join(used)}, or move the gate; "
        "moving it does not clean again."
    )


def _sentence(gate: ExceededGate) -> str:
    return (
        f"  {gate.source}: {gate.operator} dropped {_percent(gate.share)} % of its "
        f"documents; {gate.gate} allows {_percent(gate.allowed)} %"
    )


def _losses(source: str, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The operators that dropped most of a source, as lines."""
    mine = [row for row in rows if row["source"] == source]
    worst = sorted(mine, key=lambda row: -row["documents_dropped"])[:LISTED_OPERATORS]
    lines = [f"  {source}, {mine[0]['documents_in']} documents:"]
    lines += [
        f"    {row['documents_dropped']:>9} of {row['documents_in']:>9}  {row['operator']}"
        for row in worst
        if row["documents_dropped"]
    ]
    return lines


def _percent(share: float) -> float:
    return round(100 * share, 1)
