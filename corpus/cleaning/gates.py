"""Attrition gates: the largest shares of documents and of bytes that a source may lose.

    max_drop:                                # documents
      "*":     {total: 0.95}                 # no source may lose more than 95 %
      skypile: {symbol_ratio_filter: 0.2}    # this filter drops at most a fifth of SkyPile
    max_drop_bytes:                          # bytes, of dropped and within changed documents
      "*":     {total: 0.4}
      skypile: {html_to_text_mapper: 0.1}    # this mapper takes out at most a tenth of SkyPile

They are compared with the ledger after the stage is complete, in every flow: a gate that is moved
costs no second cleaning, and a tightened one also counts for a corpus that was cleaned before.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

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

Unit = Literal["documents", "bytes"]
KEYS: dict[Unit, str] = {"documents": "max_drop", "bytes": "max_drop_bytes"}
"""Key of the configuration for the gates on shares of documents, and of bytes."""

MaxDrop = Mapping[str, Mapping[str, Annotated[float, Ge(0), Le(1)]]]


@dataclass(frozen=True, kw_only=True)
class ExceededGate:
    """A gate, and the share that was dropped instead."""

    source: str
    operator: str
    share: float
    allowed: float
    gate: str
    unit: Unit

    def row(self) -> dict[str, Any]:
        """As a row of a table."""
        return {
            "source": self.source,
            "operator": self.operator,
            "of its": self.unit,
            "dropped %": _percent(self.share),
            "allowed %": _percent(self.allowed),
            "gate": self.gate,
        }


def problems(
    max_drop: MaxDrop, recipes: Iterable[Recipe], unit: Unit = "documents"
) -> Iterator[SteelError]:
    """Yield an error for each gate with an unknown name: it could never close."""
    operators = {op.name for recipe in recipes for op in recipe.operators}
    known = {*operators, "contamination_filter", TOTAL, ANY}
    for source, gates in max_drop.items():
        if source != ANY:
            yield from errors_of(corpus, source)  # names the known ones where there is none
        for operator in sorted(gates.keys() - known):
            yield ConfigError(
                f"{KEYS[unit]}.{source}.{operator}: no family's recipe has this operator. Known: "
                f"{', '.join(sorted(known))}"
            )


def exceeded(
    rows: Sequence[Mapping[str, Any]], max_drop: MaxDrop, unit: Unit = "documents"
) -> list[ExceededGate]:
    """Return the gates that a ledger exceeds.

    Args:
        max_drop: gates on shares of `unit`. Bytes are those of dropped documents and those that
            mappers took out of others; where a text grows, they count against these.
    """
    came_in: dict[str, int] = {}
    for row in rows:
        came_in.setdefault(row["source"], row[f"{unit}_in"])
    last = {row["source"]: row for row in rows}
    drops = [
        (row["source"], row["operator"], row[f"{unit}_in"] - row[f"{unit}_kept"], row[f"{unit}_in"])
        for row in rows
    ]
    drops += [
        (source, TOTAL, number - last[source][f"{unit}_kept"], number)
        for source, number in came_in.items()
    ]
    found = []
    for source, operator, dropped, number in drops:
        gate = _gate(max_drop, source, operator)
        if gate and number and (share := dropped / number) > gate[0]:
            found.append(
                ExceededGate(
                    source=source,
                    operator=operator,
                    share=share,
                    allowed=gate[0],
                    gate=f"clean.{KEYS[unit]}.{gate[1]}",
                    unit=unit,
                )
            )
    return found


def _gate(max_drop: MaxDrop, source: str, operator: str) -> tuple[float, str] | None:
    """The narrowest gate for an operator and a source, and its place."""
    # `*` stands for any operator; the total is none.
    names = (operator,) if operator == TOTAL else (operator, ANY)
    for at in (source, ANY):
        for name in names:
            if name in max_drop.get(at, {}):
                return max_drop[at][name], f"{at}.{name}"
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
    for source, unit in dict.fromkeys((gate.source, gate.unit) for gate in gates):
        lines += _losses(source, rows, unit)
    families = {row["source"]: row["family"] for row in rows}
    used = sorted({display(recipe_file(recipes[families[g.source]])) for g in gates})
    return (
        "Cleaning dropped more than its gates allow:\n"
        + "\n".join(lines)
        + f"\nThe cleaned corpus and its ledger are in {display(folder)}: look at attrition.png "
        f"and review.html there. Then change {' or '.join(used)}, or move the gate; "
        "moving it does not clean again."
    )


def _sentence(gate: ExceededGate) -> str:
    return (
        f"  {gate.source}: {gate.operator} dropped {_percent(gate.share)} % of its "
        f"{gate.unit}; {gate.gate} allows {_percent(gate.allowed)} %"
    )


def _losses(source: str, rows: Iterable[Mapping[str, Any]], unit: Unit) -> list[str]:
    """The operators that took most out of a source, as lines."""
    mine = [row for row in rows if row["source"] == source]
    lost = {row["position"]: row[f"{unit}_in"] - row[f"{unit}_kept"] for row in mine}
    worst = sorted(mine, key=lambda row: -lost[row["position"]])[:LISTED_OPERATORS]
    lines = [f"  {source}, {mine[0][f'{unit}_in']} {unit}:"]
    lines += [
        f"    {lost[row['position']]:>9} of {row[f'{unit}_in']:>9}  {row['operator']}"
        for row in worst
        if lost[row["position"]] > 0
    ]
    return lines


def _percent(share: float) -> float:
    return round(100 * share, 1)
