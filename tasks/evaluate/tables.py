"""Tables and counts of an evaluation."""

from collections.abc import Iterator, Mapping
from typing import Any

from corpus.bad_rows import listed_rows
from tasks.core.stage import StageRun


def report_accuracies(run: StageRun, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Tables, counts and warnings of `results.json`."""
    rows = [
        {
            "benchmark": result["title"],
            "accuracy %": round(100 * result["accuracy_micro"], 2),
            "95 % from": round(100 * result["interval_95"][0], 2),
            "95 % to": round(100 * result["interval_95"][1], 2),
            "macro %": round(100 * result["accuracy_macro"], 2),
            "questions": result["num_questions"],
            "bad rows left out": result["num_bad_rows"],
            "subjects": f"{result['num_subjects']} of {result['num_subjects_known']}",
            "limit a subject": result["limit"] or "none",
            "cut prompts": result["num_truncated"],
            "ties": result["num_tied"],
        }
        for result in results.values()
    ]
    run.table(f"{run.stage} accuracy", rows, "Chance is 25 %. Of equal letters the first counts.")
    run.table(f"{run.stage} accuracy by subject", list(_parts(results)), "With 95 % intervals.")
    run.note(
        accuracy={
            name: {
                key: result[key]
                for key in ("accuracy_micro", "interval_95", "subjects", "categories")
            }
            for name, result in results.items()
        }
    )
    if in_words := list(_in_words(results)):
        run.table(
            f"{run.stage} answers in words",
            in_words,
            "Greedy. An answer that names no option, or several, is unparsed and counts as wrong.",
        )
        run.count(**_counts_in_words(results))
    run.count(
        **{f"accuracy/{name}": result["accuracy_micro"] for name, result in results.items()},
        questions=sum(result["num_questions"] for result in results.values()),
        bad_rows=sum(result["num_bad_rows"] for result in results.values()),
        subjects_left_out=sum(len(result["left_out_subjects"]) for result in results.values()),
        truncated_prompts=sum(result["num_truncated"] for result in results.values()),
        ties=sum(result["num_tied"] for result in results.values()),
    )
    for name, result in results.items():
        if result["bad_rows"]:
            run.log.warning(
                "%s: %d questions of %d are scored; left out: %s",
                name,
                result["num_questions"],
                result["num_questions"] + result["num_bad_rows"],
                listed_rows(result["bad_rows"]),
            )
        for reason in result["left_out_subjects"].values():
            run.log.warning("%s: a subject is left out: %s", name, reason)
        if result["num_truncated"]:
            run.log.warning(
                "%s: %d of %d prompts are longer than the model's context and lost their beginning;"
                " fewer worked examples (num_fewshot) would fit",
                name,
                result["num_truncated"],
                result["num_questions"],
            )


def _parts(results: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of a table: each category of each benchmark, then each subject."""
    for result in results.values():
        for kind in ("categories", "subjects"):
            for name, part in result[kind].items():
                yield {
                    "benchmark": result["title"],
                    "part": name,
                    "kind": "category" if kind == "categories" else "subject",
                    "accuracy %": round(100 * part["accuracy"], 2),
                    "95 % from": round(100 * part["interval_95"][0], 2),
                    "95 % to": round(100 * part["interval_95"][1], 2),
                    "questions": part["num_questions"],
                }


def _in_words(results: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of a table: each benchmark in each mode, beside its accuracy by likelihood."""
    for result in results.values():
        forms = dict(result["modes"])
        if "unparsed_share" in result:  # a benchmark that is answered in words only
            forms["written"] = {"max_new_tokens": "", "num_fewshot": "", **result}
        for mode, figures in forms.items():
            likelihood = "" if mode == "written" else round(100 * result["accuracy_micro"], 2)
            yield {
                "benchmark": result["title"],
                "form": mode.replace("_", " "),
                "accuracy %": round(100 * figures["accuracy_micro"], 2),
                "95 % from": round(100 * figures["interval_95"][0], 2),
                "95 % to": round(100 * figures["interval_95"][1], 2),
                "by likelihood %": likelihood,
                "unparsed %": round(100 * figures["unparsed_share"], 2),
                "tokens an answer": round(figures["mean_tokens"], 1),
                "at the limit %": round(100 * figures["cut_share"], 2),
                "limit of tokens": figures["max_new_tokens"],
                "worked examples": figures["num_fewshot"],
                "cut prompts": figures["num_truncated"],
                "questions": figures["num_questions"],
            }


def _counts_in_words(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Figures for the manifest and MLflow: <figure>/<benchmark>/<mode>."""
    return {
        f"{figure}/{name}/{mode}": figures[key]
        for name, result in results.items()
        for mode, figures in result.get("modes", {}).items()
        for figure, key in (("accuracy", "accuracy_micro"), ("unparsed", "unparsed_share"))
    }
