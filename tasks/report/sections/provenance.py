"""The report's section on provenance: keys, times and commits of stages, versions of software."""

import time

from tasks.core.manifest import StageResult
from tasks.core.markdown import markdown_table
from tasks.report.data import ReportData
from tasks.report.language import Writer
from tasks.report.trace.numbers import Known, computed, place_in, pointer


def seconds_of(result: StageResult) -> Known:
    """Seconds from a stage's beginning to its end."""
    title = title_of(result)
    ends = [
        Known(
            value=result.manifest[name],
            about=f"{title}, {name}, in seconds since 1970",
            place=place_in(result, "manifest.json", pointer=pointer(name)),
        )
        for name in ("finished", "started")
    ]
    return computed(f"{title}, seconds", "difference", *ends)


def seconds_of_all(data: ReportData) -> Known | None:
    """Seconds of all stages of the report; None where there is none."""
    parts = [seconds_of(result) for result in data.finished_stages]
    return computed("seconds of all stages of this report", "sum", *parts) if parts else None


def provenance_section(data: ReportData, say: Writer) -> str:
    """Format keys, times and commits of all stages, and the versions of software."""
    if not data.finished_stages:
        return f"*{say('not_run')}.*"
    rows = [
        {
            say("column.stage"): title_of(result),
            say("column.key"): f"`{result.key}`",
            say("column.finished (UTC)"): time_of(result),
            say("column.seconds"): say.known("{:,.1f}".format, seconds_of(result)),
            say("column.commit"): commit_of(result, say),
        }
        for result in data.finished_stages
    ]
    software: dict[str, dict[str, None]] = {}
    for result in data.finished_stages:
        for library, version in result.manifest.get("software", {}).items():
            software.setdefault(library, {})[version] = None
    versions = [
        {say("column.software"): library, say("column.version"): ", ".join(sorted(found))}
        for library, found in software.items()
    ]
    count = computed(
        "stages of this report", "number", *(seconds_of(r) for r in data.finished_stages)
    )
    return "\n\n".join(
        [
            say("provenance.text"),
            say.details(
                say("provenance.stages", n=say.known(str, count)),
                markdown_table(rows, right=[say("column.seconds")]),
            ),
            say.details(say("provenance.software"), markdown_table(versions)) if versions else "",
        ]
    ).rstrip()


def title_of(result: StageResult) -> str:
    """Name and label of a stage."""
    return f"{result.manifest['stage']} {result.manifest.get('label', '')}".strip()


def time_of(result: StageResult) -> str:
    """Time of its end, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(result.manifest["finished"]))


def commit_of(result: StageResult, say: Writer) -> str:
    """The project's commit that made it, and a word where the work tree differed."""
    commit = str(result.manifest.get("git_commit") or "outside git")
    return f"`{commit[:12]}`" + (say("provenance.changes") if commit.endswith("+") else "")
