"""The report's section on data: sources, cleaning, duplicates, questions of benchmarks."""

from collections.abc import Callable, Mapping
from typing import Any

from common.disk import format_bytes
from model.data.manifest import FILE_NAME
from tasks.core.markdown import markdown_table
from tasks.report.cleaning import CleaningData
from tasks.report.data import Operator, ReportData, Source
from tasks.report.language import Writer
from tasks.report.results import percent
from tasks.report.trace.numbers import Place, count_place, place_in, pointer

MAX_PAIRS = 12
"""Rows of the table of near-duplicates between sources."""


def data_section(data: ReportData, picture: Callable[[str], str], say: Writer) -> str:
    """Format tables and pictures of the data; `picture` gives the Markdown of one by its name."""
    total = sum(source.tokens or 0 for source in data.sources)
    rows = [_source_row(data, source, total, say) for source in data.sources]
    parts = [
        picture("data"),
        markdown_table(rows, right=list(rows[0])[2:]) if rows else f"*{say('not_run')}.*",
        say("data.legend") if rows else "",
        _held_out(data, say),
        picture("attrition"),
        picture("perplexity"),
    ]
    if data.operators:
        rows = [_operator_row(data, operator, say) for operator in data.operators]
        columns = [name for place, name in enumerate(rows[0]) if place not in (0, 2)]
        table = markdown_table(rows, right=columns)
        parts += [f"### {say('data.operators')}\n\n{table}", say("data.operators_legend")]
    if data.cleaning is not None:
        parts.append(say("data.review", folder=data.cleaning.folder))
        parts += [_duplicates(data.cleaning, say), _decontamination(data, data.cleaning, say)]
    parts.append(_left_in(data, say))
    return "\n\n".join(part for part in parts if part)


def _place(data: ReportData, stage: str, file: str, **more: Any) -> Place | None:
    result = data.stages.get(stage)
    return place_in(result, file, **more)


def _source_row(data: ReportData, source: Source, total: int, say: Writer) -> dict[str, str]:
    name = source.name

    def number(value: int | None, about: str, place: Place | None, shown: str = "") -> str:
        if value is None:
            return say("not_run")
        return say.number(shown or f"{value:,}", f"{source.title}, {about}", value, place)

    def normalized(field: str) -> Place | None:
        at = pointer("notes", "sources", name, field)
        return _place(data, "normalize", "manifest.json", pointer=at, part=name)

    def cleaned(field: str) -> Place | None:
        at = pointer("sources", source.ledger_row or 0, field)
        return _place(data, "clean", "ledger.json", pointer=at, part=name)

    packed = _place(
        data, "pack", f"shards/{FILE_NAME}", how="sum of num_tokens of its shards", part=name
    )
    share = size_share = say("not_run")
    if source.kept is not None and source.documents:
        share = percent(source.kept / source.documents)
    if source.bytes_kept is not None and source.bytes_in:
        size_share = percent(source.bytes_kept / source.bytes_in)
    size = "" if source.bytes_in is None else format_bytes(source.bytes_in)
    per_token = source.bytes_per_token
    row = {
        "source": source.title,
        "language": say.word("group", source.group),
        "documents": number(source.documents, "documents", normalized("documents")),
        "quarantined": number(
            source.quarantined, "records that could not be read", normalized("quarantined")
        ),
        "kept": number(source.kept, "documents after cleaning", cleaned("documents_kept")),
        "kept %": share,
        "size": number(source.bytes_in, "bytes before cleaning", cleaned("bytes_in"), size),
        "size kept %": size_share,
        "tokens": number(source.tokens, "tokens in the packed shards", packed),
        "tokens %": percent(source.tokens / total) if source.tokens and total else say("not_run"),
        "bytes a token": say("not_run") if per_token is None else f"{per_token:.2f}",
    }
    return {say(f"column.{column}"): cell for column, cell in row.items()}


