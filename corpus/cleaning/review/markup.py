"""A document of the sample as HTML: the text before and after side by side, changes marked.

Texts of a corpus are hostile: everything goes through `html.escape`, and no script sees a text.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from corpus.cleaning.review.word_diff import Folded, Piece, fold, word_diff

CONTEXT = 160
"""Characters shown around a change; longer stretches without one are folded."""
SHOWN = 3_000
"""Characters of a text without changes that are shown before the rest is folded away."""

DONE = {"changed": "changed by", "dropped": "dropped by", "kept": "kept"}


def document_html(example: Mapping[str, Any]) -> str:
    """The heading, what was measured, and the text of a document of the sample."""
    kind, operator = example["kind"], example["operator"]
    did = DONE[kind] + ("" if kind == "kept" else f" <b>{escape(operator)}</b>")
    parts = [
        f'<header><span class="kind {kind}">{did}</span> '
        f"<span>{escape(example['family'])}</span> <code>{escape(example['id'])}</code></header>"
    ]
    notes = list(_notes(example))
    if notes:
        parts.append(f'<p class="notes">{" · ".join(notes)}</p>')
    if kind == "changed":
        pieces = word_diff(example["before"], example["after"])
        parts.append(
            _columns(("before", _side(pieces, "removed")), ("after", _side(pieces, "added")))
        )
    elif "kept_instead" in example:
        pieces = word_diff(example["before"], example["kept_instead"])
        kept = f"kept in its place: {example['duplicate_of']}"
        parts.append(
            _columns(("dropped", _side(pieces, "removed")), (kept, _side(pieces, "added")))
        )
    else:
        parts.append(f'<div class="text" dir="auto">{_whole(example["before"])}</div>')
    return "\n".join(parts)


def _notes(example: Mapping[str, Any]) -> Iterator[str]:
    before = len(example["before"].encode("utf-8", "replace"))
    if "after" in example:
        after = len(example["after"].encode("utf-8", "replace"))
        yield f"{before:,} → {after:,} bytes ({after - before:+,})"
    else:
        yield f"{before:,} bytes"
    if example.get("failed"):
        yield "the operator failed on it"
    if example.get("cut"):
        yield "only the beginning is shown"
    for name, value in (example.get("measured") or {}).items():
        if isinstance(value, int | float | str):
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            yield f"{escape(str(name))} {escape(shown[:200])}"


def _columns(left: tuple[str, str], right: tuple[str, str]) -> str:
    cells = "".join(
        f'<section><h4>{escape(title)}</h4><div class="text" dir="auto">{text}</div></section>'
        for title, text in (left, right)
    )
    return f'<div class="columns">{cells}</div>'


def _side(pieces: Sequence[Piece], changed: str) -> str:
    """One text of two, with what only it has marked."""
    tag = "del" if changed == "removed" else "ins"
    parts = []
    for piece in fold(pieces, CONTEXT):
        if isinstance(piece, Folded):
            parts.append(f'<span class="fold">{piece.characters:,} equal characters</span>')
        elif piece.op == "equal":
            parts.append(visible(piece.text))
        elif piece.op == changed:
            parts.append(f"<{tag}>{visible(piece.text, marked=True)}</{tag}>")
    return "".join(parts)


def _whole(text: str) -> str:
    """A text without changes; what is behind its beginning opens at a click."""
    head, tail = text[:SHOWN], text[SHOWN:]
    if not tail:
        return visible(head)
    more = f"<summary>{len(tail):,} more characters</summary>{visible(tail)}"
    return f"{visible(head)}<details>{more}</details>"


def visible(text: str, *, marked: bool = False) -> str:
    """A text as HTML; characters that are not seen are shown by their code point.

    Args:
        marked: blanks and line breaks are shown too: in what was taken out or put in, they may be
            all there is.
    """
    parts = []
    for character in text:
        if marked and character in "\n\t 　":
            parts.append(f"<i>{MARKS[character]}</i>" + ("\n" if character == "\n" else ""))
        elif character.isprintable() or character in "\n\t\u3000":
            parts.append(escape(character))
        else:
            parts.append(f"<i>U+{ord(character):04X}</i>")
    return "".join(parts)


MARKS = {"\n": "⏎", "\t": "⇥", " ": "·", "\u3000": "□"}
