"""Items of a JSON array of any size, read from a stream of bytes piece by piece.

    [ {…} , {…} , {"a": … , {…} ]
      item  item  damaged   item

Each item is cut out by its brackets and parsed on its own, so a damaged item costs no other. Behind
one, reading goes on where a line begins like those of the items before it or, in an array without
line breaks, at the next object with the first key of those before it. Memory is bounded by
`MAX_RECORD`.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orjson

MAX_RECORD = 64 * 1024**2
"""Longest record, in bytes, that is taken for one."""

MAX_DEPTH = 200
"""Lists and objects inside each other, at most: what walks through them is recursive."""

CHUNK = 1 << 20
"""Bytes read at a time."""

NOT_UTF8 = "not UTF-8"
"""Reason for an item that would be JSON but for bytes that are not UTF-8."""

REPEATED = "a key is given twice"
"""Beginning of the reason for an object that has a key twice."""

_START_BYTES = 1024
"""More bytes than the beginning of an item takes, from its line end to its first key."""


class Lookahead:
    """A stream of bytes with a buffer to look ahead in."""

    def __init__(self, read: Callable[[int], bytes | None], chunk: int = 0) -> None:
        """
        Args:
            read: gives up to so many bytes; none at the end.
            chunk: bytes to read at a time; `CHUNK` unless given.
        """
        self._read, self._chunk = read, chunk or CHUNK
        self.buffer = bytearray()
        """Bytes that were read and not yet dropped."""
        self.start = 0
        """Offset of the buffer's first byte in the stream."""
        self.ended = False
        """True once the stream has ended."""

    def grow(self) -> bool:
        """Read some more into the buffer. Returns False at the end of the stream."""
        data = b"" if self.ended else self._read(self._chunk)
        self.ended = not data
        self.buffer += data or b""
        return not self.ended

    def drop(self, count: int) -> None:
        """Remove bytes from the front of the buffer."""
        del self.buffer[:count]
        self.start += count


class Item(NamedTuple):
    """One item of an array, or a damaged stretch between two."""

    value: Any
    """The parsed item; None where it is damaged."""
    reason: str
    """Defect in a few words; empty for an item without one."""
    data: bytes
    """Its bytes as they stand in the stream; of a damaged stretch longer than `MAX_RECORD` only
    the beginning."""
    offset: int
    """Position of its first byte in the stream."""

    @property
    def excerpt(self) -> str:
        """Its beginning as text, with replacement characters for what is not UTF-8."""
        return self.data[:200].decode("utf-8", "replace").strip()


Loads = Callable[[bytes], Any]
"""A parser of JSON in UTF-8, which raises ValueError."""


class MalformedJson(ValueError):
    """Text that is no JSON; the message says why in a few words."""


class RepeatedKey(MalformedJson):
    """An object that has a key twice; the message names it."""


_STRING_OR_COMMA = re.compile(r'("(?:[^"\\]|\\.)*+")|,(?=\s*[}\]])', re.DOTALL)


def parse_almost_json(text: str) -> Any:
    """Parse JSON as people write it by hand: with raw tabs in strings, a comma behind the value or
    behind the last of its parts. Raises MalformedJson."""

    def mended(found: re.Match[str]) -> str:
        return found[1].replace("\t", "\\t") if found[1] else ""

    return parse_json(_STRING_OR_COMMA.sub(mended, text.strip().removesuffix(",")))


def parse_json(text: str) -> Any:
    """Parse JSON as Python's own parser does, with NaN and long integers.

    Raises MalformedJson, also where an object has a key twice, of which parsers keep the last.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RepeatedKey:
        raise
    except json.JSONDecodeError as error:
        raise MalformedJson(f"malformed JSON: {error.msg}") from None
    except RecursionError:
        raise MalformedJson("malformed JSON: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise MalformedJson(f"malformed JSON: {error}"[:200]) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
        raise MalformedJson("malformed JSON: nested too deeply")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise RepeatedKey(f"{REPEATED}: {twice[:40]!r}")
    return built


def _is_deep(value: Any) -> bool:
    """Return True for a value that is nested deeper than `MAX_DEPTH`."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


def exact_loads(data: bytes) -> Any:
    """Parse JSON with every digit of integers beyond 64 bits, which orjson turns into floats."""
    return parse_json(data.decode())


def fast_loads(data: bytes) -> Any:
    """Parse JSON by orjson, and again where it may have hidden that a key is given twice."""
    value = orjson.loads(data)
    if isinstance(value, dict):
        keys: Counter[str] = Counter()
        waiting: list[Any] = [value]
        while waiting:
            inner = waiting.pop()
            if isinstance(inner, dict):
                keys.update(inner.keys())
                inner = inner.values()
            waiting += [part for part in inner if isinstance(part, dict | list)]
        if any(data.count(b'"%s"' % key.encode()) > count for key, count in keys.items()):
            return parse_json(data.decode())
    return value


