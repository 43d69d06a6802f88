"""Verdicts on documents of the sample: JSON lines, the last one on a document counts.

    {"id": "skypile/a.jsonl#7", "kind": "changed", "source": "skypile", "family": "web",
     "operator": "html_to_text_mapper", "stage": "<key>", "sha256": "…", "sha256_after": "…",
     "verdict": "damaged", "note": "a formula was cut", "time": "2026-11-29T08:00:00Z"}

`sha256` is that of the text that the operator got; `text`, `text_after` and `meta` are there if the
reviewer asked for texts in the file. A verdict is added in one write and flushed: an interruption
costs no earlier one.
"""

import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.paths import display
from corpus.benchmarks.scoring import wilson_interval
from corpus.cleaning.quality.labels import sha256_of
from corpus.cleaning.review.sample import KEPT, Kind

VERDICTS: dict[Kind, dict[str, str]] = {
    "changed": {"fine": "Fine", "damaged": "Damaged"},
    "dropped": {"rightly_dropped": "Rightly dropped", "wrongly_dropped": "Wrongly dropped"},
    "kept": {"worth_keeping": "Worth keeping", "bad_kept": "Bad page kept"},
}
"""Kind of document -> its verdicts, the good one first, with their names on the page."""

UNSURE = "unsure"
"""Verdict of a reviewer who cannot tell; it counts in no share."""

BAD: dict[Kind, str] = {kind: list(names)[1] for kind, names in VERDICTS.items()}
"""The verdict that a curator would not sign."""

FILE_NAME = "review-verdicts.jsonl"
"""File of verdicts, in a store."""

Key = tuple[str, str, str, str]


def key_of(row: Mapping[str, Any]) -> Key:
    """Identity of a judged thing: kind, operator, id, and hash of the text before."""
    digest = row["sha256"] if "sha256" in row else sha256_of(row["before"])
    return row["kind"], row["operator"], row["id"], digest


