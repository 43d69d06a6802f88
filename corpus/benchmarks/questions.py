"""Benchmark files in their native layout, read and checked row by row.

<benchmarks>/<benchmark>/dev/law_dev.csv ─┐
                   /val/law_val.csv ─┼─▶ (subject, split) ─▶ Question …
                   /val.zip, data.tar ┘
"""

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.errors import DataError
from common.names import NAME_WORDS, Name, RelativePath, is_name, same_names
from common.paths import display
from corpus.bad_rows import OnBadRow, listed_rows, refuse_bad_rows
from corpus.benchmarks.csv_files import csv_files
from corpus.benchmarks.csv_rows import csv_rows
from corpus.recipes import HubSource, ModelScopeSource

LETTERS = ("A", "B", "C", "D")

ID_COLUMNS = ("", "id")
"""Columns with a number for each row, no two the same (CMMLU's has no name)."""

_UNREADABLE = re.compile("[\0\udc80-\udcff]")

REMEDY = (
    "Mend them in the file, or set `evaluate.on_bad_row: skip` to leave them out and count them"
)


@dataclass(frozen=True, kw_only=True)
class PublishedQuestions:
    """Fields that all recipes data_recipes/evals/<name>.yaml have."""

    title: str
    """Name for people."""
    language: str
    """Language of the questions."""
    licence: str
    """Licence of the questions."""
    source: str
    """Page of the authors."""
    hub: HubSource
    """Files on the Hugging Face hub."""
    modelscope: ModelScopeSource | None = None
    """The same on ModelScope."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRecipe(PublishedQuestions):
    """A recipe of questions with four options."""

    file: RelativePath
    """Path of a subject's file, with {split} and {subject}."""
    header: bool
    """If true, a file's first row names its columns."""
    columns: tuple[str, str, str, str, str, str]
    """Question, four options, answer, in this order, by their names in the header row, where
    further columns may stand; without a header row, a file has these six and no others."""
    layout: Literal["letters", "choices"]
    """Columns of lm-eval's prompt: as they are, or choices and the answer's number."""
    fewshot_split: Name
    """Split that the worked examples come from."""
    scored_split: Name
    """Split that is scored."""
    num_examples: int | None = None
    """Worked examples of each subject in `fewshot_split`, as published; None: not known."""
    task: RelativePath
    """lm-eval's file for a subject, below lm_eval/tasks."""
    base_task: RelativePath
    """lm-eval's file that its subjects share; a subject unknown to lm-eval is built on it."""
    task_name: str
    """lm-eval's name for the task of a subject."""
    other_description: str
    """First lines of the prompt of a subject unknown to lm-eval."""
    override: dict[str, Any]
    """Native lm-eval keys laid over every subject's task."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Checksums that acquired files must have, by name."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One row of a benchmark file."""

    text: str
    """The question."""
    options: tuple[str, ...]
    """Four options, exactly as in the file."""
    answer: str
    """The right one's letter; empty where the authors keep it to themselves."""


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row of a benchmark file that is no question."""

    file: str
    """The file, for messages."""
    line: int
    """The line in which it begins, from 1."""
    reason: str
    """Defect: the column, and the value that was found."""
    split: str = ""
    """Split of the file."""

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark with the questions of its subjects."""

    name: str
    """Name of the recipe."""
    recipe: BenchmarkRecipe
    """Its recipe."""
    subjects: dict[str, dict[str, list[Question]]]
    """subject -> split -> questions."""
    bad_rows: tuple[BadRow, ...] = ()
    """Rows that are no questions."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Subjects that bad rows leave with too few worked examples -> the reason."""

    def num_questions(self, limit: int | None) -> int:
        """Number of questions that are scored, at most `limit` a subject."""
        sizes = (len(splits[self.recipe.scored_split]) for splits in self.subjects.values())
        return sum(min(size, limit) if limit else size for size in sizes)

    def num_bad_rows(self) -> int:
        """Number of rows of the scored split that are left out."""
        return sum(row.split == self.recipe.scored_split for row in self.bad_rows)


Files = Path | Sequence[tuple[Path, str]]
"""A folder with the files of a benchmark, or (path, name below the folder) of each."""


