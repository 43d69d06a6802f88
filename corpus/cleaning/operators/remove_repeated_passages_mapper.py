"""Passages that a web page states twice, word for word, taken out the second time.

Pages repeat their lead as a summary, and spun pages paste paragraphs. Data-Juicer's
`remove_repeat_sentences_mapper` compares sentences without their punctuation and takes out each one
that stood before, anywhere: `a>0` and `a<0` are equal to it, a corrected function loses its first
line, a song its refrain, the second of two job offers its conditions. Here a passage goes

    sentences  S1 S2 S3 │ … │ S1 S2 S3 S4      a run of whole sentences that stood before in this
                               └──────┘        order, of MIN_BYTES together, exactly equal

and only from prose: not from fenced or indented code, formulas, tables, lists, headings, short
lines (verse, addresses), quotations, or any text in which lines have speakers or labels. All else
stays as it is, to the byte.
"""

import re
from collections import Counter
from dataclasses import dataclass

from data_juicer.ops.base_op import OPERATORS, Mapper

MIN_BYTES = 150
"""Fifty Chinese characters. Shorter exact repeats are headings, conditions, and refrains."""
MIN_ALONE_BYTES = 240
"""A passage of one sentence: reports of studies, contracts and tables say one twice with reason."""
MIN_SENTENCE_BYTES = 60
"""The longest sentence of a passage has so many at least: a run of exclamations is no passage."""
MIN_LINE = 40
"""Characters; shorter lines are no prose."""
LABELS = 3
"""Lines with one and the same label from which on a text is a dialogue or a list of data."""

MIN_PIECE = 12
"""Characters between two ends of sentences that count when repeats are looked for."""

FENCE = re.compile(r"```|^\s*~~~")
FORMULA = re.compile(r"\$|\\[(\[]|\\(?:begin|end|frac|sum|int|left|right|mathbf|boldsymbol)\b")
ENVIRONMENT = re.compile(r"\\(begin|end)\{|(\$\$)|\\(\[|\])")
ITEM = re.compile(
    r"\s*(?:[-*+•·●■◆▲▼◇○※☆★►▶>#|]|(?:[（(【\[]?(?:[0-9０-９]{1,3}|[一二三四五六七八九十百]{1,4}|[A-Za-z])"
    r"[)）】\].、．:：])|第[0-9一二三四五六七八九十百零]{1,5}[条章节款项题]|[①-⑳⑴-⒇])"
)
LABEL = re.compile(r"\s*\**([^\s：:，。“”\"0-9]{1,12}) ?[0-9]{0,3}\**\s?[：:]")
SPEAKERS = frozenset(
    (
        "问",
        "答",
        "問",
        "Q",
        "A",
        "甲",
        "乙",
        "用户",
        "助手",
        "客服",
        "记者",
        "記者",
        "主持人",
        "网友",
        "老师",
        "学生",
        "医生",
        "患者",
        "律师",
        "User",
        "Assistant",
        "Human",
        "System",
        "user",
        "assistant",
        "human",
        "system",
    )
)
"""Labels of which two make a dialogue."""
ROW = re.compile(r"\t|\|.*\|")
SENTENCE = re.compile(
    r".+?(?:[。！？!?…]+[”’」』）)]*|[a-z0-9)%\"”]{2}[.!?]+[\"”’)]*(?=\s+[A-Z\"“(])|$)\s*", re.S
)
ENDS = ("。", "！", "？", "!", "?", "…", ".", "”", "’", "」", "』", "）", ")", '"')
PAIRS = (
    ("“", "”"),
    ("「", "」"),
    ("『", "』"),
    ("（", "）"),
    ("(", ")"),
    ("《", "》"),
    ("【", "】"),
    ("[", "]"),
)
QUOTES = ("“", "「", "『", "‘", '"', "《")


@dataclass(frozen=True, slots=True)
class _Sentence:
    text: str
    """Stripped."""
    start: int
    end: int
    """Its place in the document, blanks behind it included."""
    line: int
    """Number of its line among the lines of prose; lines that are none part two numbers."""