def verdict_row(
    example: Mapping[str, Any], verdict: str, note: str, stage: str, *, with_texts: bool
) -> dict[str, Any]:
    """A verdict on a document of the sample, as a row of the file.

    Args:
        stage: key of the finished stage that the sample is from.
        with_texts: the row holds the texts themselves beside their hashes.

    Raises:
        ValueError: the verdict is none for this kind of document.
    """
    if verdict not in (*VERDICTS[example["kind"]], UNSURE):
        raise ValueError(f"{verdict!r} is no verdict on a document that was {example['kind']}")
    row: dict[str, Any] = {
        n: example[n] for n in ("id", "kind", "source", "family", "operator")
    } | {"stage": stage, "sha256": sha256_of(example["before"])}
    if "after" in example:
        row["sha256_after"] = sha256_of(example["after"])
    if example.get("cut"):
        row["cut"] = True
    row |= {"verdict": verdict, "note": note}
    row["time"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if with_texts:
        row |= {"text": example["before"], "meta": example.get("meta") or {}}
        if "after" in example:
            row["text_after"] = example["after"]
    return row


def append_verdict(path: Path, row: Mapping[str, Any]) -> None:
    """Add a verdict to the file in one write, and flush it to the disk."""
    line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        # A line that an interruption cut short ends here; reading passes over it.
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(descriptor, line)
        if written != len(line):
            raise DataError(f"{display(path)}: the disk is full; the verdict was not written")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_verdicts(path: Path) -> dict[Key, dict[str, Any]]:
    """The last verdict on each document. Raises DataError for a line that is none.

    An unfinished last line is left out, also where verdicts were added behind it.
    """
    found: dict[Key, dict[str, Any]] = {}
    if not path.exists():
        return found
    if not path.is_file():
        raise DataError(f"--verdicts: {display(path)} is no file")
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if line.startswith(b'{"id"') and not line.endswith(b"}"):
                continue
            raise _no_verdict(path, number) from error
        if not _is_verdict(row):
            raise _no_verdict(path, number)
        found[key_of(row)] = row
    return found


def _is_verdict(row: Any) -> bool:
    names = ("id", "kind", "source", "family", "operator", "sha256", "verdict")
    if not isinstance(row, dict) or any(not isinstance(row.get(n), str) for n in names):
        return False
    return row["kind"] in VERDICTS and row["verdict"] in (*VERDICTS[row["kind"]], UNSURE)


def _no_verdict(path: Path, number: int) -> DataError:
    return DataError(
        f"{display(path)}, line {number}: no verdict of `steel review`. Name another file with "
        "--verdicts, or mend the line"
    )


@dataclass(frozen=True, kw_only=True)
class Share:
    """Share of documents of one kind that are bad, estimated from those that were judged."""

    name: str
    """Operator or family; `all`."""
    kind: Kind
    bad: int
    """Documents judged bad."""
    judged: int
    """Documents judged."""
    share: float
    """Estimated share in the corpus, 0 to 1."""
    interval: tuple[float, float]
    """Its 95 % interval."""

    def row(self) -> dict[str, Any]:
        """As JSON values, shares in percent."""
        return {
            "kind": self.kind,
            "name": self.name,
            "verdict": BAD[self.kind],
            "bad": self.bad,
            "judged": self.judged,
            "percent": round(100 * self.share, 1),
            "interval_95": [round(100 * bound, 1) for bound in self.interval],
        }


Stratum = tuple[str, str, str]
"""Kind, operator and source: what the sample takes the same number of documents from."""


def stratum_of(row: Mapping[str, Any]) -> Stratum:
    """The stratum of a document of the sample."""
    return row["kind"], row["operator"], row["source"]


def stratum_sizes(ledger: Mapping[str, Any]) -> dict[Stratum, int]:
    """Documents of a cleaned corpus in each stratum, from its ledger.json."""
    sizes: dict[Stratum, int] = {}
    for row in ledger["rows"]:
        sizes["changed", row["operator"], row["source"]] = row["documents_changed"]
        sizes["dropped", row["operator"], row["source"]] = row["documents_dropped"]
        sizes["kept", KEPT, row["source"]] = row["documents_kept"]  # the last operator's counts
    return sizes


def shares(rows: Iterable[Mapping[str, Any]], by: str, sizes: Mapping[Stratum, int]) -> list[Share]:
    """Shares of bad documents of each kind, by `operator` or `family`, after those of all.

    The sample takes as many documents from a small stratum as from a large one, so each document
    counts for as many as its stratum has for each judged one. The interval is Wilson's for Kish's
    effective size of such a sample, (sum of weights)^2 / sum of their squares (Kish 1965).
    """
    judged = [row for row in rows if row["verdict"] != UNSURE]
    numbers = Counter(map(stratum_of, judged))
    groups: dict[tuple[Kind, str], list[tuple[float, bool]]] = {}
    for row in judged:
        stratum = stratum_of(row)
        weight = max(1, sizes.get(stratum, 1)) / numbers[stratum]
        for name in ("all", row[by]):
            group = groups.setdefault((row["kind"], name), [])
            group.append((weight, row["verdict"] == BAD[row["kind"]]))
    order = list(VERDICTS)
    return [
        _share(kind, name, group)
        for (kind, name), group in sorted(
            groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1] != "all", item[0])
        )
    ]


def _share(kind: Kind, name: str, group: Sequence[tuple[float, bool]]) -> Share:
    total = math.fsum(weight for weight, _ in group)
    share = min(1.0, math.fsum(weight for weight, bad in group if bad) / total)
    effective = total**2 / math.fsum(weight**2 for weight, _ in group)
    return Share(
        name=name,
        kind=kind,
        bad=sum(bad for _, bad in group),
        judged=len(group),
        share=share,
        interval=wilson_interval(share * effective, effective),
    )