def read_benchmark(
    name: str,
    recipe: BenchmarkRecipe,
    files: Files,
    *,
    on_bad_row: OnBadRow = "fail",
    num_fewshot: int = 0,
) -> Benchmark:
    """Read every subject that has questions to score.

    With `skip`, subjects that bad rows leave with fewer worked examples than `num_fewshot` are left
    out, unless none would be left. One without a single good question is refused: its file is in
    another form.

    Raises DataError that names every malformed row with its file and line, unless those are to be
    skipped, and every file that cannot be read; or the folder when nothing is there.
    """
    if isinstance(files, Path) and not files.is_dir():
        raise DataError(
            f"{display(files)} does not exist: the questions of {name} were not acquired; add "
            f"{name} to the data sets of `acquire` with kind evals, or leave it out of `benchmarks`"
        )
    fewshot, scored = recipe.fewshot_split, recipe.scored_split
    where = display(files) if isinstance(files, Path) else f"the location of {name}"
    subjects: dict[str, dict[str, list[Question]]] = {}
    bad: list[BadRow] = []
    reasons: dict[tuple[str, str], list[str]] = {}
    damaged: list[str] = []
    for subject, split, place, content in benchmark_files(recipe, files, (fewshot, scored)):
        splits = subjects.setdefault(subject, {})
        questions = splits.setdefault(split, [])
        try:
            for row in parse_questions(recipe, place, decoded(content, place), split=split):
                if isinstance(row, BadRow):
                    bad.append(row)
                    reasons.setdefault((subject, split), []).append(str(row))
                else:
                    questions.append(row)
        except DataError as error:
            damaged.append(str(error))
    if damaged:
        raise DataError("; ".join(damaged))
    if on_bad_row == "fail":
        refuse_bad_rows(name, [str(row) for row in bad], REMEDY)
    found = {subject: splits for subject, splits in sorted(subjects.items()) if scored in splits}
    if not found:
        raise DataError(
            f"{where} holds no file like {recipe.file.format(split=scored, subject='*')}: give the "
            "folder that its files lie in"
        )
    poor: dict[str, str] = {}
    for subject, splits in found.items():
        splits.setdefault(fewshot, [])
        if not splits[scored]:
            rows = listed_rows(reasons.get((subject, scored), []))
            raise DataError(
                f"{where}: the {scored} split of {subject} has no question"
                + (f", only bad rows: {rows}" if rows else "")
            )
        spoilt = reasons.get((subject, fewshot), [])
        if spoilt and len(splits[fewshot]) < num_fewshot:
            poor[subject] = (
                f"{len(splits[fewshot])} worked examples are left of {subject}, fewer than "
                f"num_fewshot = {num_fewshot}: {listed_rows(spoilt)}"
            )
    if len(poor) == len(found):
        raise DataError(f"{where}: {'; '.join(poor.values())}")
    return Benchmark(
        name=name,
        recipe=recipe,
        subjects={subject: splits for subject, splits in found.items() if subject not in poor},
        bad_rows=tuple(bad),
        left_out=poor,
    )


def check_examples(benchmark: Benchmark, num_fewshot: int) -> None:
    """Raise DataError when a subject has fewer worked examples than `num_fewshot`."""
    split = benchmark.recipe.fewshot_split
    for subject, splits in benchmark.subjects.items():
        if len(splits[split]) < num_fewshot:
            raise DataError(
                f"{benchmark.name}: {subject} has {len(splits[split])} worked examples (split "
                f"{split}) but num_fewshot is {num_fewshot}: lower num_fewshot"
            )


def benchmark_files(
    recipe: BenchmarkRecipe, files: Files, splits: Collection[str]
) -> Iterator[tuple[str, str, str, bytes]]:
    """Yield (subject, split, place for messages, content) of each file of `splits`, once.

    A plain file wins over the same file in an archive. Raises DataError for a damaged archive, a
    subject that is no name or that a disk may take for another, and two files of one subject.
    """
    pattern = re.escape(recipe.file)
    pattern = pattern.replace(r"\{split\}", "(?P<split>[^/]+)", 1)
    pattern = pattern.replace(r"\{split\}", "(?P=split)")
    pattern = pattern.replace(r"\{subject\}", "(?P<subject>[^/.][^/]*)")
    wanted = re.compile(rf"(?:.*/)?{pattern}", re.DOTALL)
    seen: dict[tuple[str, str], tuple[str, bytes, bool]] = {}
    for names, place, content, plain in csv_files(files):
        match = next((m for name in names if (m := wanted.fullmatch(name))), None)
        if match is None or match["split"] not in splits:
            continue
        subject, split = unicodedata.normalize("NFC", match["subject"]), match["split"]
        if not is_name(subject):
            raise DataError(f"{place}: the subject {subject!r} must be {NAME_WORDS}")
        if (known := seen.get((subject, split))) is not None:
            first, text, first_plain = known
            if text != content and plain == first_plain:
                raise DataError(f"{first} and {place} are both {split} of {subject}: remove one")
            continue
        seen[subject, split] = place, content, plain
        if pairs := same_names([name for name, _ in seen]):
            raise DataError(f"{place}: the subjects {' and '.join(pairs[0])} differ only in case")
        yield subject, split, place, content


