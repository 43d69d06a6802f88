"""`steel explain`: the way of one document from the raw file into the cleaned corpus.

id ─▶ normalize: its text, or the reason why it was set aside
   ─▶ clean: each operator that changed, measured or dropped it; the copy kept in its place;
             the evaluation questions it contains; its cleaned text, and the changes in it
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import DataError
from common.files import find_document, read_json_lines
from common.paths import display
from corpus.cleaning.explain import EXCERPT, explain_document
from tasks.core.manifest import StageResult
from tasks.core.store import finished_stages


def explain(store: Path, document: str) -> dict[str, Any]:
    """Explain what happened to a document, from the newest corpus of a store that has it.

    Args:
        document: `<source>/<file>#<line>`, as in every ledger, example and cleaned text.

    Returns:
        JSON values; `describe` puts them into words.

    Raises:
        DataError: there is no store, or no such document in it.
    """
    stages = list(finished_stages(store))
    for result in reversed(stages):
        if result.stage == "normalize" and (normalized := _normalized(result, document)):
            later = [
                s
                for s in stages
                if s.stage == "clean" and s.manifest["inputs"]["normalized"] == result.key
            ]
            explanation: dict[str, Any] = {"id": document, "normalized": normalized}
            if later and (text := normalized.pop("whole_text", None)) is not None:
                recipes = later[-1].manifest["notes"]["recipes"]
                cleaned = explain_document(later[-1].folder, document, text, recipes)
                explanation["cleaned"] = cleaned
            normalized.pop("whole_text", None)
            return explanation
    sources = sorted(
        {path.stem for s in stages if s.stage == "normalize" for path in s.folder.glob("*.jsonl")}
    )
    raise DataError(
        f"{display(store)} knows no document {document!r}. An id is <source>/<file>#<line>, as in "
        f"the `id` of cleaned texts and of review-sample.jsonl. Sources: {', '.join(sources)}"
    )


def _normalized(normalized: StageResult, document: str) -> dict[str, Any] | None:
    """The document as `normalize` left it; None if it was not in its input."""
    source, _, place = document.partition("/")
    where = {"folder": display(normalized.folder)}
    if found := find_document(normalized.folder / f"{source}.jsonl", document):
        return where | {
            "bytes": len(found["text"].encode()),
            "text": found["text"][:EXCERPT],
            "whole_text": found["text"],
            "meta": found["meta"],
        }
    if first := find_document(normalized.folder / f"{source}.jsonl", f"{document}/1"):
        return where | {"parts": [f"{document}/{n + 1}" for n in range(first["meta"]["parts"])]}
    aside = normalized.folder / "quarantine" / f"{source}.jsonl"
    for row in read_json_lines(aside) if aside.exists() else ():
        if f"{row['file']}#{row['line']}" in (document, place):
            return where | {"quarantined": row["reason"], "excerpt": row["excerpt"]}
    return None


def describe(explanation: dict[str, Any]) -> Iterator[str]:
    """Put an explanation into lines for a terminal."""
    normalized = explanation["normalized"]
    yield explanation["id"]
    if "quarantined" in normalized:
        yield f"  set aside by normalize ({normalized['folder']}): {normalized['quarantined']}"
        yield f"  it begins: {normalized['excerpt']}"
        return
    if "parts" in normalized:
        yield f"  too long: cut by normalize ({normalized['folder']}) into"
        yield from (f"    {part}" for part in normalized["parts"])
        return
    yield f"  normalized in {normalized['folder']}, {normalized['bytes']} bytes:"
    yield from _quoted(normalized["text"])
    if "cleaned" not in explanation:
        yield "  not cleaned yet"
        return
    cleaned = explanation["cleaned"]
    yield f"  cleaned in {cleaned['folder']} with the recipe {cleaned['recipe']}:"
    idle: list[int] = []
    for result in cleaned["operators"]:
        if result["did"] == "left it alone":
            idle.append(result["position"])
            continue
        yield f"    {result['position']:>2} {result['operator']:34} {_did(result)}"
        yield from _quoted(result.get("diff", ""), "       | ")
    if idle:
        yield f"    left alone by {len(idle)} other operators"
    for found in cleaned["contains"]:
        yield (
            f"  contains {found['benchmark']} {found['question_id']} "
            f"({100 * found['overlap']:.0f} %): {found['excerpt']}"
        )
    if original := cleaned.get("duplicate_of"):
        bits, similarity = original["bits_apart"], original["similarity"]
        apart = "" if bits is None else f", {bits:.0f} of 64 bits apart"
        if similarity is not None:
            apart = f", Jaccard similarity {similarity:.2f}"
        yield f"  kept in its place: {original['id']}{apart}"
        yield from _quoted(original["text"])
    if cleaned["kept"]:
        yield f"  kept, {cleaned['bytes'][1]} bytes:"
        yield from _quoted(cleaned["text"])
        if "diff" in cleaned:
            yield "  changes, [-taken out-] and {+put in+}:"
            yield from _quoted(cleaned["diff"])
    else:
        yield "  dropped"


def _did(result: dict[str, Any]) -> str:
    words = [str(result["did"])]
    if "bytes" in result:
        before, after = result["bytes"]
        words.append(f"{before:,} -> {after:,} bytes ({after - before:+,})")
    words += [result["reason"]] if "reason" in result else []
    words += [f"{name} {value:.6g}" for name, value in result.get("values", {}).items()]
    return ", ".join(words)


def _quoted(text: str, margin: str = "    | ") -> Iterator[str]:
    for line in text.split("\n") if text else ():
        yield f"{margin}{line}"
