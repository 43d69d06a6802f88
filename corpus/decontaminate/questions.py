"""Benchmark questions that are looked for in texts, and the configuration of the search."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from common.config import Config
from common.errors import ConfigError, DataError
from common.names import Name
from common.paths import RECIPES, display
from common.ranges import Ge, Gt, Le, Limit
from common.recipes import load_recipe
from corpus.benchmarks.open_questions import is_open, read_open
from corpus.benchmarks.questions import (
    LETTERS,
    BadRow,
    BenchmarkRecipe,
    Files,
    benchmark_files,
    decoded,
    parse_questions,
)

OTHER_SPLITS = ("val", "test")
"""Looked for beside the scored split: who trains on one publishes scores of the other. Never the
worked examples of the prompts, which are not scored."""


@dataclass(frozen=True, kw_only=True)
class QuestionSearch(Config):
    """Similarity from which a text counts as containing a benchmark question."""

    ngram: Annotated[int, Ge(4), Le(50)] = 5
    """Tokens that must agree in a row for a passage to be compared with a question: a Chinese
    character, a word or a number is one."""
    overlap: Annotated[float, Gt(0), Le(1)] = 0.8
    """Share of a question's tokens, 0 to 1, in order, from which a text counts as containing it."""
    sibling_overlap: Annotated[float, Gt(0), Le(1)] = 0.9
    """The same for a question that has near-duplicates in its benchmark, which differ from it in a
    word or a number: a text must be more like it than they are."""
    min_stem: Annotated[int, Ge(0), Limit(10**6)] = 18
    """Tokens of a stem that is looked for alone; a shorter one must stand beside its options."""
    min_tokens: Annotated[int, Ge(0), Limit(10**6)] = 10
    """Tokens of stem and options together below which a question cannot be told from ordinary
    speech: it is listed as not checkable."""

    def check(self) -> Iterator[ConfigError]:
        for name in ("min_stem", "min_tokens"):
            if getattr(self, name) < self.ngram:
                yield ConfigError(
                    f"{name} = {getattr(self, name)}, less than ngram = {self.ngram}: a text that "
                    "short holds no n-gram"
                )


@dataclass(frozen=True, kw_only=True)
class ContaminationConfig(QuestionSearch):
    """Search for benchmark questions in texts, and the action on a text that contains one."""

    action: Literal["drop", "flag", "off"] = "drop"
    """drop: the text is left out (of a document much longer than the question, the passage alone);
    flag: it stays and is only listed; off: no search."""
    benchmarks: tuple[Name, ...] = ()
    """Benchmarks (data_recipes/evals) whose questions are looked for; empty: all there are."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkQuestion:
    """A question that is looked for."""

    benchmark: str
    """Recipe in data_recipes/evals."""
    id: str
    """subject/split/number, the number from 0 as in the file."""
    stem: str
    """The question."""
    options: tuple[str, ...]
    """Its options."""
    answer: str = ""
    """The right one of them; empty where the benchmark keeps it to itself."""

    @property
    def text(self) -> str:
        """Stem and options, a line each."""
        return "\n".join((self.stem, *self.options))


def find_benchmarks(folder: Path, benchmarks: Sequence[str]) -> list[str]:
    """The benchmarks to look for. Raises ConfigError or DataError when one is not there."""
    known = {path.stem for path in (RECIPES / "evals").glob("*.yaml")}
    there = sorted(known & {path.name for path in folder.iterdir() if path.is_dir()})
    missing = sorted(set(benchmarks) - set(there))
    if missing:
        raise DataError(
            f"contamination.benchmarks: {display(folder)} does not hold {', '.join(missing)}; "
            f"there are: {', '.join(there) or 'none'}. Add it to `benchmarks` of the pipeline"
        )
    if not there:
        raise DataError(f"{display(folder)} holds no benchmark of data_recipes/evals")
    return sorted(set(benchmarks)) or there


def read_questions(
    files: Files, benchmark: str, bad_rows: list[str] | None = None
) -> Iterator[BenchmarkQuestion]:
    """Every question of the scored split, `val` and `test`.

    Rows that are no questions are added to `bad_rows`: they are refused before any work starts, or
    left out because the user says so (`evaluate.on_bad_row`). Raises DataError for other damage.
    """
    if is_open(benchmark):
        yield from _open_questions(files, benchmark, bad_rows)
        return
    recipe = load_recipe(BenchmarkRecipe, "evals", benchmark)
    splits = {recipe.scored_split, *OTHER_SPLITS} - {recipe.fewshot_split}
    for subject, split, where, content in benchmark_files(recipe, files, splits):
        answers = split == recipe.scored_split
        text = decoded(content, where)
        for number, row in enumerate(parse_questions(recipe, where, text, answers=answers)):
            if isinstance(row, BadRow):
                if bad_rows is not None:
                    bad_rows.append(str(row))
                continue
            right = LETTERS.index(row.answer) if row.answer in LETTERS else len(row.options)
            yield BenchmarkQuestion(
                benchmark=benchmark,
                id=f"{subject}/{split}/{number}",
                stem=row.text,
                options=row.options[:4],
                answer="".join(row.options[right : right + 1]),
            )


def _open_questions(
    files: Files, name: str, bad_rows: list[str] | None
) -> Iterator[BenchmarkQuestion]:
    """Every question of a benchmark whose answers are written; it has no options."""
    benchmark = read_open(name, files, on_bad_row="skip")
    if bad_rows is not None:
        bad_rows += benchmark.bad_rows
    for number, row in enumerate(benchmark.rows):
        yield BenchmarkQuestion(
            benchmark=name,
            id=f"{name}/test/{number}",
            stem=row[benchmark.recipe.question],
            options=(),
            answer=row[benchmark.recipe.answer],
        )
