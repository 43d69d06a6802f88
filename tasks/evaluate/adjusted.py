"""Stage `adjusted_scores`: a model's accuracies on questions that its training texts contain, and
on those that they do not.

    evaluate/samples/*.jsonl (for each number of worked examples) ─┐
    questions in corpora, SFT conversations, preference pairs ─────┴─▶ adjusted.json
                                                                       contaminated.jsonl

A question is contaminated if any text contains it that the model was trained on. Texts that are not
known (a model of a path, data that were not searched) are named; what is called clean is then only
not found in the others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from common.config import StageConfig
from common.files import complete_file, json_line, write_json
from common.reading.files import read_json_object
from common.recipes import load_recipe
from corpus.bad_rows import OnBadRow
from corpus.benchmarks.generative import GENERATIVE_MODES
from corpus.benchmarks.open_questions import is_open
from corpus.benchmarks.questions import BenchmarkRecipe, read_benchmark
from corpus.benchmarks.scoring import is_right, read_samples
from corpus.decontaminate import ContaminationConfig, Index, cached_index
from corpus.decontaminate.search import places_of
from tasks.core.stage import StageResult, StageRun, stage
from tasks.evaluate.subsets import (
    ADJUSTED_FILE,
    STATUSES,
    Question,
    Status,
    difference,
    shown_row,
    subset_scores,
)
from tasks.evaluate.training_texts import (
    SearchedTexts,
    conversations,
    corpora_texts,
    preference_pairs,
)

QUESTIONS_FILE = "contaminated.jsonl"
IN_PROMPT = "a worked example of its own prompt"
"""Source of a question that a prompt asks and answers before it asks it."""


@dataclass(frozen=True, kw_only=True)
class AdjustedScoresConfig(StageConfig):
    """Subsets of questions, and what is not known of a model's training texts."""

    min_questions: int
    """Questions of a subset below which it has a number of questions and no accuracy."""
    search: ContaminationConfig
    """Similarity from which a text contains a question: says which cannot be checked."""
    on_bad_row: OnBadRow = "fail"
    """As in the evaluation."""
    unknown: tuple[str, ...] = ()
    """Training texts that cannot be searched, in words; empty where all are known."""


