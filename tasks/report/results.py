"""Accuracies of every model on every benchmark, and their rows for a table.

Only a 95 % interval wholly on one side of chance is a result. The table is also
used by the command line and the Prefect page.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from common.reading.files import read_json_object
from model.train.run.folder import MODEL_FOLDER
from tasks.core.manifest import StageResult
from tasks.core.markdown import NOT_RUN
from tasks.report.trace.numbers import Known, place_in

SAMPLE_DATA = "sample-data"
"""Origin of generated questions."""

Results: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Model -> benchmark -> scores."""

ChanceComparison = Literal["above", "at", "below"]


def parameters_of(model: StageResult | None, parameters: int | None) -> Known | None:
    """Parameters of a model as a number with its place; None where they are not known."""
    if model is None or parameters is None:
        return None
    weights = sorted(model.model_folder.glob("*.safetensors"))
    how = "parameters in the headers of the files of weights"
    place = place_in(model, f"{MODEL_FOLDER}/{weights[0].name}", how=how) if weights else None
    return Known(value=parameters, about="parameters of the model", place=place)


def read_results(evaluation: StageResult) -> dict[str, dict[str, Any]]:
    """Benchmark -> scores, as the stage `evaluate` wrote them."""
    path = evaluation.folder / "results.json"
    return read_json_object(path)


def compare_with_chance(result: Mapping[str, Any]) -> ChanceComparison:
    """Compare the 95 % interval of an accuracy with chance; `at`: the interval holds it."""
    low, high = result["interval_95"]
    if low > result["chance"]:
        return "above"
    return "below" if high < result["chance"] else "at"


def is_written(result: Mapping[str, Any]) -> bool:
    """True for a benchmark that is answered in words only, by lm-eval's own task."""
    return "num_fewshot" not in result


def percent(share: float) -> str:
    """Format a share in per cent, without the sign: 0.4321 -> 43.2."""
    return f"{100 * share:z.1f}"


def part_text(share: float) -> str:
    """Format a part of a whole in per cent: 0.0 is nothing and 100.0 is all of it."""
    if 0 < share < 0.0005:
        return "< 0.1"
    return "> 99.9" if 0.9995 <= share < 1 else percent(share)


def points(share: float) -> str:
    """Format a difference of two shares in points, with its sign: 0.0512 -> +5.1."""
    return f"{100 * share:+z.1f}"


def p_text(p: float) -> str:
    """Format a p-value with two digits: 0.031, 1.0, or < 0.0001."""
    return "< 0.0001" if p < 0.0001 else f"{p:#.2g}"


def loss_text(nats: float) -> str:
    """Format a loss, alike in tables and pictures: 2.3456 -> 2.346."""
    return f"{nats:.3f}"


def accuracy_cell(result: Mapping[str, Any] | None) -> str:
    """Format accuracy and interval: `43.2 (38.1 to 48.4)`."""
    if result is None:
        return NOT_RUN
    low, high = result["interval_95"]
    return f"{percent(result['accuracy_micro'])} ({percent(low)} to {percent(high)})"


def benchmark_titles(results: Results) -> dict[str, str]:
    """Name -> title of every benchmark that any model was scored on, in order."""
    titles: dict[str, str] = {}
    for of_model in results.values():
        titles |= {name: result["title"] for name, result in of_model.items() if name not in titles}
    return titles


def result_table(evaluations: Mapping[str, StageResult]) -> list[dict[str, str]]:
    """Rows of models: accuracies in per cent with 95 % interval, and benchmarks above chance."""
    return result_rows({name: read_results(result) for name, result in evaluations.items()})


def result_rows(results: Results) -> list[dict[str, str]]:
    """Rows of `result_table`, from scores that were read already."""
    titles = benchmark_titles(results)
    rows = []
    for model, of_model in results.items():
        above = [
            titles[name]
            for name, result in of_model.items()
            if compare_with_chance(result) == "above"
        ]
        cells = {f"{title} %": accuracy_cell(of_model.get(name)) for name, title in titles.items()}
        rows.append({"model": model, **cells, "above chance": ", ".join(above) or "no"})
    return rows
