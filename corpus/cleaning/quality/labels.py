"""Verdicts of people on pages of the pipeline, and the texts that they are about.

    {"sha256": "…", "verdict": "keep"}                                  of one's own
    {"sha256": "…", "id": "skypile/a.jsonl#7", "verdict": "bad_kept", …}   of a review of the store

`sha256` is that of the text, normalised or after the mappers of its recipe. A page is looked for in
the sources by it or by `id`; a line that has `text` brings its own. The last verdict on a page
counts. Verdicts on what an operator changed, or on a drop for another reason than quality (a copy,
a benchmark's question), say nothing about the quality of a page and are passed over.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.paths import display

GOOD = frozenset({"keep", "worth_keeping", "wrongly_dropped"})
BAD = frozenset({"drop", "bad_kept", "rightly_dropped"})
PASSED_OVER = frozenset({"fine", "damaged", "unsure"})
OPERATORS = frozenset({"quality_filter", "spam_rules_filter"})
"""Operators that drop for quality."""


@dataclass
class Labels:
    """Verdicts by page: True for a good one."""

    by_hash: dict[str, bool] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    """Id of a document -> hash of its text, where a line has both."""
    texts: dict[str, str] = field(default_factory=dict)
    """Hash -> text, where the line has it."""

    def is_good(self, document: Mapping[str, Any]) -> bool:
        """True for a document that was judged, by its id or its text, and found good."""
        digest = self.ids.get(document.get("id", "")) or sha256_of(document["text"])
        return self.by_hash.get(digest, False)


def read_labels(paths: Iterable[Path]) -> Labels:
    """The verdicts of .jsonl files. Raises DataError for a line that is none."""
    found = Labels()
    for path in paths:
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise DataError(
                f"{display(path)} cannot be read ({type(error).__name__}): name a file of verdicts "
                "on pages."
            ) from None
        for number, line in enumerate(lines, 1):
            if line.strip():
                _add(found, line, f"{display(path)}, line {number}")
    return found


def _add(found: Labels, line: bytes, where: str) -> None:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    row = row if isinstance(row, dict) else {}
    verdict, text = row.get("verdict"), row.get("text")
    digest = row.get("sha256") or (sha256_of(text) if isinstance(text, str) else None)
    known = GOOD | BAD | PASSED_OVER
    if not isinstance(digest, str) or not isinstance(verdict, str) or verdict not in known:
        raise DataError(
            f"{where}: no verdict on a page. Each line needs `sha256` (or `text`) and `verdict`, "
            f"one of {', '.join(sorted(known))}."
        )
    operator = row.get("operator", "")
    if verdict in PASSED_OVER or (verdict.endswith("_dropped") and operator not in OPERATORS):
        return
    found.by_hash[digest] = verdict in GOOD
    if isinstance(row.get("id"), str):
        found.ids[row["id"]] = digest
    if isinstance(text, str) and not row.get("cut"):
        found.texts[digest] = text


def sha256_of(text: str) -> str:
    """The hash by which verdicts name a text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def labelled_pages(labels: Labels, inputs: Mapping[str, str]) -> list[tuple[str, str, bool]]:
    """The pages that labels are about, in the order of the labels: source, text, True if good.

    The source is empty where the text stands in the label. Files are read up to the last page
    that is looked for; a page that is in none of them is left out.

    Args:
        labels: the verdicts.
        inputs: source -> its normalised file.
    """
    found = {digest: ("", text) for digest, text in labels.texts.items()}
    for source, path in inputs.items():
        if len(found) == len(labels.by_hash):
            break
        with Path(path).open("rb", buffering=1 << 20) as file:
            for digest, text in _matches(labels, file):
                found.setdefault(digest, (source, text))
                if len(found) == len(labels.by_hash):
                    break
    return [(*found[d], good) for d, good in labels.by_hash.items() if d in found]


def _matches(labels: Labels, lines: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Hash and text of each row that a label is about."""
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a blank line; the stage itself says what is damaged
        text = row.get("text")
        if isinstance(text, str):
            digest = labels.ids.get(row.get("id", ""), "") or sha256_of(text)
            if digest in labels.by_hash:
                yield digest, text


def fewer_than(labels: Labels, fewest: int) -> list[str]:
    """Kinds of page, good and bad, of which there are fewer than that, with their number."""
    number_good = sum(labels.by_hash.values())
    counts = {"good": number_good, "bad": len(labels.by_hash) - number_good}
    return [f"{number} {kind}" for kind, number in counts.items() if number < fewest]
