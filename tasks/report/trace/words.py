"""A number's chain in words, for a terminal."""

import time
from collections.abc import Iterator

from common.disk import format_bytes
from tasks.report.trace.lineage import Lineage, Link

FILES = 4
"""Files of a stage that are listed; `--json` has all."""

COUNTS = (
    "questions",
    "steps",
    "tokens",
    "conversations",
    "pairs",
    "shards",
    "documents",
    "documents_in",
    "documents_kept",
    "quarantined",
    "datasets",
    "bytes",
)
"""Counts of a stage that say how much went through it."""


def lines(lineage: Lineage) -> Iterator[str]:
    """Yield the lines of the chain, the stage that wrote the number first."""
    number, place = lineage.number, lineage.number.place
    yield f"{number.shown}  {number.about}  ({number.id})"
    where = f"{place.stage}/{place.key}/{place.file}"
    yield f"  from {where}{f' at {place.pointer}' if place.pointer else ''}: {lineage.state}"
    if place.how:
        yield f"  computed as the {place.how}"
    yield f"  shown in {lineage.report}/report.html#n-{number.id}"
    for link in lineage.links:
        yield from _of_link(link)


def _of_link(link: Link) -> Iterator[str]:
    indent = "  " * link.depth
    role = f"{link.role}: " if link.role else ""
    title = f"{link.stage} {link.label}".strip()
    if link.seen:
        yield f"{indent}└ {role}{title}  {link.key}  (as above)"
        return
    if not link.folder:
        yield f"{indent}└ {role}{link.key}: {link.remark}"
        return
    yield f"{indent}└ {role}{title}  {link.key}"
    indent += "    "
    finished = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(link.finished))
    yield f"{indent}finished {finished} UTC at commit {link.commit}; config in its manifest.json"
    counts = [f"{name} {link.counts[name]:,.0f}" for name in COUNTS if name in link.counts]
    if counts:
        yield f"{indent}{', '.join(counts)}"
    for name, row in list(link.sources.items()) if len(link.sources) == 1 else []:
        numbers = {k: v for k, v in row.items() if type(v) is int} if isinstance(row, dict) else {}
        yield f"{indent}{name}: {', '.join(f'{k} {v:,}' for k, v in numbers.items())}"
    for name, origin in link.origins.items():
        revision = link.revisions.get(name)
        yield f"{indent}{name} from {origin}{f' at {revision}' if revision else ''}"
    for entry in link.files[:FILES]:
        yield f"{indent}{entry['path']}  {format_bytes(entry['bytes'])}  md5 {entry['md5']}"
    if len(link.files) > FILES:
        total = sum(entry["bytes"] for entry in link.files)
        yield (
            f"{indent}… {len(link.files) - FILES} more files, {format_bytes(total)} in all "
            "(--json lists them)"
        )
