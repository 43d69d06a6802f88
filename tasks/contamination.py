"""Stage `contamination`: questions of the evaluated benchmarks that the cleaned corpora contain.

    cleaned/<source>/<number>.jsonl ─┐
    benchmarks/<benchmark>/*.csv ────┴─corpus.decontaminate──▶ questions.jsonl  matches.jsonl

Nothing is taken out, and no training waits for it: a benchmark that is added after the pretraining
is searched for alone. Evaluation scores the questions apart that the corpora contain.

    questions.jsonl   every question: benchmark, subject, split, index (its place among the sound
                      rows of its file, as in an evaluation's samples), question_id (with its row
                      number), status (found, clean or not checkable), documents by source, overlap
    matches.jsonl     passages that contain one, some for each question
"""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from common.child import Child, python
from common.config import NOT_IN_KEY, StageConfig, field_types
from common.errors import DataError
from common.files import complete_file, json_line, write_json
from common.names import Distinct, Name
from common.paths import display
from common.ranges import Ge, Limit, Processes
from common.recipes import recipe_path
from corpus.decontaminate import (
    ContaminationConfig,
    Index,
    QuestionSearch,
    cached_index,
    describe_bad_rows,
)
from corpus.decontaminate.search import QUESTIONS_FILE, Found, SearchJob, findings, places_of
from tasks.core.stage import StageResult, StageRun, stage

MATCHES_FILE = "matches.jsonl"
POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class ContaminationCheckConfig(QuestionSearch, StageConfig):
    """Search of the cleaned corpora for questions of the benchmarks that are evaluated."""

    enabled: bool = field(default=True, metadata=NOT_IN_KEY)
    """False: no search; of the corpora is then said that they are not known."""
    corpora: Annotated[tuple[Name, ...], Distinct] = ()
    """Corpora that are searched; empty: all of them."""
    min_questions: Annotated[int, Ge(1), Limit(10**6)] = field(default=20, metadata=NOT_IN_KEY)
    """Questions below which a subset (clean, contaminated) is only counted: the 95 % interval of
    an accuracy over 20 questions is 40 points wide."""
    workers: Processes | Literal["auto"] = field(default="auto", metadata=NOT_IN_KEY)
    """Worker processes; auto: one for each core."""

    def input_recipe_files(self, inputs: Mapping[str, Any]) -> list[Path]:
        """The recipes of the benchmarks."""
        return [recipe_path("evals", name) for name in inputs["benchmarks"]]

    @property
    def thresholds(self) -> ContaminationConfig:
        """The settings of the search in the form that an index is made with."""
        values = {name: getattr(self, name) for name in field_types(QuestionSearch)}
        return ContaminationConfig(action="flag", **values)


@stage(version=2)
def contamination(
    run: StageRun,
    config: ContaminationCheckConfig,
    *,
    cleaned: StageResult,
    benchmarks: Mapping[str, StageResult],
) -> None:
    """Write questions.jsonl and matches.jsonl. Raises DataError for a corpus that is not there."""
    folder = run.linked("benchmarks", benchmarks)
    indexes, paths = {}, {}
    for name in benchmarks:
        # Each alone: what is found of one does not depend on which others are evaluated.
        indexes[name], path = cached_index(folder, (name,), config.thresholds, run.cache)
        paths[name] = str(path)
        if bad_rows := describe_bad_rows(indexes[name]):
            run.log.warning("%s", bad_rows)
    job = SearchJob(
        files=_files(cleaned, config.corpora),
        indexes=paths,
        cache=str(run.cache / "contamination"),
        workers=config.workers if config.workers != "auto" else os.cpu_count() or 1,
    )
    _search(run, job)
    found = findings(job)
    with complete_file(run.folder / QUESTIONS_FILE) as file:
        for name, index in indexes.items():
            file.writelines(json_line(row) for row in _question_rows(index, found[name]))
    with complete_file(run.folder / MATCHES_FILE) as file:
        for name, index in indexes.items():
            file.writelines(json_line(row) for row in _match_rows(index, found[name]))
    _report(run, indexes, found)


def _files(cleaned: StageResult, corpora: tuple[str, ...]) -> list[list[str]]:
    """Source, path and checksum of each cleaned file. Raises DataError."""
    sums = {entry["path"]: entry["md5"] for entry in cleaned.manifest.get("files", [])}
    files = sorted(cleaned.folder.glob("*/[0-9]*.jsonl"))
    there = {path.parent.name for path in files}
    if missing := [name for name in corpora if name not in there]:
        raise DataError(
            f"contamination.corpora: {display(cleaned.folder)} holds no text of "
            f"{', '.join(missing)}; there are: {', '.join(sorted(there))}"
        )
    return [
        [path.parent.name, str(path), sums[path.relative_to(cleaned.folder).as_posix()]]
        for path in files
        if not corpora or path.parent.name in corpora
    ]


def _search(run: StageRun, job: SearchJob) -> None:
    path = run.scratch / "job.json"
    write_json(path, asdict(job))
    with Child(python("corpus.decontaminate", path), path, grace=0) as child:
        while child.poll() is None:
            if at := child.progress():
                run.progress(at.done, at.total, at.what)
            time.sleep(POLL_SECONDS)
        if child.poll():
            raise child.failure("The search for benchmark questions")


def _question_rows(index: Index, found: Mapping[int, Found]) -> Iterator[dict[str, Any]]:
    unchecked = {(q.benchmark, q.id) for q in index.unchecked()}
    places = places_of(index)
    for number, (question, place) in enumerate(zip(index.questions, places, strict=True)):
        one = found.get(number)
        cannot = (question.benchmark, question.id) in unchecked
        subject, split, position = place
        yield {
            "benchmark": question.benchmark,
            "subject": subject,
            "split": split,
            "index": position,
            "question_id": question.id,
            "status": "found" if one else "not checkable" if cannot else "clean",
            "documents": dict(sorted(one.documents.items())) if one else {},
            "overlap": one.overlap if one else 0.0,
        }


def _match_rows(index: Index, found: Mapping[int, Found]) -> Iterator[dict[str, Any]]:
    for number, one in sorted(found.items()):
        question = index.questions[number]
        for example in one.examples:
            yield {
                "benchmark": question.benchmark,
                "question_id": question.id,
                "source": example["id"].partition("/")[0],
                **example,
                "question": question.text,
            }


def _report(
    run: StageRun, indexes: Mapping[str, Index], found: Mapping[str, Mapping[int, Found]]
) -> None:
    rows: list[dict[str, Any]] = []
    for name, index in indexes.items():
        sources: dict[str, int] = {}
        for one in found[name].values():
            for source in one.documents:
                sources[source] = sources.get(source, 0) + 1
        rows.append(
            {
                "benchmark": name,
                "questions": len(index.questions),
                "checkable": index.num_checkable,
                "found": len(found[name]),
                "documents": sum(sum(one.documents.values()) for one in found[name].values()),
                "questions by source": ", ".join(f"{s}: {n}" for s, n in sorted(sources.items())),
            }
        )
        run.count(**{f"found.{name}": len(found[name])})
    run.table("contamination", rows, "Benchmark questions in the cleaned corpora")
    run.note(benchmarks={row["benchmark"]: row for row in rows})
    run.count(
        questions=sum(row["questions"] for row in rows),
        checkable=sum(row["checkable"] for row in rows),
        found=sum(row["found"] for row in rows),
    )
    for row in rows:
        run.log.info(
            "%s: %d of %d questions that can be checked are in the cleaned corpora%s",
            row["benchmark"],
            row["found"],
            row["checkable"],
            f" ({row['questions by source']})" if row["found"] else "",
        )