_IN_STRING = re.compile(rb'["\\\n]')
_OUTSIDE = re.compile(rb'["{}\[\]]')
_SEPARATORS = re.compile(rb"[ \t\r\n,\]]*")
_SCALAR_END = re.compile(rb"[,\]\s]")
_ANY_START = re.compile(rb"\n\s*(?=\{)|(?<=\})\s*,\s*(?=\{)")
_FIRST_KEY = re.compile(rb'\{\s*("(?:[^"\\]|\\.)*")\s*:')


def array_items(
    stream: Lookahead, loads: Loads = fast_loads, *, to_bracket: bool = False
) -> Iterator[Item]:
    """Items of the array that a stream holds, in order; one for each damaged stretch, too.

    to_bracket: end where the array does; otherwise what stands behind it is items, too.
    """
    while b"[" not in stream.buffer and stream.grow():
        pass
    stream.drop(stream.buffer.find(b"[") + 1)
    next_start = _ANY_START
    gap = _skip_separators(stream)
    while stream.buffer and not (to_bracket and b"]" in gap):
        offset, end = stream.start, _item_end(stream)
        value, reason = None, "malformed JSON: item does not end"
        if end is not None:
            value, reason = _parse_item(bytes(stream.buffer[:end]), loads)
        if end is None or not (reason in ("", NOT_UTF8) or reason.startswith(REPEATED)):
            data = _cut_damaged(stream, next_start)
        else:
            data = bytes(stream.buffer[:end])
            stream.drop(end)
            if not reason and next_start is _ANY_START:
                next_start = _start_like(gap, data)
        yield Item(value, reason, data, offset)
        gap = _skip_separators(stream)


def _parse_item(data: bytes, loads: Loads) -> tuple[Any, str]:
    """The value and the reason of an item."""
    try:
        return loads(data), ""
    except ValueError:
        pass
    try:
        # Bytes that are not UTF-8 become lone surrogates, to tell them from malformed JSON.
        value = parse_json(text := data.decode("utf-8", "surrogateescape"))
    except MalformedJson as malformed:
        return None, str(malformed)
    return (value, "") if text.isascii() or _is_utf8(data) else (None, NOT_UTF8)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _skip_separators(stream: Lookahead) -> bytes:
    """Drop what stands between two items, and return it."""
    skipped = b""
    while True:
        match = _SEPARATORS.match(stream.buffer)
        assert match is not None  # it matches nothing at all, too
        skipped += match.group()
        stream.drop(match.end())
        if stream.buffer or not stream.grow():
            return skipped


def _item_end(stream: Lookahead) -> int | None:
    """Length of the item at the front of the buffer; None when it does not end, or is too long."""
    at, depth, in_string = 0, 0, False
    is_scalar = stream.buffer[0] not in b'{["'
    while True:
        pattern = _SCALAR_END if is_scalar else _IN_STRING if in_string else _OUTSIDE
        mark = pattern.search(stream.buffer, at)
        if mark is None:
            at = max(at, len(stream.buffer))
            if len(stream.buffer) > MAX_RECORD or not stream.grow():
                return len(stream.buffer) if is_scalar else None
            continue
        char, at = mark.group(), mark.end()
        if is_scalar:
            return mark.start()
        if in_string:
            if char == b"\n":  # no string goes over a line end
                return None
            at += char == b"\\"
            in_string = char == b"\\"
        elif char == b'"':
            in_string = True
        else:
            depth += 1 if char in b"{[" else -1
        if depth <= 0 and not in_string:
            return at


def _cut_damaged(stream: Lookahead, next_start: re.Pattern[bytes]) -> bytes:
    """Drop everything up to where the next item begins, and return it without separators."""
    at, beginning = 1, b""
    while not (found := next_start.search(stream.buffer, at)):
        at = max(at, len(stream.buffer) - _START_BYTES)  # a start may be cut in two
        if not stream.grow():
            break
        if len(stream.buffer) > MAX_RECORD:
            beginning = beginning or bytes(stream.buffer[:_START_BYTES])
            stream.drop(at)
            at = 0
    end = found.start() if found else len(stream.buffer)
    data = beginning or bytes(stream.buffer[:end])
    stream.drop(end)
    return data.rstrip(b", \t\r\n")


def _start_like(gap: bytes, item: bytes) -> re.Pattern[bytes]:
    """Pattern of the beginnings of items, given what stands before one and the item itself."""
    _, newline, indent = gap.rpartition(b"\n")
    if newline and item.startswith(b"{"):
        # What is nested stands deeper.
        return re.compile(rb"\n[ \t]{0,%d}(?=\{)" % len(indent))
    key = _FIRST_KEY.match(item)
    return re.compile(rb"(?=\{\s*%s\s*:)" % re.escape(key[1])) if key else _ANY_START
