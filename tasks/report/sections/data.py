"""The report's section on data: sources, cleaning, duplicates, questions of benchmarks."""

from collections.abc import Callable, Mapping
from typing import Any

from common.disk import format_bytes
from model.data.manifest import FILE_NAME
from tasks.core.markdown import markdown_table
from tasks.report.cleaning import CleaningData
from tasks.report.data import Operator, ReportData, Source
from tasks.report.language import Writer
from tasks.report.results import part_text
from tasks.report.trace.numbers import Known, Place, computed, known, place_in, pointer

MAX_PAIRS = 12
"""Rows of the table of near-duplicates between sources."""


def data_section(data: ReportData, picture: Callable[[str], str], say: Writer) -> str:
    """Format tables and pictures of the data; `picture` gives the Markdown of one by its name."""
    total = tokens_of_all(data)
    rows = [_source_row(data, source, total, say) for source in data.sources]
    parts = [
        picture("data"),
        markdown_table(rows, right=list(rows[0])[2:]) if rows else f"*{say('not_run')}.*",
        say("data.legend") if rows else "",
        _held_out(data, total, say),
        picture("attrition"),
        picture("perplexity"),
        _percentiles(data, say),
        _operators(data, say),
    ]
    if data.cleaning is not None:
        parts.append(say("data.review", folder=data.cleaning.folder))
        parts += [_duplicates(data, say), _decontamination(data, data.cleaning, say)]
    parts.append(_left_in(data, say))
    return "\n\n".join(part for part in parts if part)


def _place(data: ReportData, stage: str, file: str, **more: Any) -> Place | None:
    result = data.stages.get(stage)
    return place_in(result, file, **more)


def _of_source(data: ReportData, source: Source) -> dict[str, Known]:
    """Numbers of a source that are known, each with its place."""
    name = source.name
    places = {
        "documents": ("normalize", "manifest.json", "documents"),
        "quarantined": ("normalize", "manifest.json", "records that could not be read"),
        "kept": ("clean", "ledger.json", "documents after cleaning"),
        "bytes_in": ("clean", "ledger.json", "bytes before cleaning"),
        "bytes_kept": ("clean", "ledger.json", "bytes after cleaning"),
        "tokens": ("pack", f"shards/{FILE_NAME}", "tokens in the packed shards"),
    }
    found = {}
    for field, (stage, file, words) in places.items():
        value = getattr(source, field)
        if value is None:
            continue
        if stage == "normalize":
            more = {"pointer": pointer("notes", "sources", name, field)}
        elif stage == "clean":
            column = "documents_kept" if field == "kept" else field
            more = {"pointer": pointer("sources", source.ledger_row or 0, column)}
        else:
            more = {"how": "sum of num_tokens of its shards"}
        place = _place(data, stage, file, part=name, **more)
        found[field] = Known(value=value, about=f"{source.title}, {words}", place=place)
    return found


def tokens_of_all(data: ReportData) -> Known | None:
    """Tokens of the packed shards of all sources; None where nothing was packed."""
    found = [_of_source(data, source).get("tokens") for source in data.sources]
    parts = [tokens for tokens in found if tokens]
    return computed("tokens in the packed shards", "sum", *parts) if parts else None


def _source_row(
    data: ReportData, source: Source, total: Known | None, say: Writer
) -> dict[str, str]:
    found = _of_source(data, source)

    def ratio(words: str, of: str, to: str) -> Known | None:
        if of not in found or to not in found or not found[to].value:
            return None
        return computed(f"{source.title}, {words}", "ratio", found[of], found[to])

    share = None
    if total is not None and "tokens" in found:
        share = computed(f"{source.title}, share of the tokens", "ratio", found["tokens"], total)
    row = {
        "source": source.title,
        "language": say.word("group", source.group),
        "documents": say.known("{:,}".format, found.get("documents")),
        "quarantined": say.known("{:,}".format, found.get("quarantined")),
        "kept": say.known("{:,}".format, found.get("kept")),
        "kept %": say.known(part_text, ratio("share of documents kept", "kept", "documents")),
        "size": say.known(format_bytes, found.get("bytes_in")),
        "size kept %": say.known(part_text, ratio("share of bytes kept", "bytes_kept", "bytes_in")),
        "tokens": say.known("{:,}".format, found.get("tokens")),
        "tokens %": say.known(part_text, share),
        "bytes a token": say.known("{:.2f}".format, ratio("bytes a token", "bytes_kept", "tokens")),
    }
    return {say(f"column.{column}"): cell for column, cell in row.items()}