def _operator_row(data: ReportData, operator: Operator, say: Writer) -> dict[str, str]:
    def summed(value: int, field: str) -> str:
        how = f"sum of {field} of {operator.family}, {operator.position}: {operator.name}"
        place = _place(data, "clean", "ledger.json", how=how)
        return say.number(
            f"{value:,}", f"{operator.name} ({operator.family}), {field}", value, place
        )

    row = {
        "family": operator.family,
        "#": str(operator.position),
        "operator": f"`{operator.name}`",
        "reached it": summed(operator.documents_in, "documents_in"),
        "changed": summed(operator.changed, "documents_changed"),
        "dropped": summed(operator.dropped, "documents_dropped"),
        "dropped %": percent(operator.dropped / max(1, operator.documents_in)),
        "bytes dropped": summed(operator.bytes_dropped, "bytes_dropped"),
        "bytes cut": summed(operator.bytes_cut, "bytes_edited"),
        "bytes %": percent(operator.bytes_taken / max(1, operator.bytes_in)),
        "≈ tokens": say("not_run") if operator.tokens is None else f"{operator.tokens:z,.0f}",
    }
    return {say.word("column", column): cell for column, cell in row.items()}


def _duplicates(cleaning: CleaningData, say: Writer) -> str:
    found = cleaning.duplicates
    if not found:
        return ""
    line = say(
        "data.duplicates_line", n=f"{found['duplicates']:,}", clusters=f"{found['clusters']:,}"
    )
    rows = [
        {
            say("column.dropped from"): row["dropped_from"],
            say("column.kept in"): row["kept_in"],
            say("column.documents"): f"{row['documents']:,}",
        }
        for row in found["sources"][:MAX_PAIRS]
    ]
    table = f"\n\n{markdown_table(rows, right=[say('column.documents')])}" if rows else ""
    return f"### {say('data.duplicates')}\n\n{line}{table}"


def _decontamination(data: ReportData, cleaning: CleaningData, say: Writer) -> str:
    title = f"### {say('data.decontamination')}"
    questions = cleaning.questions
    if not questions:
        return f"{title}\n\n{say('data.turned_off')}"
    looked = say("data.looked", n=f"{questions['checkable']:,}", all=f"{questions['questions']:,}")
    if questions["checkable"] < questions["questions"]:
        looked += say("data.short")
    number = cleaning.contaminated_documents
    if not number:
        return f"{title}\n\n{say('data.clean', looked=looked)}"
    result = data.stages.get("clean")
    found = say.number(
        f"{number:,}",
        "documents with a benchmark's question",
        number,
        count_place(result, "contaminated_documents"),
    )
    action = say("data.drop" if cleaning.action == "drop" else "data.flag")
    where = ", ".join(f"{name} {count:,}" for name, count in cleaning.contamination.items())
    return f"{title}\n\n{say('data.found', looked=looked, n=found, action=action, where=where)}"


def _left_in(data: ReportData, say: Writer) -> str:
    """Table of the questions of each evaluated benchmark that the cleaned corpora still contain."""
    found: Mapping[str, Mapping[str, Any]] = data.left_in
    if not found:
        return ""

    def number(benchmark: str, value: int, field: str) -> str:
        at = pointer("notes", "benchmarks", benchmark, field)
        place = _place(data, "contamination", "manifest.json", pointer=at, part=benchmark)
        return say.number(
            f"{value:,}", f"{benchmark}, {field} of the cleaned corpora", value, place
        )

    rows = [
        {
            say("column.benchmark"): name,
            say("column.questions"): number(name, row["questions"], "questions"),
            say("column.can be checked"): number(name, row["checkable"], "checkable"),
            say("column.in the cleaned corpora"): number(name, row["found"], "found"),
            say("column.documents"): number(name, row["documents"], "documents"),
            say("column.questions by source"): row["questions by source"] or "–",
        }
        for name, row in found.items()
    ]
    return f"{say('data.left_in')}\n\n{markdown_table(rows, right=list(rows[0])[1:-1])}"


def _held_out(data: ReportData, say: Writer) -> str:
    """Say how much is held out for validation, and which sources have too little."""
    tokens = sum(source.tokens or 0 for source in data.sources)
    held_out = sum(source.held_out for source in data.sources)
    if not held_out:
        return ""
    share = say.number(
        f"{held_out / tokens:.2%}",
        "tokens that are held out",
        held_out,
        _place(data, "pack", f"shards/{FILE_NAME}", how="sum of num_tokens of validation shards"),
    )
    text = say("data.held_out", share=share)
    short = [source.title for source in data.sources if source.validation_samples == 0]
    return text + say("data.too_short", titles=", ".join(short)) if short else text
