"""Lines that many documents have in common: menus, footers, notices, calls to share.

    document ─▶ hash of each line that may go ─▶ documents that have it, counted
    document ─▶ without the lines that stand in `min_documents` documents or more,
                 where they are boilerplate

A line that many documents have is not boilerplate for that: poems, articles of a law, answers and
table rows are repeated, too. So a repeated line goes where

- it says itself what it is (boilerplate.py: all rights reserved, share this page, follow us), or
- it is next to one that does, with nothing but repeated lines between, or
- it is long, and nothing but such lines stands between it and the text's start or end,

the latter two only while they are at most `max_share` of the text. Fenced and indented code,
formulas, tables, verses, options and answers of questions and articles of law never go.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import xxhash
from data_juicer.ops.base_op import OPERATORS, Deduplicator

from corpus.cleaning.deduplication.boilerplate import says_so

HASHES = "__dj__line_hashes"
"""Column of the hashes of a document's lines, each once; signed 64-bit numbers."""

FENCE = re.compile(r"\s*(?:```|~~~)")
DISPLAY = re.compile(r"\$\$|\\\[|\\\]|\\(?:begin|end)\{")
"""Marks between which formulas stand."""
KEPT = re.compile(
    r"\t| {4}|.*\|.*\||.*\t|.*\$.+\$|.*\\[a-zA-Z]|"  # code, tables, formulas
    r".*(?:[{}]|;\s*$|\w\s*(?:==|=>|::)\s*\w|[\w)]->\w|[A-Za-z_]\w{0,40}\([^()]{0,80}\)|</?[A-Za-z])|"
    r"\s*(?:#include|import |from \w+ import )|"
    r"\W*(?:[（(]?[A-Ha-h][)）]?\s*[.．、:：)）]|(?:参考)?答案|解析|【.{0,6}[答解].{0,6}】)|"
    r"\W*第[零〇一二三四五六七八九十百千\d]+[条章节款项回]|"
    r"\s*(?:[\u4e00-\u9fff]{4,7}[，。；！？、,;!?]\s*){1,8}$"  # verses
)
"""Lines that are repeated for what they say."""
WORDS = re.compile(r"\w+")
EDGES = re.compile(r"\A[\W_]+|[\W_]+\Z")

OTHER, BLANK, REPEATED = "other", "blank", "repeated"
"""A line that stays; one without words, which separates others; one that many documents have."""

Repeated = Callable[[int], bool]


