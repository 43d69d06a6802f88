"""Native formats of corpora, one small function each: a raw record to its text and metadata.

    format(record) -> Document, or raises Rejected with the reason

Nothing is rewritten here beyond line ends: cleaning is the next stage. A text keeps the lines of
its parts apart (title, summary, question, answer), each part on lines of its own.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from corpus.json_items import MalformedJson, parse_json
from corpus.text_fields import kind_of


class Rejected(Exception):
    """A record that holds no document of its format; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """Text and metadata of one record."""

    text: str
    """The text, ends stripped, line ends `\\n`."""
    meta: dict[str, Any] = field(default_factory=dict)
    """JSON values worth keeping: native id, tags, up-votes, repository."""


BLANKS = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and c != "\x85")
"""Characters stripped from both ends of a text. \\x85 is not: it may be the ellipsis of a page in
windows-1252 that was decoded wrongly, which cleaning can still repair."""

RecordFormat = Callable[[Mapping[str, Any]], Document]


def to_document(function: RecordFormat, record: Any) -> Document:
    """Apply a format to a parsed record. Raises Rejected for whatever is not a document of it."""
    if not isinstance(record, Mapping):
        raise Rejected(f"not an object but {kind_of(record)}")
    try:
        document = function(record)
    except Rejected:
        raise
    except Exception as error:  # one record never stops a run of millions
        raise Rejected(f"format failed: {type(error).__name__}: {error}"[:300]) from error
    if not document.text:
        raise Rejected("no text")
    try:
        document.text.encode()
    except UnicodeEncodeError:
        raise Rejected("text holds half a surrogate pair") from None
    return document


def skypile(record: Mapping[str, Any]) -> Document:
    """{"text"}: one web page."""
    return Document(text=_text(record, "text"))


def wikipedia_cn(record: Mapping[str, Any]) -> Document:
    """{"completion", "source"}. Some articles open with their title on a line of its own."""
    return Document(text=_text(record, "completion"))


def wanjuan(record: Mapping[str, Any]) -> Document:
    """Web page {"id", "content"[, "title"]}, or exam item {"q_main", "option_a", …, "std_ans"}."""
    meta = _simple_values(record, "id")
    if "q_main" in record:
        return Document(
            text=_exam_item(record), meta=meta | _simple_values(record, "grade", "major", "q_type")
        )
    title, content = _text(record, "title", optional=True), _text(record, "content")
    if not content:
        raise Rejected("no text")
    # Most pages repeat their title as a heading of the content.
    repeated = title and content.lstrip("# ").startswith(title)
    return Document(text=content if repeated else _lines(title, content), meta=meta)


def _exam_item(record: Mapping[str, Any]) -> str:
    question = _text(record, "q_main")
    if not question:
        raise Rejected("exam item without a question")
    options = [
        f"{letter}. {option}"
        for letter in "ABCDEFG"
        if (option := _text(record, f"option_{letter.lower()}", optional=True))
    ]
    answer = _text(record, "std_ans", optional=True)
    explanation = _text(record, "answer_detail", optional=True)
    return _lines(
        question,
        *options,
        answer and f"答案：{answer}",
        explanation and explanation != answer and f"解析：{explanation}",
    )


def baidu_baike(record: Mapping[str, Any]) -> Document:
    """{"title", "summary", "sections": [{"title", "content"}], "tags", "url"}.

    Most summaries are null: the sections then hold all the text (PAPER.md, cleaning defects).
    """
    title = _text(record, "title")
    summary = _text(record, "summary", optional=True)
    sections = []
    for section in _objects(record, "sections"):
        content = _text(section, "content", optional=True)
        if content:
            sections.append(_lines(_text(section, "title", optional=True), content))
    if not summary and not sections:
        raise Rejected("a title without any text")
    tags = [tag for tag in _list(record, "tags") if isinstance(tag, str)]
    meta = _simple_values(record, "url") | {"title": title, "tags": tags}
    return Document(text=_lines(title, summary, *sections), meta=meta)


def baidu_qa(record: Mapping[str, Any]) -> Document:
    """{"qid", "category", "title", "desc", "answer"}. `desc` continues or repeats the question."""
    title, desc = _text(record, "title"), _text(record, "desc", optional=True)
    answer = _nonempty_text(record, "answer")
    question = _join_question(title, desc)
    if not question:
        raise Rejected("no question")
    return Document(
        text=_dialogue([(question, answer)]), meta=_simple_values(record, "qid", "category")
    )


def _join_question(title: str, desc: str) -> str:
    """A title and its description without saying the same twice."""
    if not desc or desc in title:
        return title
    # Long questions are cut into the title and given whole in the description.
    return desc if title.rstrip("?？ ") in desc else _lines(title, desc)


