"""The result table: every model beside the others, with intervals and a plain word about chance.

Used by the report, by the command line's closing lines and by the Prefect page.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from tasks.core.manifest import StageResult

NOT_RUN = "not run"

Verdict = Literal["above", "at", "below"]


def read_results(evaluation: StageResult) -> dict[str, dict[str, Any]]:
    """Benchmark -> scores, as the stage `evaluate` wrote them."""
    path = evaluation.folder / "results.json"
    results: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return results


def verdict(result: Mapping[str, Any]) -> Verdict:
    """Where the 95 % interval lies: only an interval wholly on one side of chance says anything."""
    low, high = result["interval_95"]
    if low > result["chance"]:
        return "above"
    return "below" if high < result["chance"] else "at"


def percent(share: float) -> str:
    """0.4321 -> 43.2 (per cent, without the sign)."""
    return f"{100 * share:.1f}"


def cell(result: Mapping[str, Any] | None) -> str:
    """Accuracy and interval as one cell: `43.2 (38.1 to 48.4)`."""
    if result is None:
        return NOT_RUN
    low, high = result["interval_95"]
    return f"{percent(result['accuracy_micro'])} ({percent(low)} to {percent(high)})"


def benchmarks(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Name -> title of every benchmark that any model was asked, in the order they were asked."""
    titles: dict[str, str] = {}
    for of_model in results.values():
        titles |= {name: result["title"] for name, result in of_model.items() if name not in titles}
    return titles


def result_table(evaluations: Mapping[str, StageResult]) -> list[dict[str, str]]:
    """One row a model: accuracy in per cent with 95 % interval, and where it is above chance."""
    return result_rows({name: read_results(result) for name, result in evaluations.items()})


def result_rows(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[dict[str, str]]:
    """As `result_table`, from scores that were read already."""
    titles = benchmarks(results)
    rows = []
    for model, of_model in results.items():
        above = [titles[name] for name, result in of_model.items() if verdict(result) == "above"]
        cells = {f"{title} %": cell(of_model.get(name)) for name, title in titles.items()}
        rows.append({"model": model, **cells, "above chance": ", ".join(above) or "no"})
    return rows