@OPERATORS.register_module("remove_repeated_passages_mapper")
class RemoveRepeatedPassagesMapper(Mapper):
    """Removes passages of prose that stood in the same text before, word for word."""

    _batched_op = True

    def __init__(self, min_bytes: int = MIN_BYTES, *args: object, **kwargs: object) -> None:
        """Set the size of a passage.

        :param min_bytes: bytes of a repeated passage, at least
        """
        super().__init__(*args, **kwargs)
        self.min_bytes = min_bytes

    def without_repeats(self, text: str) -> str:
        """One text without its repeated passages."""
        if len(text) < 2 * MIN_LINE or not _may_repeat(text):
            return text
        lines = text.split("\n")
        labels = Counter(m[1] for line in lines if (m := LABEL.match(line)))
        speakers = sum(labels[name] for name in SPEAKERS)
        if speakers > 1 or max(labels.values(), default=0) >= LABELS:
            return text
        cuts = self._repeats(_sentences(lines), text)
        return _cut(text, cuts) if cuts else text

    def _repeats(self, sentences: list[_Sentence], text: str) -> list[tuple[int, int]]:
        """Start and end of each passage to remove."""
        first: dict[str, int] = {}
        cuts: list[tuple[int, int]] = []
        run: list[_Sentence] = []
        source = -1  # the earlier sentence that the last of the run equals
        for i, sentence in enumerate(sentences):
            follows = bool(run) and sentence.line - run[-1].line <= 1
            if follows and source + 1 < i and sentences[source + 1].text == sentence.text:
                source += 1
                run.append(sentence)
            else:
                if run and self._is_passage(run, text):
                    cuts.append((run[0].start, run[-1].end))
                run = []
                if sentence.text in first:
                    source = first[sentence.text]
                    run = [sentence]
            first.setdefault(sentence.text, i)
        if run and self._is_passage(run, text):
            cuts.append((run[0].start, run[-1].end))
        return cuts

    def _is_passage(self, run: list[_Sentence], text: str) -> bool:
        passage = text[run[0].start : run[-1].end]
        least = self.min_bytes if len(run) > 1 else max(self.min_bytes, MIN_ALONE_BYTES)
        if len(passage.strip().encode()) < least:
            return False
        longest = max((s.text for s in run), key=len)
        if len(longest.encode()) < MIN_SENTENCE_BYTES or not run[-1].text.endswith(ENDS):
            return False
        if passage.startswith(QUOTES) or text[: run[0].start].rstrip(" ").endswith(
            (*QUOTES, "：", ":")
        ):
            return False
        if sum(map(str.isalpha, passage)) < 0.6 * len(passage):
            return False
        return all(passage.count(a) == passage.count(b) for a, b in PAIRS)

    def process_batched(self, samples: dict[str, list[str]]) -> dict[str, list[str]]:
        """Clean every text of a batch."""
        samples[self.text_key] = [self.without_repeats(text) for text in samples[self.text_key]]
        return samples


def _may_repeat(text: str) -> bool:
    """False if no two of a text's pieces between ends of sentences agree: most texts."""
    for end in ("。", "！", "？", "…", "!", "?", ". "):
        text = text.replace(end, "\n")
    pieces = [piece for piece in text.split("\n") if len(piece) >= MIN_PIECE]
    return len({piece.strip() for piece in pieces}) < len(pieces)


def _sentences(lines: list[str]) -> list[_Sentence]:
    """The sentences of all lines of prose."""
    found: list[_Sentence] = []
    start, number = 0, 0
    fenced = environment = False
    for line in lines:
        fence = FENCE.search(line) is not None
        marks = ENVIRONMENT.findall(line)
        if _is_prose(line) and not (fenced or fence or environment or marks):
            number += 1
            for match in SENTENCE.finditer(line):
                text = match[0].strip()
                if text:
                    found.append(
                        _Sentence(text, start + match.start(), start + match.end(), number)
                    )
        elif line.strip():
            number += 2
        if fence and line.count("```") != 2:
            fenced = not fenced
        for word, dollars, bracket in marks:
            environment = not environment if dollars else word == "begin" or bracket == "["
        start += len(line) + 1
    return found


def _is_prose(line: str) -> bool:
    return (
        len(line) >= MIN_LINE
        and not line.startswith(("\t", "    "))
        and not ITEM.match(line)
        and not FORMULA.search(line)
        and not ROW.search(line)
    )


def _cut(text: str, cuts: list[tuple[int, int]]) -> str:
    """A text without the ranges, and without lines of which nothing is left."""
    pieces, at = [], 0
    for start, end in cuts:
        opens = start == 0 or text[start - 1] == "\n"
        if opens and text[end : end + 1] == "\n":
            end += 1
        elif opens and end == len(text) and start:
            start -= 1
        pieces.append(text[at:start])
        at = end
    return "".join(pieces) + text[at:]