def zhihu(record: Mapping[str, Any]) -> Document:
    """{"INSTRUCTION", "RESPONSE", "SOURCE", "METADATA"}; METADATA is JSON with "upvotes"."""
    question, answer = _nonempty_text(record, "INSTRUCTION"), _nonempty_text(record, "RESPONSE")
    metadata = record.get("METADATA") or "{}"
    try:
        parsed = parse_json(metadata) if isinstance(metadata, str) else metadata
    except MalformedJson as malformed:
        raise Rejected(f"`METADATA`: {malformed}") from None
    if not isinstance(parsed, Mapping):
        raise Rejected(f"`METADATA` is {kind_of(parsed)}")
    meta = {"upvotes": parse_upvotes(parsed.get("upvotes"))} | _simple_values(parsed, "url")
    return Document(text=_dialogue([(question, answer)]), meta=meta)


_UPVOTES = re.compile(r"([\d.,]+)\s*([万亿kK]?)")
MOST_UPVOTES = 1e12
"""More up-votes than this are an error in the data."""

_UNITS = {"": 1, "k": 1_000, "K": 1_000, "万": 10_000, "亿": 100_000_000}


def parse_upvotes(value: Any) -> int:
    """Up-votes as Zhihu shows them: `赞同 1.2 万` is 12,000; a bare `赞同` is 0."""
    if isinstance(value, bool):
        return 0
    if isinstance(value, int | float):
        return max(0, int(value)) if abs(value) < MOST_UPVOTES else 0
    match = _UPVOTES.search(value) if isinstance(value, str) else None
    if not match:
        return 0
    try:
        votes = float(match[1].replace(",", "")) * _UNITS[match[2]]
    except ValueError:
        return 0
    return round(votes) if votes < MOST_UPVOTES else 0


def belle_instruction(record: Mapping[str, Any]) -> Document:
    """{"instruction", "input", "output"}. `input` is the material the instruction works on."""
    instruction, material = (
        _nonempty_text(record, "instruction"),
        _text(record, "input", optional=True),
    )
    output = _nonempty_text(record, "output")
    return Document(text=_dialogue([(_lines(instruction, material), output)]))


def belle_conversations(record: Mapping[str, Any]) -> Document:
    """{"conversations": [{"from": "human" | "assistant", "value"}], "id"}, turns in order."""
    turns: list[tuple[str, str]] = []
    for turn in _objects(record, "conversations"):
        speaker = turn.get("from")
        if speaker not in ("human", "assistant"):
            raise Rejected(f"a turn of {str(speaker)[:40]!r}")
        turns.append((speaker, _text(turn, "value")))
    return Document(
        text=_dialogue(_question_answer_pairs(turns)), meta=_simple_values(record, "id")
    )


def moss(record: Mapping[str, Any]) -> Document:
    """Three published forms of MOSS-003, all without the control tags in the result.

    {"conversation": [{"human", "assistant"}]}, {"chat": {"turn_1": {"Human", "MOSS", …}}}, and
    {"plain_text": "[Human]: …<eoh> [MOSS]: …<eoa>"}. Inner thoughts and commands are left out.
    """
    meta = _simple_values(record, "conversation_id", "category")
    turns: list[tuple[str, str]] = []
    if "conversation" in record:
        for turn in _objects(record, "conversation"):
            turns += [("human", _text(turn, "human")), ("assistant", _text(turn, "assistant"))]
    elif "chat" in record:
        chat = record["chat"]
        if not isinstance(chat, Mapping):
            raise Rejected(f"`chat` is {kind_of(chat)}")
        # turn_10 must come after turn_9, not after turn_1.
        for name in sorted(chat, key=lambda n: int(re.sub(r"\D", "", str(n)) or 0)):
            turn = chat[name]
            if not isinstance(turn, Mapping):
                raise Rejected(f"`chat` holds {kind_of(turn)}")
            turns += [("human", _text(turn, "Human")), ("assistant", _text(turn, "MOSS"))]
    elif "plain_text" in record:
        parts = re.split(r"\[(Human|MOSS)\]:", _text(record, "plain_text"))
        speakers = {"Human": "human", "MOSS": "assistant"}
        turns = [
            (speakers[name], said) for name, said in zip(parts[1::2], parts[2::2], strict=True)
        ]
    else:
        raise Rejected("none of `conversation`, `chat`, `plain_text`")
    untagged = [(speaker, _MOSS_TAG.sub("", said).strip()) for speaker, said in turns]
    return Document(text=_dialogue(_question_answer_pairs(untagged)), meta=meta)


_MOSS_TAG = re.compile(
    r"<\|(?:Human|MOSS|Inner Thoughts|Commands|Results)\|>:?|<eo[a-z]>"
    # Citations of search results that are not part of the data.
    r"|<sup>(?:[\s,]*<\|\d+\|>)*[\s,]*</sup>|<\|\d+\|>"
)


def firefly(record: Mapping[str, Any]) -> Document:
    """{"kind", "input", "target"}."""
    question, answer = _nonempty_text(record, "input"), _nonempty_text(record, "target")
    return Document(text=_dialogue([(question, answer)]), meta=_simple_values(record, "kind"))


_STARCODER_TAGS = re.compile(r"(?:<(reponame|filename|gh_stars)>([^\n<]*))+\n?")
_STARCODER_TAG = re.compile(r"<(reponame|filename|gh_stars)>([^\n<]*)")


