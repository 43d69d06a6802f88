"""The report as Markdown: results, data, training, comparison with the paper, provenance."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.disk import format_bytes
from tasks.core.markdown import NOT_RUN, markdown_table
from tasks.core.paper.tables import Paper
from tasks.report.cleaning import CleaningData
from tasks.report.data import ReportData, Source, Training
from tasks.report.paper_comparison import paper_section
from tasks.report.results import loss_text, percent, results_section
from tasks.report.timeline import Timeline

OPERATORS_LEGEND = (
    "*bytes dropped*: of dropped documents; *bytes cut*: taken out of documents that stay (below "
    "0: put in); *bytes %*: both, of what reached it; *≈ tokens*: an estimate of both, from the "
    "bytes that a token of the source has on average."
)
MAX_PAIRS = 12
"""Rows of the table of near-duplicates between sources."""


def format_report(data: ReportData, paper: Paper, pictures: Sequence[str]) -> str:
    """Format the whole report; `pictures` names the figures/*.png that exist."""

    def picture(name: str, alt: str) -> str:
        return f"![{alt}](figures/{name}.png)" if name in pictures else f"*{alt}: {NOT_RUN}.*"

    sections = [
        f"# Steel: {data.name}",
        _summary(data),
        "## Results",
        results_section(data.results, picture),
        "## Data",
        _data_section(data, picture),
        "## Training",
        _training_section(data, picture),
        "## Comparison with the paper",
        paper_section(data, paper),
        "## Provenance",
        _provenance_section(data),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _summary(data: ReportData) -> str:
    tokens = sum(source.tokens or 0 for source in data.sources)
    base = data.trainings.get("base")
    parts = []
    if data.parameters is not None:
        parts.append(f"a base model of **{data.parameters:,} parameters**")
    if data.vocabulary is not None:
        parts.append(f"a vocabulary of {data.vocabulary:,}")
    if tokens:
        parts.append(f"a packed corpus of **{tokens:,} tokens** from {len(data.sources)} sources")
    if base and "tokens" in base.counts:
        parts.append(f"{base.counts['tokens']:,.0f} tokens read in pretraining")
    seconds = sum(row.seconds for row in data.provenance)
    if data.provenance:
        parts.append(f"{seconds / 60:.1f} minutes of work in {len(data.provenance)} stages")
    return f"This run: {'; '.join(parts)}." if parts else "*Nothing was run.*"


def _data_section(data: ReportData, picture: Callable[[str, str], str]) -> str:
    total = sum(source.tokens or 0 for source in data.sources)
    parts = [
        picture("data", "Data distribution by source (the paper's figure 2)"),
        markdown_table(
            [_source_row(source, total) for source in data.sources],
            right=[
                "documents",
                "quarantined",
                "kept",
                "kept %",
                "size",
                "size kept %",
                "tokens",
                "tokens %",
                "bytes a token",
            ],
        ),
        "*documents*: after normalisation; *quarantined*: records that could not be read, "
        "kept apart by the stage `normalize`; *kept*: after cleaning; *size*: UTF-8 bytes of the "
        "texts before cleaning; *bytes a token*: of what was packed."
        if data.sources
        else "",
        _held_out(data),
        picture("attrition", "What cleaning kept and dropped"),
        picture("perplexity", "Perplexity by source"),
    ]
    rows = [
        {
            "family": operator.family,
            "#": operator.position,
            "operator": f"`{operator.name}`",
            "reached it": f"{operator.documents_in:,}",
            "changed": f"{operator.changed:,}",
            "dropped": f"{operator.dropped:,}",
            "dropped %": percent(operator.dropped / max(1, operator.documents_in)),
            "bytes dropped": f"{operator.bytes_dropped:,}",
            "bytes cut": f"{operator.bytes_cut:,}",
            "bytes %": percent(operator.bytes_taken / max(1, operator.bytes_in)),
            "≈ tokens": NOT_RUN if operator.tokens is None else f"{operator.tokens:z,.0f}",
        }
        for operator in data.operators
    ]
    if rows:
        columns = [name for name in rows[0] if name not in ("family", "operator")]
        parts.append("### Every cleaning operator\n\n" + markdown_table(rows, right=columns))
        parts.append(OPERATORS_LEGEND)
    if data.cleaning is not None:
        parts.append(
            f"Documents taken at random of each operator, before and after: "
            f"`{data.cleaning.folder}/review.html`; `steel review` judges them."
        )
        parts += [_duplicates(data.cleaning), _contamination(data.cleaning)]
    parts.append(_left_in(data.left_in))
    return "\n\n".join(part for part in parts if part)


def _duplicates(cleaning: CleaningData) -> str:
    found = cleaning.duplicates
    if not found:
        return ""
    lines = (
        "### Near-duplicates\n\n"
        f"**{found['duplicates']:,} documents** in {found['clusters']:,} clusters repeat "
        "another one; of each cluster the first is kept."
    )
    rows = [
        {
            "dropped from": row["dropped_from"],
            "kept in": row["kept_in"],
            "documents": f"{row['documents']:,}",
        }
        for row in found["sources"][:MAX_PAIRS]
    ]
    return lines + ("\n\n" + markdown_table(rows, right=["documents"]) if rows else "")


def _contamination(cleaning: CleaningData) -> str:
    questions = cleaning.questions
    if not questions:
        return (
            "### Benchmark questions in the corpora\n\n*None were taken out: `decontaminate` names "
            "no benchmark, or `clean.contamination.action` is off.*"
        )
    looked = f"Looked for {questions['checkable']:,} of {questions['questions']:,} questions"
    if questions["checkable"] < questions["questions"]:
        looked += " (others are too short to be told from ordinary speech)"
    if not cleaning.contaminated_documents:
        return f"### Benchmark questions in the corpora\n\n{looked}: **no document** contains one."
    action = {"drop": "left out of the corpus", "flag": "flagged, and left in"}[cleaning.action]
    where = ", ".join(f"{name} {count:,}" for name, count in cleaning.contamination.items())
    return (
        f"### Benchmark questions in the corpora\n\n{looked}. "
        f"**{cleaning.contaminated_documents:,} documents** contain one and were {action} "
        f"({where})."
    )


def _left_in(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Table of the questions of each evaluated benchmark that the cleaned corpora still contain."""
    if not found:
        return ""
    rows = [
        {
            "benchmark": name,
            "questions": f"{row['questions']:,}",
            "can be checked": f"{row['checkable']:,}",
            "in the cleaned corpora": f"{row['found']:,}",
            "documents": f"{row['documents']:,}",
            "questions by source": row["questions by source"] or "–",
        }
        for name, row in found.items()
    ]
    columns = ["questions", "can be checked", "in the cleaned corpora", "documents"]
    return (
        "Questions of the evaluated benchmarks in the corpora as they were trained on:\n\n"
        f"{markdown_table(rows, right=columns)}"
    )


def _held_out(data: ReportData) -> str:
    """Say how much is held out for validation, and which sources have too little."""
    tokens = sum(source.tokens or 0 for source in data.sources)
    held_out = sum(source.held_out for source in data.sources)
    if not held_out:
        return ""
    text = f"Held out for validation, in whole documents: {held_out / tokens:.2%} of the tokens."
    short = [source.title for source in data.sources if source.validation_samples == 0]
    if short:
        text += f" Too few for a validation loss of their own: {', '.join(short)}."
    return text


def _source_row(source: Source, total: int) -> dict[str, str]:
    def number(value: int | None) -> str:
        return NOT_RUN if value is None else f"{value:,}"

    share = NOT_RUN
    if source.kept is not None and source.documents:
        share = percent(source.kept / source.documents)
    size_share = NOT_RUN
    if source.bytes_kept is not None and source.bytes_in:
        size_share = percent(source.bytes_kept / source.bytes_in)
    per_token = source.bytes_per_token
    return {
        "source": source.title,
        "language": source.group,
        "documents": number(source.documents),
        "quarantined": number(source.quarantined),
        "kept": number(source.kept),
        "kept %": share,
        "size": NOT_RUN if source.bytes_in is None else format_bytes(source.bytes_in),
        "size kept %": size_share,
        "tokens": number(source.tokens),
        "tokens %": percent(source.tokens / total) if source.tokens and total else NOT_RUN,
        "bytes a token": NOT_RUN if per_token is None else f"{per_token:.2f}",
    }


def _training_section(data: ReportData, picture: Callable[[str, str], str]) -> str:
    parts = [
        picture("pretraining", "Pretraining loss (the paper's figure 3)"),
        _timeline(data.timeline),
        picture("sft", "SFT loss (the paper's figure 4)"),
        picture("dpo", "DPO loss (the paper's figure 5)"),
    ]
    rows = [_training_row(training) for training in data.trainings.values()]
    parts.append(
        markdown_table(rows, right=["steps", "first loss", "loss at the end", "validation loss"])
    )
    if rows:
        parts.append(
            "*loss at the end*: the last value of the running mean that the pictures show, over a "
            "fortieth of the measured steps; the last step alone says more about its batch."
        )
    for training in data.trainings.values():
        if training.mixture:
            numeric = [c for c, v in training.mixture[0].items() if isinstance(v, int | float)]
            parts.append(f"### Data of {training.name}")
            parts.append(
                markdown_table([_formatted(row) for row in training.mixture], right=numeric)
            )
    return "\n\n".join(part for part in parts if part)


def _timeline(timeline: Timeline | None) -> str:
    """List events and sessions of the pretraining; nothing for a run in one piece."""
    if timeline is None or not (timeline.events or len(timeline.sessions) > 1):
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
        for number, session in enumerate(timeline.sessions, 1)
    ]
    events = "\n".join(f"- step {event.step:,}: {event.text}" for event in timeline.events)
    return f"### Timeline of the pretraining\n\n{events}\n\n" + markdown_table(
        rows, right=["session", "from step", "to step", "processes"]
    )


def _formatted(row: Mapping[str, Any]) -> dict[str, str]:
    return {k: f"{v:,}" if isinstance(v, int) else str(v) for k, v in row.items()}


def _training_row(training: Training) -> dict[str, str]:
    loss = training.curves.get("train/loss")
    validation = training.validation
    return {
        "model": training.name,
        "steps": f"{training.counts.get('steps', loss.steps[-1]):,.0f}" if loss else NOT_RUN,
        "first loss": loss_text(loss.values[0]) if loss else NOT_RUN,
        "loss at the end": loss_text(loss.end) if loss else NOT_RUN,
        "validation loss": loss_text(validation.values[-1]) if validation else "not measured",
    }


def _provenance_section(data: ReportData) -> str:
    if not data.provenance:
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
        for row in data.provenance
    ]
    software: dict[str, set[str]] = {}
    for row in data.provenance:
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
            markdown_table(rows, right=["seconds"]),
            markdown_table(versions),
        ]
    )