def _percentiles(data: ReportData, say: Writer) -> str:
    """Names of the perplexities that the picture shows, each with an id that lists all of them."""
    if data.cleaning is None or not data.cleaning.perplexity:
        return ""
    titles = {source.name: source.title for source in data.sources}
    curves = [
        (
            titles.get(row.source, row.source),
            f"{row.source}: percentiles of the perplexity, from the smallest to the largest",
            _place(
                data,
                "clean",
                "ledger.json",
                pointer=pointer("statistics", row.place, "percentiles"),
                part=row.source,
            ),
        )
        for row in data.cleaning.perplexity
    ]
    return say.curves(curves)


def _operators(data: ReportData, say: Writer) -> str:
    """Table of all operators, behind a line about the one that took out most."""
    if not data.operators:
        return ""
    acted = [o for o in data.operators if o.changed or o.dropped]
    rows = [_operator_row(data, operator, say) for operator in acted]
    columns = [name for row in rows[:1] for at, name in enumerate(row) if at not in (0, 2)]
    most = max(data.operators, key=lambda operator: operator.bytes_taken)
    found = _of_operator(data, most)
    reached = [_of_operator(data, operator)["documents_in"] for operator in data.operators]
    line = say(
        "data.operators",
        n=say.known(str, computed("operators of the recipes", "number", *reached)),
        name=most.name,
        family=most.family,
        share=say.known(part_text, _share_taken(most, found)),
    )
    table = markdown_table(rows, right=columns)
    return say.details(line, f"{table}\n\n{say('data.operators_legend')}")


def _of_operator(data: ReportData, operator: Operator) -> dict[str, Known]:
    """Numbers of an operator, each summed over its sources."""
    values = {
        "documents_in": operator.documents_in,
        "documents_changed": operator.changed,
        "documents_dropped": operator.dropped,
        "bytes_in": operator.bytes_in,
        "bytes_dropped": operator.bytes_dropped,
        "bytes_edited": operator.bytes_cut,
    }
    found = {}
    for field, value in values.items():
        how = f"sum of {field} of {operator.family}, {operator.position}: {operator.name}"
        found[field] = Known(
            value=value,
            about=f"{operator.name} ({operator.family}), {field}",
            place=_place(data, "clean", "ledger.json", how=how),
        )
    return found


def _share_taken(operator: Operator, found: Mapping[str, Known]) -> Known | None:
    """Share of the bytes that reached an operator which it took out; None where none did."""
    if not operator.bytes_in:
        return None
    about = f"{operator.name} ({operator.family}), share of bytes taken out"
    taken = computed(f"{about}, bytes", "sum", found["bytes_dropped"], found["bytes_edited"])
    return computed(about, "ratio", taken, found["bytes_in"])


def _operator_row(data: ReportData, operator: Operator, say: Writer) -> dict[str, str]:
    found = _of_operator(data, operator)
    dropped = tokens = None
    name = f"{operator.name} ({operator.family})"
    if operator.documents_in:
        dropped = computed(
            f"{name}, share of documents dropped",
            "ratio",
            found["documents_dropped"],
            found["documents_in"],
        )
    if operator.tokens is not None:
        how = f"estimate for {operator.family}, {operator.position}, by the bytes to a token"
        place = _place(data, "clean", "ledger.json", how=how)
        tokens = Known(value=operator.tokens, about=f"{name}, tokens taken out", place=place)

    def cell(field: str) -> str:
        return say.known("{:,}".format, found[field])

    row = {
        "family": operator.family,
        "#": str(operator.position),
        "operator": f"`{operator.name}`",
        "reached it": cell("documents_in"),
        "changed": cell("documents_changed"),
        "dropped": cell("documents_dropped"),
        "dropped %": say.known(part_text, dropped, "nothing"),
        "bytes dropped": cell("bytes_dropped"),
        "bytes cut": cell("bytes_edited"),
        "bytes %": say.known(part_text, _share_taken(operator, found), "nothing"),
        "≈ tokens": say.known("{:z,.0f}".format, tokens),
    }
    return {say.word("column", column): cell for column, cell in row.items()}