def starcoder(record: Mapping[str, Any]) -> Document:
    """{"max_stars_repo_path", "max_stars_repo_name", "max_stars_count", "id", "content"}.

    About half the contents open with training tags (`<reponame>…<filename>…<gh_stars>…`), which
    are no part of the file.
    """
    content = record.get("content")
    if not isinstance(content, str):
        raise Rejected(f"`content` is {kind_of(content)}")
    content = content.removeprefix("\ufeff")
    meta = _simple_values(
        record, "max_stars_repo_name", "max_stars_repo_path", "max_stars_count", "id"
    )
    if opening := _STARCODER_TAGS.match(content):
        meta |= dict(_STARCODER_TAG.findall(opening.group()))
        content = content[opening.end() :]
    # Only blank lines are stripped: the first line's indentation belongs to the code.
    content = re.sub(r"\A(?:[ \t]*\n)+", "", _line_ends(content)).rstrip()
    return Document(text=content, meta=meta)


_HUMANS, _MODELS = ("human", "user", "prompter"), ("gpt", "assistant", "bot", "model", "chatgpt")


def conversation(turns: Any) -> str:
    """Turns {"from", "value"} or {"role", "content"} as questions and answers. Raises Rejected."""
    said: list[tuple[str, str]] = []
    system = ""
    for turn in _objects({"turns": turns}, "turns"):
        speaker = str(turn.get("from") or turn.get("role"))
        text = _text(turn, "value" if "value" in turn else "content")
        if speaker.lower() == "system" and not said:
            system = text
        elif speaker.lower() in (*_HUMANS, *_MODELS):
            said.append(("human" if speaker.lower() in _HUMANS else "assistant", text))
        else:
            raise Rejected(f"a turn of {speaker[:40]!r}")
    return _lines(system, _dialogue(_question_answer_pairs(said)))


def plain(record: Mapping[str, Any]) -> Document:
    """{"text"[, "title", …]}: a file, chapter, line, row or feed's entry (formats/readers.py).

    A chapter says its heading and the title of its book, and the line on which it begins.
    """
    title, text = _text(record, "title", optional=True), _text(record, "text")
    meta = {"title": title} if title else {}
    meta |= _simple_values(record, "id", "url", "book", "chapter", "line", "lost_bytes")
    if "\n" in text:  # of several lines the first may be indented: code, an outline
        before = _line_ends(record["text"]).partition(text)[0]
        text = before[len(before.rstrip(" \t")) :] + text
    return Document(text=_lines(title, text), meta=meta)


RECORD_FORMATS: dict[str, RecordFormat] = {
    function.__name__: function
    for function in (
        skypile,
        wikipedia_cn,
        wanjuan,
        baidu_baike,
        baidu_qa,
        zhihu,
        belle_instruction,
        belle_conversations,
        moss,
        firefly,
        starcoder,
        plain,
    )
}
"""Every native format by the name recipes use."""


def _question_answer_pairs(turns: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(question, answer) pairs from turns in order; several turns of one speaker are joined.

    An answer before the first question and a question without an answer are left out.
    """
    joined: list[tuple[str, str]] = []
    for speaker, said in turns:
        if not said:
            continue
        if joined and joined[-1][0] == speaker:
            joined[-1] = (speaker, _lines(joined[-1][1], said))
        else:
            joined.append((speaker, said))
    if joined and joined[0][0] == "assistant":
        joined = joined[1:]
    questions, answers = joined[::2], joined[1::2]
    return [(q[1], a[1]) for q, a in zip(questions, answers, strict=False)]


def _dialogue(pairs: list[tuple[str, str]]) -> str:
    if not pairs:
        raise Rejected("no question with an answer")
    return _lines(*(f"问：{question}\n答：{answer}" for question, answer in pairs))


def _lines(*parts: str | bool) -> str:
    """Parts on lines of their own, without the empty ones."""
    return "\n".join(part for part in parts if isinstance(part, str) and part)


def _text(record: Mapping[str, Any], key: str, *, optional: bool = False) -> str:
    """The string under a key, stripped. Null and absence mean empty where `optional`."""
    value = record.get(key)
    if isinstance(value, str):
        return _line_ends(value).strip(BLANKS)
    if value is None and optional:
        return ""
    raise Rejected(f"`{key}` is missing" if key not in record else f"`{key}` is {kind_of(value)}")


def _nonempty_text(record: Mapping[str, Any], key: str) -> str:
    text = _text(record, key)
    if not text:
        raise Rejected(f"`{key}` is empty")
    return text


def _line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _list(record: Mapping[str, Any], key: str) -> list[Any]:
    value = record.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Rejected(f"`{key}` is {kind_of(value)}")
    return value


def _objects(record: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    for value in _list(record, key):
        if not isinstance(value, Mapping):
            raise Rejected(f"`{key}` holds {kind_of(value)}")
        yield value


def _simple_values(record: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Simple values under keys, where they are there; NaN and infinity are none in JSON."""
    return {
        key: value
        for key in keys
        if isinstance(value := record.get(key), str | int | float | bool)
        and (not isinstance(value, float) or math.isfinite(value))
    }
