"""A number's chain in words, for a terminal."""

import time
from collections.abc import Iterator, Sequence

from common.disk import format_bytes
from tasks.report.trace.lineage import Lineage, Link
from tasks.report.trace.numbers import POINTS, Place

PARTS = 12
"""Numbers that another is computed from, of which so many are listed."""

LISTED_POINTS = 20
"""Points of a curve that are listed."""

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
    if place is None:
        yield f"  {number.how} of {len(lineage.parts)} numbers: {lineage.state}"
        for part in lineage.parts[:PARTS]:
            where = f", from {_where(part.place)}" if part.place is not None else ""
            yield f"    {part.value:,}  {part.about}  ({part.id}){where}"
        if len(lineage.parts) > PARTS:
            yield f"    … {len(lineage.parts) - PARTS} more numbers (--json lists them)"
    else:
        yield f"  from {_where(place)}: {lineage.state}"
    if place is not None and place.how and not place.how.startswith(POINTS):
        yield f"  computed as the {place.how}"
    yield f"  shown in {lineage.report}/report.html#n-{number.id}"
    yield from _of_points(lineage.points)
    for link in lineage.links:
        yield from _of_link(link)


def _where(place: Place) -> str:
    """Place of a number, in words."""
    where = f"{place.stage}/{place.key}/{place.file}"
    return f"{where} at {place.pointer}" if place.pointer else where


def _of_points(points: Sequence[tuple[float, float]]) -> Iterator[str]:
    """Some points of a curve, the first and the last among them."""
    if not points:
        return
    number = min(len(points), LISTED_POINTS)
    chosen = {round(i * (len(points) - 1) / max(1, number - 1)) for i in range(number)}
    more = "" if number == len(points) else f", of which {number} (--json lists all)"
    yield f"  {len(points):,} points{more}:"
    for place in sorted(chosen):
        x, y = points[place]
        yield f"    {x:>14,.0f}  {y:.6g}"


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
