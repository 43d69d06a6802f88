"""The report as Markdown: what the run shows, honestly, with the paper's figures beside ours."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.core.paper import Paper
from tasks.core.table2 import paper_row, shown
from tasks.report.cleaning import Cleaning
from tasks.report.data import FULL_SCALE, Facts, Source, Training
from tasks.report.table import NOT_RUN, benchmarks, cell, percent, result_rows, verdict
from tasks.report.timeline import Course

NOT_AT_SCALE = "not run at this scale"
SAMPLE_DATA = "sample-data"
MOST_PAIRS = 12
"""Rows of the table of near-duplicates between sources."""


def markdown(facts: Facts, paper: Paper, pictures: Sequence[str]) -> str:
    """The whole report; `pictures` says which of figures/*.png exist."""

    def picture(name: str, alt: str) -> str:
        return f"![{alt}](figures/{name}.png)" if name in pictures else f"*{alt}: {NOT_RUN}.*"

    sections = [
        f"# Steel: {facts.name}",
        _opening(facts),
        "## Results",
        _results(facts, picture),
        "## Data",
        _data(facts, picture),
        "## Training",
        _training(facts, picture),
        "## Beside the paper",
        _paper(facts, paper),
        "## Where it all came from",
        _provenance(facts),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def table(rows: Sequence[Mapping[str, Any]], *, right: Sequence[str] = ()) -> str:
    """Rows as a Markdown table; the columns of the first row, those in `right` aligned right."""
    if not rows:
        return f"*{NOT_RUN}.*"
    columns = list(rows[0])
    lines = [
        _line(columns),
        _line(["---:" if column in right else "---" for column in columns]),
        *(_line([str(row.get(column, "")) for column in columns]) for row in rows),
    ]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"


def _opening(facts: Facts) -> str:
    tokens = sum(source.tokens or 0 for source in facts.sources)
    base = facts.trainings.get("base")
    told = []
    if facts.parameters is not None:
        told.append(f"a base model of **{facts.parameters:,} parameters**")
    if facts.vocabulary is not None:
        told.append(f"a vocabulary of {facts.vocabulary:,}")
    if tokens:
        told.append(f"a packed corpus of **{tokens:,} tokens** from {len(facts.sources)} sources")
    if base and "tokens" in base.counts:
        told.append(f"{base.counts['tokens']:,.0f} tokens read in pretraining")
    seconds = sum(row.seconds for row in facts.provenance)
    if facts.provenance:
        told.append(f"{seconds / 60:.1f} minutes of work in {len(facts.provenance)} stages")
    return f"This run: {'; '.join(told)}." if told else "*Nothing was run.*"


def _results(facts: Facts, picture: Callable[[str, str], str]) -> str:
    titles = benchmarks(facts.results)
    if not titles:
        return f"*Evaluation: {NOT_RUN}.*"
    parts = [
        _verdict(facts, titles),
        picture("accuracy", "Accuracy of every model on every benchmark"),
        table(result_rows(facts.results), right=[f"{title} %" for title in titles.values()]),
        "Accuracy over all questions (micro), with Wilson's 95 % interval. A guess is right in "
        "25 % of cases.",
        table(_macro_rows(facts, titles), right=[f"{title} %" for title in titles.values()]),
        "Mean of the subjects' accuracies (macro), as C-Eval's and CMMLU's own tables have it.",
        "\n".join(f"- {line}" for line in _how_asked(facts, titles)),
    ]
    return "\n\n".join(parts)


def _macro_rows(facts: Facts, titles: Mapping[str, str]) -> list[dict[str, str]]:
    def macro(result: Mapping[str, Any] | None) -> str:
        return percent(result["accuracy_macro"]) if result else NOT_RUN

    return [
        {"model": model, **{f"{t} %": macro(of_model.get(n)) for n, t in titles.items()}}
        for model, of_model in facts.results.items()
    ]


def _verdict(facts: Facts, titles: Mapping[str, str]) -> str:
    """In plain words, which accuracies say anything."""
    said: dict[str, list[str]] = {"above": [], "below": []}
    for model, of_model in facts.results.items():
        for side, end, word in (("above", 0, "at least"), ("below", 1, "at most")):
            shown = [
                f"{titles[name]} {percent(result['accuracy_micro'])} %, "
                f"{word} {percent(result['interval_95'][end])} %"
                for name, result in of_model.items()
                if verdict(result) == side
            ]
            if shown:
                said[side].append(f"- {model}: {'; '.join(shown)}")
    scores = [result for of_model in facts.results.values() for result in of_model.values()]
    at = sum(verdict(result) == "at" for result in scores)
    parts = []
    if said["above"]:
        parts.append("**Above chance** (the lower end of the 95 % interval is above 25 %):")
        parts.append("\n".join(said["above"]))
        if at:
            parts.append(
                f"**At chance** (the interval holds 25 %): {at} of {len(scores)} scores. "
                "Differences between those say nothing."
            )
    else:
        parts.append(
            "**No model is above chance on any benchmark**: no interval lies wholly above 25 %. "
            "Differences between these models say nothing."
        )
    if said["below"]:
        parts.append("**Below chance** (the upper end of the interval is below 25 %):")
        parts.append("\n".join(said["below"]))
    parts.append(
        f"Of {len(scores)} such intervals {0.025 * len(scores):.1f} on average would lie above "
        "chance by luck alone, and as many below."
    )
    return "\n\n".join(parts)


def _how_asked(facts: Facts, titles: Mapping[str, str]) -> list[str]:
    lines, invented = [], []
    for name, title in titles.items():
        results = {m: r[name] for m, r in facts.results.items() if name in r}
        one = next(iter(results.values()))
        told = [
            f"{one['num_questions']:,} questions of the {one['split']} split",
            f"{one['num_subjects']} of {one['num_subjects_known']} subjects",
        ]
        if one["limit"]:
            told.append(f"at most {one['limit']} a subject")
        told.append(f"{one['num_fewshot'] or 'no'} worked examples")
        cut = {m: r["num_truncated"] for m, r in results.items() if r["num_truncated"]}
        if cut:
            listed = ", ".join(f"{model} {number}" for model, number in cut.items())
            told.append(f"prompts that did not fit and lost their beginning: {listed}")
        lines.append(f"**{title}**: {'; '.join(told)}.")
        if one.get("origin") == SAMPLE_DATA:
            invented.append(title)
    chatting = [
        m for m, of_model in facts.results.items() if any(r["chat"] for r in of_model.values())
    ]
    lines.append(f"Asked through the chat template: {', '.join(chatting) or 'no model'}.")
    if invented:
        lines.append(
            f"The questions of {', '.join(invented)} come from the generated sample data, in those "
            "benchmarks' formats: these accuracies are not comparable with the benchmarks' own."
        )
    return lines


def _data(facts: Facts, picture: Callable[[str, str], str]) -> str:
    total = sum(source.tokens or 0 for source in facts.sources)
    parts = [
        picture("data", "Data distribution by source (the paper's figure 2)"),
        table(
            [_source_row(source, total) for source in facts.sources],
            right=["documents", "set aside", "kept", "kept %", "tokens", "tokens %"],
        ),
        "*documents*: after normalisation; *set aside*: records that could not be read, in the "
        "quarantine of the stage `normalize`; *kept*: after cleaning."
        if facts.sources
        else "",
        picture("attrition", "What cleaning kept and dropped"),
        picture("perplexity", "Perplexity by source"),
    ]
    rows = [
        {
            "recipe": operator.kind,
            "#": operator.position,
            "operator": f"`{operator.name}`",
            "reached it": f"{operator.documents_in:,}",
            "changed": f"{operator.changed:,}",
            "dropped": f"{operator.dropped:,}",
            "dropped %": percent(operator.dropped / max(1, operator.documents_in)),
        }
        for operator in facts.operators
    ]
    if rows:
        columns = ["#", "reached it", "changed", "dropped", "dropped %"]
        parts.append("### Every cleaning operator\n\n" + table(rows, right=columns))
    if facts.cleaning is not None:
        parts += [_duplicates(facts.cleaning), _contamination(facts.cleaning)]
    return "\n\n".join(part for part in parts if part)


def _duplicates(cleaning: Cleaning) -> str:
    found = cleaning.duplicates
    if not found:
        return ""
    lines = (
        "### Near-duplicates\n\n"
        f"**{found['duplicates']:,} documents** in {found['clusters']:,} clusters say what another "
        "one says; of each cluster the first is kept."
    )
    rows = [
        {
            "dropped from": row["dropped_from"],
            "kept in": row["kept_in"],
            "documents": f"{row['documents']:,}",
        }
        for row in found["sources"][:MOST_PAIRS]
    ]
    return lines + ("\n\n" + table(rows, right=["documents"]) if rows else "")


def _contamination(cleaning: Cleaning) -> str:
    questions = cleaning.questions
    if not questions:
        return (
            "### Evaluation questions in the corpora\n\n*Nobody looked: the pipeline has no "
            "benchmarks, or `clean.contamination.action` is off.*"
        )
    looked = f"Looked for {questions['checkable']:,} of {questions['questions']:,} questions"
    if questions["checkable"] < questions["questions"]:
        looked += " (others are too short to be told from ordinary speech)"
    if not cleaning.contaminated_documents:
        return f"### Evaluation questions in the corpora\n\n{looked}: **no document** contains one."
    done = {"drop": "left out of the corpus", "flag": "flagged, and left in"}[cleaning.action]
    where = ", ".join(f"{name} {count:,}" for name, count in cleaning.contamination.items())
    return (
        f"### Evaluation questions in the corpora\n\n{looked}. "
        f"**{cleaning.contaminated_documents:,} documents** contain one and were {done} ({where})."
    )


def _source_row(source: Source, total: int) -> dict[str, str]:
    def number(value: int | None) -> str:
        return NOT_RUN if value is None else f"{value:,}"

    share = NOT_RUN
    if source.kept is not None and source.documents:
        share = percent(source.kept / source.documents)
    return {
        "source": source.title,
        "language": source.group,
        "documents": number(source.documents),
        "set aside": number(source.quarantined),
        "kept": number(source.kept),
        "kept %": share,
        "tokens": number(source.tokens),
        "tokens %": percent(source.tokens / total) if source.tokens and total else NOT_RUN,
    }


def _training(facts: Facts, picture: Callable[[str, str], str]) -> str:
    parts = [
        picture("pretraining", "Pretraining loss (the paper's figure 3)"),
        _course(facts.course),
        picture("sft", "SFT loss (the paper's figure 4)"),
        picture("dpo", "DPO loss (the paper's figure 5)"),
    ]
    rows = [_training_row(training) for training in facts.trainings.values()]
    parts.append(table(rows, right=["steps", "first loss", "last loss", "validation loss"]))
    for training in facts.trainings.values():
        if training.mixture:
            numeric = [c for c, v in training.mixture[0].items() if isinstance(v, int | float)]
            parts.append(f"### Data of {training.name}")
            parts.append(table([_shown(row) for row in training.mixture], right=numeric))
    return "\n\n".join(part for part in parts if part)


def _course(course: Course | None) -> str:
    """Who took up the pretraining, and what happened to it; nothing for a run in one piece."""
    if course is None or not (course.marks or len(course.sessions) > 1):
        return ""
    rows = [
        {
            "session": str(number),
            "from step": f"{session.step:,}",
            "to step": "" if session.last_step is None else f"{session.last_step:,}",
            "processes": str(session.num_processes),
            "device": session.device,
            "ended": session.how,
        }
        for number, session in enumerate(course.sessions, 1)
    ]
    told = "\n".join(f"- step {mark.step:,}: {mark.text}" for mark in course.marks)
    return f"### What happened on the way\n\n{told}\n\n" + table(
        rows, right=["session", "from step", "to step", "processes"]
    )


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    return {k: f"{v:,}" if isinstance(v, int) else str(v) for k, v in row.items()}


def _training_row(training: Training) -> dict[str, str]:
    loss = training.curves.get("train/loss")
    validation = training.validation
    return {
        "model": training.name,
        "steps": f"{loss.steps[-1]:,}" if loss else NOT_RUN,
        "first loss": f"{loss.values[0]:.3f}" if loss else NOT_RUN,
        "last loss": f"{loss.values[-1]:.3f}" if loss else NOT_RUN,
        "validation loss": f"{validation.values[-1]:.3f}" if validation else "not measured",
    }


def _paper(facts: Facts, paper: Paper) -> str:
    scale = (
        f"This run's base model has {facts.parameters:,} parameters, the paper's 1.12 billion."
        if facts.parameters is not None
        else "This run has no base model."
    )
    if not facts.full_scale:
        scale += f" Only models of at least {FULL_SCALE:,} are put beside the paper's."
    best = facts.policy or next((n for n in facts.results if n.startswith("sft ")), "")
    ours = {paper.table4.ours["sft"]: best, paper.table4.ours["dpo"]: "dpo"}
    return "\n\n".join(
        [
            scale,
            f"### Table 2: {paper.table2.title}",
            _kernels(facts, paper),
            f"### Table 3: {paper.table3.title}",
            _beside(
                facts,
                paper.table3.benchmarks,
                [
                    ({"#": str(e.number), "experiment": e.title}, e.accuracy, f"sft {e.mixture}")
                    for e in paper.table3.experiments
                ],
            ),
            f"### Table 4: {paper.table4.title}",
            _beside(
                facts,
                paper.table4.benchmarks,
                [({"model": m.name}, m.accuracy, ours.get(m.name)) for m in paper.table4.models],
            ),
        ]
    )


def _kernels(facts: Facts, paper: Paper) -> str:
    """Table 2 as `steel kernel-ablation` measured it in this store, or the paper alone."""
    if facts.kernels is None:
        rows = [shown(paper_row(paper.table2, e)) for e in paper.table2.experiments]
        told = "Not measured in this store: `steel kernel-ablation` does it."
    else:
        rows = [shown(row) for row in facts.kernels["rows"]]
        told = f"{facts.kernels['title']}. Ratios are to Exp8 on the same machine."
    words = {"", "attention", "RoPE", "RMSNorm", "loss", "parameters"}
    return f"{told}\n\n{table(rows, right=[c for c in rows[0] if c not in words])}"


def _beside(
    facts: Facts,
    names: Sequence[str],
    lines: Sequence[tuple[dict[str, str], Mapping[str, float], str | None]],
) -> str:
    """The paper's accuracies beside this run's.

    Args:
        names: benchmarks.
        lines: (first cells, the paper's accuracies, our model; None where it cannot be ours).
    """
    titles = benchmarks(facts.results)
    columns = {name: titles.get(name, name.upper()) for name in names}
    found = {
        model: facts.results[model]
        for _, _, model in lines
        if facts.full_scale and model in facts.results
    }
    rows = []
    for first, accuracy, model in lines:
        row = dict(first)
        empty = "" if model is None else NOT_AT_SCALE
        for name, title in columns.items():
            row[f"{title}, paper"] = f"{accuracy[name]:.2f}"
        if found:
            for name, title in columns.items():
                result = found[model].get(name) if model in found else None
                row[f"{title}, this run"] = cell(result) if result else empty
        else:
            row["this run"] = empty
        rows.append(row)
    return table(rows, right=[column for column in rows[0] if column.endswith("paper")])


def _provenance(facts: Facts) -> str:
    if not facts.provenance:
        return f"*{NOT_RUN}.*"
    rows = [
        {
            "stage": row.stage,
            "key": f"`{row.key}`",
            "finished (UTC)": row.finished,
            "seconds": f"{row.seconds:,.1f}",
            "commit": f"`{row.commit[:12]}`"
            + (" with changes" if row.commit.endswith("+") else ""),
        }
        for row in facts.provenance
    ]
    software: dict[str, set[str]] = {}
    for row in facts.provenance:
        for library, version in row.software.items():
            software.setdefault(library, set()).add(version)
    versions = [
        {"software": library, "version": ", ".join(sorted(found))}
        for library, found in software.items()
    ]
    return "\n\n".join(
        [
            "A key is the hash of everything a result depends on: config, inputs, recipes, code "
            "version. `STORE/<stage>/<key>/manifest.json` lists every file with its checksum.",
            table(rows, right=["seconds"]),
            table(versions),
        ]
    )
