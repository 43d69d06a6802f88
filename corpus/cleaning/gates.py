"""Attrition gates: how large a share of its documents a source may lose, and to which operator.

    max_drop:
      "*":     {total: 0.95}                 # no source may lose more than 95 %
      skypile: {alphanumeric_filter: 0.2}    # this filter drops at most a fifth of SkyPile

Looked at after the stage is complete, every time a flow comes by: a gate that is moved costs no
second cleaning, and one that is tightened counts for a corpus that was cleaned long ago.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prefect.artifacts import create_table_artifact

from common.errors import ConfigError, DataError
from common.paths import display
from common.recipes import recipe_path
from corpus.cleaning.recipe import Recipe
from corpus.recipes import corpus
from tasks.core.artifacts import run_logger, show
from tasks.core.manifest import StageResult

TOTAL = "total"
ANY = "*"
SHOWN = 6
"""Operators listed for a source that is refused."""

MaxDrop = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Breach:
    """A gate that was passed."""

    source: str
    operator: str
    share: float
    allowed: float
    gate: str

    def row(self) -> dict[str, Any]:
        """For a table."""
        return {
            "source": self.source,
            "operator": self.operator,
            "dropped %": _percent(self.share),
            "allowed %": _percent(self.allowed),
            "gate": self.gate,
        }


def check(max_drop: MaxDrop, recipes: Iterable[Recipe]) -> None:
    """Raise ConfigError for a gate that could never close: unknown names, shares out of range."""
    operators = {op.name for recipe in recipes for op in recipe.operators}
    known = {*operators, "contamination_filter", TOTAL, ANY}
    for source, gates in max_drop.items():
        if source != ANY:
            corpus(source)  # names the known ones where there is none
        for operator, share in gates.items():
            where = f"clean.max_drop.{source}.{operator}"
            if operator not in known:
                raise ConfigError(
                    f"{where}: neither recipe has this operator. Known: {', '.join(sorted(known))}"
                )
            if not 0 <= share <= 1:
                raise ConfigError(f"{where} must be a share from 0 to 1 (got {share})")


def breaches(rows: Iterable[Mapping[str, Any]], max_drop: MaxDrop) -> list[Breach]:
    """The gates that a ledger passes."""
    found: list[Breach] = []
    come: dict[str, int] = {}
    left: dict[str, int] = {}
    for row in rows:
        source = row["source"]
        come.setdefault(source, row["documents_in"])
        left[source] = row["documents_kept"]
        found += _breach(
            max_drop, source, row["operator"], row["documents_dropped"], row["documents_in"]
        )
    for source, kept in left.items():
        found += _breach(max_drop, source, TOTAL, come[source] - kept, come[source])
    return found


def _breach(max_drop: MaxDrop, source: str, operator: str, dropped: int, of: int) -> list[Breach]:
    gate = _gate(max_drop, source, operator)
    if gate is None or not of:
        return []
    allowed, name = gate
    share = dropped / of
    if share <= allowed:
        return []
    return [Breach(source=source, operator=operator, share=share, allowed=allowed, gate=name)]


def _gate(max_drop: MaxDrop, source: str, operator: str) -> tuple[float, str] | None:
    """The narrowest gate for an operator and a source."""
    # `*` stands for operators; what a whole recipe drops is no operator.
    names = (operator,) if operator == TOTAL else (operator, ANY)
    for at in (source, ANY):
        for name in names:
            if name in max_drop.get(at, {}):
                return max_drop[at][name], f"clean.max_drop.{at}.{name}"
    return None


def enforce(cleaned: StageResult, max_drop: MaxDrop, recipes: Mapping[str, str]) -> None:
    """Raise DataError, with the table that shows why, where a gate is passed.

    Args:
        recipes: kind of source -> name of its cleaning recipe.
    """
    rows = json.loads((cleaned.folder / "ledger.json").read_text("utf-8"))["rows"]
    found = breaches(rows, max_drop)
    if not found:
        return
    kinds = {row["source"]: row["kind"] for row in rows}
    table = [breach.row() for breach in found]
    show(
        run_logger(),
        create_table_artifact,
        key="attrition-gates",
        table=table,
        description="Gates that cleaning did not pass",
    )
    lines = [_sentence(breach) for breach in found]
    for source in dict.fromkeys(breach.source for breach in found):
        lines += _losses(source, rows)
    used = sorted({display(recipe_path("clean", recipes[kinds[b.source]])) for b in found})
    raise DataError(
        "Cleaning dropped more than its gates allow:\n"
        + "\n".join(lines)
        + f"\nThe cleaned corpus and its ledger are in {display(cleaned.folder)}: look at "
        f"attrition.png and dropped-examples.jsonl there. Then mend {' or '.join(used)}, or move "
        "the gate; moving it does not clean anew."
    )


def _sentence(breach: Breach) -> str:
    return (
        f"  {breach.source}: {breach.operator} dropped {_percent(breach.share)} % of its "
        f"documents; {breach.gate} allows {_percent(breach.allowed)} %"
    )


def _losses(source: str, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A small table of where a source lost most."""
    mine = [row for row in rows if row["source"] == source]
    worst = sorted(mine, key=lambda row: -row["documents_dropped"])[:SHOWN]
    lines = [f"  {source}, {mine[0]['documents_in']} documents:"]
    lines += [
        f"    {row['documents_dropped']:>9} of {row['documents_in']:>9}  {row['operator']}"
        for row in worst
        if row["documents_dropped"]
    ]
    return lines


def _percent(share: float) -> float:
    return round(100 * share, 1)