@dataclass(kw_only=True)
class _Benchmark:
    """Questions of one benchmark, and what is known about each."""

    name: str
    index: Index | None = None
    """Its questions; None where no training text is known."""
    statuses: dict[Question, Status] = field(default_factory=dict)
    sources: dict[Question, list[str]] = field(default_factory=dict)
    ids: dict[Question, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    """Training texts that say nothing about it."""


@stage(version=2)
def adjusted_scores(
    run: StageRun,
    config: AdjustedScoresConfig,
    *,
    evaluations: Mapping[str, StageResult],
    benchmarks: Mapping[str, StageResult],
    corpora: StageResult | None = None,
    tuned: StageResult | None = None,
    aligned: StageResult | None = None,
) -> None:
    """Write adjusted.json and contaminated.jsonl.

    Args:
        evaluations: of the model, by number of worked examples; the first is the one in tables.
        benchmarks: their files.
        corpora: questions in the corpora that it was pretrained on (stage `contamination`).
        tuned: the SFT model that it is or was trained from.
        aligned: the DPO model that it is.
    """
    texts = [corpora_texts(corpora)] if corpora is not None else []
    texts += [conversations(tuned)] if tuned is not None else []
    texts += [preference_pairs(aligned)] if aligned is not None else []
    known = {name: _known(run, config, name, benchmarks, texts) for name in benchmarks}
    rows: list[dict[str, Any]] = []
    with complete_file(run.folder / QUESTIONS_FILE) as file:
        for evaluation in evaluations.values():
            results = read_json_object(evaluation.folder / "results.json")
            for name, result in results.items():
                for form, shots, samples in _forms(evaluation, name, result):
                    one = _with_prompts(config, known[name], benchmarks, shots)
                    row, lines = _row(config, one, samples)
                    about = {"benchmark": name, "form": form, "num_fewshot": shots}
                    about |= {"title": result["title"], "chance": result["chance"]}
                    rows.append(about | row)
                    file.writelines(
                        json_line({**line, "form": form, "num_fewshot": shots}) for line in lines
                    )
    write_json(run.folder / ADJUSTED_FILE, {"rows": rows})
    _report(run, rows)


def _known(
    run: StageRun,
    config: AdjustedScoresConfig,
    name: str,
    benchmarks: Mapping[str, StageResult],
    texts: Sequence[SearchedTexts],
) -> _Benchmark:
    """Status and sources of every question of a benchmark."""
    found = _Benchmark(name=name, unknown=list(config.unknown))
    for searched in texts:
        found.unknown += searched.unknown(name)
    searched_texts = [searched for searched in texts if name in searched.benchmarks]
    if not searched_texts:
        return found
    folder = run.linked("benchmarks", benchmarks)
    index, _ = cached_index(folder, (name,), config.search, run.cache)
    found.index = index
    unchecked = {question.id for question in index.unchecked()}
    scored = "test" if is_open(name) else load_recipe(BenchmarkRecipe, "evals", name).scored_split
    for question, (subject, split, at) in zip(index.questions, places_of(index), strict=True):
        if split != scored:
            continue
        sources = [s for t in searched_texts for s in t.found.get((name, question.id), ())]
        place = (subject, at)
        found.ids[place] = question.id
        found.sources[place] = sources
        found.statuses[place] = (
            "contaminated" if sources else "not_checkable" if question.id in unchecked else "clean"
        )
    return found


def _with_prompts(
    config: AdjustedScoresConfig,
    known: _Benchmark,
    benchmarks: Mapping[str, StageResult],
    shots: int | None,
) -> _Benchmark:
    """The same with questions that the worked examples of their own prompts contain."""
    index = known.index
    if not shots or index is None or is_open(known.name):
        return known
    recipe = load_recipe(BenchmarkRecipe, "evals", known.name)
    place = benchmarks[known.name].folder / known.name
    benchmark = read_benchmark(
        known.name, recipe, place, on_bad_row=config.on_bad_row, num_fewshot=shots
    )
    places = {
        question.id: (subject, at)
        for question, (subject, split, at) in zip(index.questions, places_of(index), strict=True)
        if split == recipe.scored_split
    }
    statuses, sources = dict(known.statuses), dict(known.sources)
    for subject, splits in benchmark.subjects.items():
        for example in splits.get(recipe.fewshot_split, [])[:shots]:
            shown = "\n".join((example.text, *example.options))
            for match in index.find(shown):
                at = places.get(match.question_id)
                if at is not None and at[0] == subject:
                    statuses[at] = "contaminated"
                    sources[at] = [*sources[at], IN_PROMPT]
    return replace(known, statuses=statuses, sources=sources)


def _forms(
    evaluation: StageResult, name: str, result: Mapping[str, Any]
) -> Iterator[tuple[str, int | None, list[dict[str, Any]]]]:
    """Form of the answers, worked examples (None: the task's own), and the answers."""
    folder = evaluation.folder / "samples"
    form = "written" if is_open(name) else "likelihood"
    yield form, result.get("num_fewshot"), list(read_samples(folder / f"{name}.jsonl"))
    for mode in (mode for mode in GENERATIVE_MODES if mode in result["modes"]):
        samples = list(read_samples(folder / f"{name}-{mode}.jsonl"))
        yield mode, result["modes"][mode]["num_fewshot"], samples


def _row(
    config: AdjustedScoresConfig, known: _Benchmark, samples: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores of one form, and a line for each contaminated question that was asked."""
    if known.index is None:
        nothing: dict[Question, Status] = {(s["subject"], s["index"]): "clean" for s in samples}
        scores = subset_scores(samples, nothing, config.min_questions)
        row: dict[str, Any] = {"full": scores["full"], **dict.fromkeys(STATUSES)}
        return row | {"difference": None, "sources": {}, "unknown": known.unknown}, []
    scores = subset_scores(samples, known.statuses, config.min_questions)
    lines: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    for sample in samples:
        place = (sample["subject"], sample["index"])
        if known.statuses[place] != "contaminated":
            continue
        for source in known.sources[place]:
            counts[source] = counts.get(source, 0) + 1
        lines.append(
            {
                "benchmark": known.name,
                "question_id": known.ids[place],
                "subject": place[0],
                "index": place[1],
                "sources": known.sources[place],
                "right": is_right(sample),
            }
        )
    row = {
        **scores,
        "difference": difference(scores),
        "sources": dict(sorted(counts.items())),
        "unknown": known.unknown,
    }
    return row, lines


def _report(run: StageRun, rows: Sequence[Mapping[str, Any]]) -> None:
    """Table, counts and lines of the console."""
    table = [shown_row(row) for row in rows]
    run.table(run.stage, table, "Accuracies in %, with 95 % intervals and questions")
    run.note(adjusted=[dict(row) for row in rows])
    for row in rows:
        shots = "" if row["num_fewshot"] is None else f"/{row['num_fewshot']}_shot"
        form = "" if row["form"] in ("likelihood", "written") else f"/{row['form']}"
        place = f"{row['benchmark']}{form}{shots}"
        for name in ("clean", "contaminated", "not_checkable"):
            part = row[name]
            if part is None:
                continue
            run.count(**{f"questions_{name}/{place}": part["num_questions"]})
            if part["accuracy"] is not None:
                run.count(**{f"accuracy_{name}/{place}": part["accuracy"]})
    clean = sum(_is_clean(row) for row in rows)
    if clean:
        run.log.info(
            "%s: %d of %d scores are of clean questions alone", run.stage, clean, len(rows)
        )
    for row, shown in zip(rows, table, strict=True):
        if not _is_clean(row):
            run.log.info("%s: %s", run.stage, "; ".join(f"{k} {v}" for k, v in shown.items() if v))


def _is_clean(row: Mapping[str, Any]) -> bool:
    """True if none of the questions was trained on, as far as all of them can be looked for."""
    return (
        row["clean"] is not None and row["clean"]["num_questions"] == row["full"]["num_questions"]
    )