def decoded(content: bytes, place: str) -> str:
    """The text of a file; a byte that is not UTF-8 becomes half of a surrogate pair.

    Raises DataError for a file in another encoding.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        from corpus.formats.encodings import encoding_of_sample

        marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        encoding = encoding_of_sample(content)
        if marked or encoding.codec != "utf-8" or encoding.doubt:
            name = "UTF-16" if marked else encoding.doubt or encoding.name
            name = name.replace("windows1252", "WINDOWS-1252")  # as iconv spells it
            raise DataError(
                f"{place} is not UTF-8 but looks like {name}: save it as UTF-8, for example with "
                f"iconv -f {name} -t UTF-8"
            ) from None
        text = content.decode("utf-8-sig", "surrogateescape")
    if text.count("\0") > len(text) // 4:
        raise DataError(f"{place} looks like UTF-16 without a byte order mark: save it as UTF-8")
    return text


def parse_questions(
    recipe: BenchmarkRecipe, where: str, text: str, *, split: str = "", answers: bool = True
) -> Iterator[Question | BadRow]:
    """Parse the questions of a file; a malformed row is a BadRow in its place.

    Args:
        recipe: of the benchmark.
        where: the file, for messages.
        text: its content.
        split: its split, which a bad row is marked with.
        answers: False for a split whose answers the authors keep to themselves: then the column
            may be absent, and every answer is empty.

    Raises:
        DataError: the file is empty, or its header row lacks a column.
    """
    columns = recipe.columns if answers else recipe.columns[:-1]
    header: list[str] = [] if recipe.header else list(recipe.columns)
    places = [] if recipe.header else list(range(len(columns)))
    id_place: int | None = None
    ids: dict[str, int] = {}

    def is_whole(cells: Sequence[str]) -> bool:
        sound = answers and header and len(cells) == len(header)
        # A list in a text has a space behind each comma: `E, F, A` is no row.
        return bool(sound and cells[places[-1]] in LETTERS)

    for line, cells, reason in csv_rows(text, is_whole):
        if not reason and len(cells) < 2 and not "".join(cells).strip():
            continue
        if not header:
            if reason:
                raise DataError(f"{where}, line {line}: {reason}; this must be the header row")
            places = _places(cells, columns, where, line)
            id_place = next((i for i, c in enumerate(cells) if c.strip() in ID_COLUMNS), None)
            header = cells
            continue
        row = [cells[place] for place in places] if len(cells) == len(header) else []
        reason = reason or _defect(row, columns, cells, len(header), answers=answers)
        number = cells[id_place].strip() if id_place is not None and not reason else ""
        if number and (first := ids.setdefault(number, line)) != line:
            reason = f"the number {number!r} stands in line {first}, too"
        if reason:
            yield BadRow(file=where, line=line, reason=reason, split=split)
            continue
        question, *options = row
        answer = options.pop().strip() if answers else ""
        yield Question(text=question, options=tuple(options), answer=answer)
    if not header:
        raise DataError(f"{where} is empty: its first row must be {', '.join(columns)}")


def _places(cells: list[str], columns: Sequence[str], where: str, line: int) -> list[int]:
    """Places of the columns in a header row. Raises DataError."""
    missing = [column for column in columns if column not in cells]
    if missing:
        raise DataError(
            f"{where}, line {line}: no column {', '.join(missing)}; "
            f"the header row is {', '.join(cells)}{_hint(cells)}"
        )
    if twice := [column for column in columns if cells.count(column) > 1]:
        raise DataError(f"{where}, line {line}: the header row has {', '.join(twice)} twice")
    return [cells.index(column) for column in columns]


def _defect(
    row: list[str], columns: Sequence[str], cells: list[str], width: int, *, answers: bool
) -> str:
    """Defect of a row in a few words; empty for a question."""
    if not row:
        count = "1 field" if len(cells) == 1 else f"{len(cells)} fields"
        return f"{count} instead of {width}{_hint(cells)}"
    if _UNREADABLE.search("".join(row)):
        column = next(c for c, cell in zip(columns, row, strict=True) if _UNREADABLE.search(cell))
        return f"{column} holds a NUL, or bytes that are not UTF-8"
    if answers and row[-1].strip() not in LETTERS:
        return f"the answer is {row[-1]!r:.60}, not A to D"
    if _is_blank(row[0]):
        return "the question is empty"
    options = dict(zip(columns[1:], row[1:5], strict=False))
    empty = [column for column, option in options.items() if _is_blank(option)]
    return f"the option {', '.join(empty)} is empty" if empty else ""


def _hint(cells: list[str]) -> str:
    """Addition to a message for a row that another character separates; else empty."""
    found = next((mark for mark in ";\t|" if len(cells) == 1 and cells[0].count(mark) > 3), "")
    return f"; fields must be separated by `,`, not by {found!r}" if found else ""


def _is_blank(text: str) -> bool:
    """Return True for a text of nothing that can be seen, such as a zero-width space."""
    return all(char.isspace() or unicodedata.category(char) == "Cf" for char in text)
