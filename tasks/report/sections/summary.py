"""The report's first page: the models, which one is best, by how much, and at what cost."""

from collections.abc import Mapping
from typing import Any

from tasks.core.markdown import markdown_table
from tasks.report.data import ReportData
from tasks.report.language import Writer
from tasks.report.results import benchmark_titles, compare_with_chance, parameters_of, points
from tasks.report.sections.cost import device_hours
from tasks.report.sections.data import tokens_of_all
from tasks.report.sections.provenance import seconds_of_all
from tasks.report.sections.results import accuracy, accuracy_known, difference_text
from tasks.report.trace.numbers import Known, computed, known, place_in, pointer


def summary_section(data: ReportData, say: Writer) -> str:
    """Format what was run, a row for each model, the best of each benchmark, and the cost."""
    parts = [_run(data, say)]
    titles = benchmark_titles(data.results)
    if titles:
        rows = [_model_row(data, model, titles, say) for model in data.results]
        text = (say("column.model"), say("column.above chance"))
        parts.append(markdown_table(rows, right=[c for c in rows[0] if c not in text]))
        parts.append("\n".join(_best(data, name, title, say) for name, title in titles.items()))
        parts.append(say("summary.intervals"))
    return "\n\n".join(part for part in parts if part)


def _run(data: ReportData, say: Writer) -> str:
    """Sizes of the run, in one sentence."""
    parts = []

    def add(key: str, number: Known | None, form: str = ",.0f", **fields: Any) -> None:
        if number is not None:
            shown = say.known(lambda value: format(value, form), number)
            parts.append(say(f"summary.{key}", n=shown, **fields))

    base = data.stages.get("base")
    add("parameters", parameters_of(base, data.parameters))
    if data.vocabulary is not None:
        place = place_in(
            data.stages.get("pack"), "shards/manifest.json", pointer=pointer("vocab_size")
        )
        vocabulary = Known(value=data.vocabulary, about="token ids of the tokenizer", place=place)
        add("vocabulary", vocabulary)
    packed = tokens_of_all(data)
    if packed is not None:
        sources = computed("sources that were packed", "number", *packed.parts)
        add("packed", packed, sources=say.known(str, sources))
    add("read", known(base, "tokens read in pretraining", "counts", "tokens"))
    tuned = [
        found
        for name in data.trainings
        if name != "base"
        and (found := known(data.stages.get(name), f"{name}, steps", "counts", "steps"))
    ]
    if tuned:
        add("tuned", computed("models that were fine-tuned", "number", *tuned))
    if (all_seconds := seconds_of_all(data)) is not None:
        stages = computed("stages of this report", "number", *all_seconds.parts)
        time = say.known(lambda s: duration(s, say), all_seconds)
        parts.append(say("summary.time", n=time, stages=say.known(str, stages)))
    if not parts:
        return say("summary.nothing")
    return say("summary.line", parts=("; " if say.language == "en" else "；").join(parts))


def duration(seconds: float, say: Writer) -> str:
    """Seconds in the unit that people would say."""
    for unit, size in (("days", 172_800), ("hours", 7200), ("minutes", 60)):
        if seconds >= size:
            scale = {"days": 86_400, "hours": 3600, "minutes": 60}[unit]
            return say(f"unit.{unit}", n=f"{seconds / scale:,.1f}")
    return say("unit.seconds", n=f"{seconds:.1f}")


def _model_row(
    data: ReportData, model: str, titles: Mapping[str, str], say: Writer
) -> dict[str, str]:
    results, stage = data.results[model], data.stages.get(model)
    above = [t for n, t in titles.items() if n in results and is_above(results[n])]
    tokens = known(stage, f"{model}, tokens trained on", "counts", "tokens")
    return {
        say("column.model"): model,
        **{
            f"{title} %": accuracy(results.get(name), model, name, data.stages, say)
            for name, title in titles.items()
        },
        say("column.tokens trained on"): say.known("{:,.0f}".format, tokens, "not_measured"),
        say("column.device hours"): say.known(
            "{:,.3f}".format, device_hours(data, model), "not_measured"
        ),
        say("column.above chance"): ", ".join(above) or say("results.no"),
    }


def is_above(result: Mapping[str, Any]) -> bool:
    """True if the interval lies wholly above chance."""
    return compare_with_chance(result) == "above"


def _best(data: ReportData, benchmark: str, title: str, say: Writer) -> str:
    """The model with the highest accuracy, and how far it is from the one it is compared with."""
    scores = {m: r[benchmark] for m, r in data.results.items() if benchmark in r}
    best = max(scores, key=lambda model: scores[model]["accuracy_micro"])
    if not any(is_above(result) for result in scores.values()):
        return say("summary.none_above", title=title)
    text = say(
        "summary.best",
        title=title,
        model=best,
        share=accuracy(scores[best], best, benchmark, data.stages, say),
    )
    highest = scores[best]["accuracy_micro"]
    tied = [m for m, r in scores.items() if m != best and r["accuracy_micro"] == highest]
    if tied:
        text += say("summary.tied", models=", ".join(tied))
    found = data.differences.get((best, benchmark))
    if found is not None:
        shown = difference_text(data, best, benchmark, say)
        text += say("summary.ahead", other=found.other, difference=shown)
        text += say("summary.is_found" if found.is_found else "summary.is_chance")
    elif best == data.first_mixture and (others := _nearest(data, benchmark, best)):
        shown = difference_text(data, others, benchmark, say)
        text += say("summary.behind", other=others, difference=shown)
        of_other = data.differences[others, benchmark]
        text += say("summary.is_found" if of_other.is_found else "summary.is_chance")
    if "base" in scores and best != "base":
        gain = computed(
            f"{title}, accuracy of {best} less that of base",
            "difference",
            accuracy_known(scores[best], best, benchmark, data.stages),
            accuracy_known(scores["base"], "base", benchmark, data.stages),
        )
        text += say("summary.over_base", gain=say.known(points, gain))
    return text


def _nearest(data: ReportData, benchmark: str, best: str) -> str | None:
    """The model compared with `best` that comes nearest to it."""
    others = {
        model: one.value
        for (model, name), one in data.differences.items()
        if name == benchmark and one.other == best
    }
    return max(others, key=lambda model: others[model]) if others else None