@OPERATORS.register_module("repeated_lines_deduplicator")
class RepeatedLinesDeduplicator(Deduplicator):
    """Takes out boilerplate that many documents have in common."""

    def __init__(
        self,
        min_documents: int = 10,
        min_characters: int = 20,
        max_share: float = 0.5,
        min_text_length: int = 50,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Set the bounds.

        :param min_documents: documents that have a line, from which it counts as repeated
        :param min_characters: length of a line at a text's start or end that goes without saying
            itself what it is
        :param max_share: share of a text's characters that may go without saying what they are
        :param min_text_length: characters of what is left, below which the document is dropped
        """
        super().__init__(*args, **kwargs)
        if min_documents < 2:
            raise ValueError(f"min_documents = {min_documents}; a repeated line has 2 or more")
        self.min_documents = min_documents
        self.min_characters = min_characters
        self.max_share = max_share
        self.min_text_length = min_text_length

    def line_hashes(self, text: str) -> list[int]:
        """Hashes of the lines of a text that may go, each once, ascending."""
        return sorted({key for key in _keys(text.split("\n")) if isinstance(key, int)})

    def without(self, text: str, repeated: Repeated) -> str | None:
        """Take the boilerplate out of a text.

        Args:
            text: the text.
            repeated: true for the hash of a line that many documents have.

        Returns:
            The text; as it is if it has none; None if too little would be left.
        """
        lines = text.split("\n")
        marks = [_mark(key, repeated) for key in _keys(lines)]
        if REPEATED not in marks:
            return text
        named = {i for i, line in enumerate(lines) if marks[i] == REPEATED and says_so(line)}
        others = self._beside(lines, marks, named)
        if sum(len(lines[i]) for i in others) > self.max_share * len(text):
            others = set()
        if not (named | others):
            return text
        left = "\n".join(_joined(lines, marks, named | others))
        return left if len(left) >= self.min_text_length else None

    def _beside(self, lines: list[str], marks: list[str], named: Collection[int]) -> set[int]:
        """Repeated lines that go for what stands beside them."""
        found: set[int] = set()
        for run in _runs(marks):
            if any(i in named for i in run):
                found.update(i for i in run if marks[i] == REPEATED and i not in named)
                continue
            if run[0] == 0:
                found.update(self._long(lines, marks, run))
            if run[-1] == len(lines) - 1:
                found.update(self._long(lines, marks, run[::-1]))
        return found

    def _long(self, lines: list[str], marks: list[str], run: list[int]) -> list[int]:
        """The long lines at the start of a run, up to a short one."""
        taken = []
        for i in run:
            if marks[i] == REPEATED:
                if len(lines[i].strip()) < self.min_characters:
                    break
                taken.append(i)
        return taken

    def compute_hash(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Add the hashes of a document's lines."""
        sample[HASHES] = self.line_hashes(sample[self.text_key])
        return sample

    def process(self, dataset: Any, show_num: int = 0) -> tuple[Any, dict[str, Any]]:
        """Take the lines out, all hashes in memory. Returns the documents that are left."""
        counts = Counter(key for keys in dataset[HASHES] for key in keys)
        repeated = {key for key, count in counts.items() if count >= self.min_documents}
        dataset = dataset.remove_columns([HASHES])
        texts = [self.without(text, repeated.__contains__) for text in dataset[self.text_key]]
        kept = [i for i, text in enumerate(texts) if text is not None]

        def replaced(sample: dict[str, Any], index: int) -> dict[str, Any]:
            return sample | {self.text_key: texts[kept[index]]}

        return dataset.select(kept).map(replaced, with_indices=True), {}


def _mark(key: int | str, repeated: Repeated) -> str:
    if isinstance(key, str):
        return key
    return REPEATED if repeated(key) else OTHER


def _keys(lines: list[str]) -> list[int | str]:
    """Hash of each line that may go; OTHER for one that never does, BLANK for one without words."""
    keys: list[int | str] = []
    fenced = display = False
    for line in lines:
        fence = bool(FENCE.match(line))
        marks = len(DISPLAY.findall(line))
        bare = EDGES.sub("", line)
        if fenced or display or fence or marks or ((bare or "|" in line) and KEPT.match(line)):
            keys.append(OTHER)
        else:
            keys.append(_hash(bare) if bare else BLANK)
        fenced ^= fence
        display ^= marks % 2 == 1
    return keys


def _hash(bare: str) -> int:
    """Hash of a line without what stands around it, whatever its white space and capitals."""
    value = xxhash.xxh3_64_intdigest(" ".join(bare.casefold().split()).encode("utf-8", "replace"))
    return value - (1 << 64) if value >> 63 else value


def _runs(marks: list[str]) -> list[list[int]]:
    """Runs of repeated lines, with the blank ones between and around them."""
    runs: list[list[int]] = []
    run: list[int] = []
    for i, mark in enumerate([*marks, OTHER]):
        if mark != OTHER:
            run.append(i)
            continue
        if any(marks[j] == REPEATED for j in run):
            runs.append(run)
        run = []
    return runs


def _joined(lines: list[str], marks: list[str], gone: Collection[int]) -> list[str]:
    """The lines that are left; of the blank ones around those that are gone, one at most."""
    left: list[str] = []
    gap, blank, ends = False, True, 0
    for i, line in enumerate(lines):
        if i in gone:
            gap = True
        elif marks[i] == BLANK and gap and blank:
            continue
        else:
            gap, blank = gap and marks[i] == BLANK, marks[i] == BLANK
            left.append(line)
            ends = ends if blank else len(left)
    return left[:ends] if gap else left