def _duplicates(data: ReportData, say: Writer) -> str:
    found = data.cleaning.duplicates if data.cleaning else {}
    if not found:
        return ""

    def number(value: int, about: str, *names: str | int) -> str:
        place = _place(data, "clean", "duplicates.json", pointer=pointer(*names))
        return say.number(f"{value:,}", about, value, place)

    line = say(
        "data.duplicates_line",
        n=number(found["duplicates"], "near-duplicates", "duplicates"),
        clusters=number(found["clusters"], "clusters of near-duplicates", "clusters"),
    )
    rows = [
        {
            say("column.dropped from"): row["dropped_from"],
            say("column.kept in"): row["kept_in"],
            say("column.documents"): number(
                row["documents"],
                f"near-duplicates dropped from {row['dropped_from']}, kept in {row['kept_in']}",
                *("sources", place, "documents"),
            ),
        }
        for place, row in enumerate(found["sources"][:MAX_PAIRS])
    ]
    table = f"\n\n{markdown_table(rows, right=[say('column.documents')])}" if rows else ""
    return f"### {say('data.duplicates')}\n\n{line}{table}"


def _decontamination(data: ReportData, cleaning: CleaningData, say: Writer) -> str:
    title = f"### {say('data.decontamination')}"
    questions = cleaning.questions
    if not questions:
        return f"{title}\n\n{say('data.turned_off')}"
    result = data.stages.get("clean")

    def counted(about: str, *names: str) -> str:
        return say.known("{:,}".format, known(result, about, *names))

    looked = say(
        "data.looked",
        n=counted("questions looked for", "notes", "contamination_index", "checkable"),
        all=counted("questions of the benchmarks", "notes", "contamination_index", "questions"),
    )
    if questions["checkable"] < questions["questions"]:
        looked += say("data.short")
    number = cleaning.contaminated_documents
    if not number:
        return f"{title}\n\n{say('data.clean', looked=looked)}"
    found = counted("documents with a benchmark's question", "counts", "contaminated_documents")
    action = say("data.drop" if cleaning.action == "drop" else "data.flag")
    where = ", ".join(
        f"{name} {counted(f'{name}: places of its questions', 'notes', 'contamination', name)}"
        for name in cleaning.contamination
    )
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
            say("column.questions by source"): say.in_text(
                row["questions by source"],
                f"{name}, questions by source",
                _place(
                    data,
                    "contamination",
                    "manifest.json",
                    pointer=pointer("notes", "benchmarks", name, "questions by source"),
                    part=name,
                ),
            )
            or "–",
        }
        for name, row in found.items()
    ]
    return f"{say('data.left_in')}\n\n{markdown_table(rows, right=list(rows[0])[1:-1])}"


def _held_out(data: ReportData, total: Known | None, say: Writer) -> str:
    """Say how much is held out for validation, and which sources have too little."""
    held_out = sum(source.held_out for source in data.sources)
    if not held_out or total is None:
        return ""
    how = "sum of num_tokens of validation shards"
    place = _place(data, "pack", f"shards/{FILE_NAME}", how=how)
    part = Known(value=held_out, about="tokens that are held out", place=place)
    share = computed("share of the tokens that are held out", "ratio", part, total)
    text = say("data.held_out", share=say.known(part_text, share))
    short = [source.title for source in data.sources if source.validation_samples == 0]
    return text + say("data.too_short", titles=", ".join(short)) if short else text
