"""What happened to one document on its way from the raw file into the cleaned corpus.

id ─▶ normalize: its text, or why it was set aside
   ─▶ clean: each operator that changed, measured or dropped it; the copy kept in its place;
             the evaluation questions it contains; its text as it went on
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from common.errors import DataError
from common.files import find_document, read_json_lines
from common.paths import display
from corpus.cleaning import document_trace
from tasks.core.manifest import StageResult
from tasks.core.store import finished_stages

EXCERPT = 300
"""Characters of a text that are shown."""


def explain(store: Path, document: str) -> dict[str, Any]:
    """The story of a document, told by the newest corpus of a store that knows it.

    Args:
        document: `<source>/<file>#<line>`, as in every ledger, example and cleaned text.

    Returns:
        JSON values; `tell` puts them into words.

    Raises:
        DataError: there is no store, or no such document in it.
    """
    stages = list(finished_stages(store))
    for result in reversed(stages):
        if result.stage == "normalize" and (came := _came(result, document)):
            later = [
                s
                for s in stages
                if s.stage == "clean" and s.manifest["inputs"]["normalized"] == result.key
            ]
            story: dict[str, Any] = {"id": document, "normalized": came}
            if later and "quarantined" not in came:
                story["cleaned"] = _cleaned(later[-1], document)
            return story
    sources = sorted(
        {path.stem for s in stages if s.stage == "normalize" for path in s.folder.glob("*.jsonl")}
    )
    raise DataError(
        f"{display(store)} knows no document {document!r}. An id is <source>/<file>#<line>, as in "
        f"the `id` of cleaned texts and of dropped-examples.jsonl. Sources: {', '.join(sources)}"
    )


def _came(normalized: StageResult, document: str) -> dict[str, Any] | None:
    """What `normalize` made of the document; None where it has not seen it."""
    source, _, place = document.partition("/")
    at = {"folder": display(normalized.folder)}
    if found := find_document(normalized.folder / f"{source}.jsonl", document):
        return at | {
            "bytes": len(found["text"].encode()),
            "text": found["text"][:EXCERPT],
            "meta": found["meta"],
        }
    aside = normalized.folder / "quarantine" / f"{source}.jsonl"
    for row in read_json_lines(aside) if aside.exists() else ():
        if f"{row['file']}#{row['line']}" in (document, place):
            return at | {"quarantined": row["reason"], "excerpt": row["excerpt"]}
    return None


def _cleaned(cleaned: StageResult, document: str) -> dict[str, Any]:
    """What `clean` did with the document, operator by operator."""
    folder = cleaned.folder
    row = document_trace.find(folder, document)
    if row is None:
        raise DataError(
            f"{display(folder)} has no row for {document}, though it was normalised: run "
            "`steel verify` on the store"
        )
    ledger = json.loads((folder / "ledger.json").read_text("utf-8"))
    operators = [r for r in ledger["rows"] if r["source"] == row["source"]]
    measured_by = {s["statistic"]: s["operator"] for s in ledger["statistics"]}
    sizes = {edit["operator"]: edit["bytes"] for edit in row["edits"]}
    size = row["bytes_in"]
    steps = []
    for operator in operators:
        position, name = operator["position"], operator["operator"]
        values = {s: v for s, v in row["stats"].items() if measured_by.get(s) == name}
        step: dict[str, Any] = {"position": position, "operator": name, "did": "left it alone"}
        if position in sizes:
            step |= {"did": "changed it", "bytes": [size, sizes[position]]}
            size = sizes[position]
        if values:
            step |= {"did": "measured it", "values": values}
        if position == row["dropped_by"]:
            step["did"] = "failed on it" if row["failed"] else "dropped it"
        steps.append(step)
        if position == row["dropped_by"]:
            break
    kept = document_trace.kept_document(folder, document)
    story: dict[str, Any] = {
        "folder": display(folder),
        "recipe": cleaned.manifest["notes"]["recipes"][operators[0]["kind"]],
        "kept": row["dropped_by"] == 0,
        "bytes": [row["bytes_in"], row["bytes_out"]],
        "operators": steps,
        "contains": list(_questions(folder, document)),
    }
    if kept is not None:
        story["text"] = kept["text"][:EXCERPT]
    if row["duplicate_of"]:
        original = document_trace.kept_document(folder, row["duplicate_of"])
        story["duplicate_of"] = {
            "id": row["duplicate_of"],
            "bits_apart": row["stats"].get(document_trace.DISTANCE),
            "text": original["text"][:EXCERPT] if original else "",
        }
    return story


def _questions(folder: Path, document: str) -> Iterator[dict[str, Any]]:
    """Evaluation questions found in the document."""
    path = folder / "contamination.parquet"
    if path.exists():
        yield from pq.read_table(path, filters=[("id", "=", document)]).to_pylist()


def tell(story: dict[str, Any]) -> Iterator[str]:
    """A story in lines for a terminal."""
    came = story["normalized"]
    yield story["id"]
    if "quarantined" in came:
        yield f"  set aside by normalize ({came['folder']}): {came['quarantined']}"
        yield f"  it begins: {came['excerpt']}"
        return
    yield f"  normalized in {came['folder']}, {came['bytes']} bytes:"
    yield from _quoted(came["text"])
    if "cleaned" not in story:
        yield "  not cleaned yet"
        return
    cleaned = story["cleaned"]
    yield f"  cleaned in {cleaned['folder']} with the recipe {cleaned['recipe']}:"
    idle: list[int] = []
    for step in cleaned["operators"]:
        if step["did"] == "left it alone":
            idle.append(step["position"])
            continue
        yield f"    {step['position']:>2} {step['operator']:34} {_did(step)}"
    if idle:
        yield f"    left alone by {len(idle)} other operators"
    for found in cleaned["contains"]:
        yield (
            f"  contains {found['benchmark']} {found['question_id']} "
            f"({100 * found['overlap']:.0f} %): {found['excerpt']}"
        )
    if original := cleaned.get("duplicate_of"):
        bits = original["bits_apart"]
        apart = "" if bits is None else f", {bits:.0f} of 64 bits apart"
        yield f"  kept in its place: {original['id']}{apart}"
        yield from _quoted(original["text"])
    if cleaned["kept"]:
        yield f"  kept, {cleaned['bytes'][1]} bytes:"
        yield from _quoted(cleaned["text"])
    else:
        yield "  dropped"


def _did(step: dict[str, Any]) -> str:
    words = [str(step["did"])]
    if "bytes" in step:
        words.append("{} -> {} bytes".format(*step["bytes"]))
    words += [f"{name} {value:.6g}" for name, value in step.get("values", {}).items()]
    return ", ".join(words)


def _quoted(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        yield f"    | {line}"
