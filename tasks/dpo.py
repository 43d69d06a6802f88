"""Stage `dpo`: an SFT model and preference pairs ──torchrun──▶ model/, metrics.jsonl.

data/<set>/… ──formats──▶ every usable pair ──model.entry.dpo──▶ Chinese:English 4:1 ─▶ model/
                                                                 (mixture.jsonl)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from common.config import NOT_IN_KEY, errors_of, narrowed
from common.errors import ConfigError, DataError, SteelError
from common.names import Name
from common.ranges import Ge, Limit, PositiveInt
from corpus.chats import MATCHES_FILE, PreferenceSet, gather_preferences, load_set
from model.train.finetune.config import DpoJob, DpoSettings
from tasks.core.finetune import (
    FinetuneConfig,
    by_reason,
    job_folders,
    left_out_by_set,
    mixture_files,
    report_contamination,
    train,
)
from tasks.core.stage import StageResult, StageRun, plain, stage

CANDIDATES_FILE = "candidates.jsonl"
REFERENCE_FOLDER = "reference"
"""In a store's cache: log-probabilities of reference models, under hashes of their content."""


@dataclass(frozen=True, kw_only=True)
class DpoConfig(DpoSettings, FinetuneConfig):
    """Preference pairs, and settings of the training on them (section 6)."""

    policy_model: str = field(default="", metadata=NOT_IN_KEY)
    """Model to start from, as `sft.base_model`. Empty: the SFT model of `dpo_policy`."""
    sets: tuple[Name, ...] = ()
    """Recipes in data_recipes/preferences, all of them in `preference_sets`; empty: every set
    there."""
    chinese_per_english: Annotated[int, Ge(0), Limit(10**6)] = 4
    """Chinese pairs for each English one, exactly, of those that are trained on; section 6: 4. 0
    takes all there are."""
    limit: PositiveInt | None = None
    """At most so many pairs to train on."""

    def fingerprint(self) -> dict[str, Any]:
        """The recipes of the sets; a pipeline names all that are trained on."""
        return {name: plain(load_set("preferences", name), key=True) for name in self.sets}

    def check(self) -> Iterator[SteelError]:
        yield from super().check()
        if self.limit is not None and self.limit <= self.chinese_per_english:
            yield ConfigError(
                f"limit = {self.limit} leaves no English pair beside {self.chinese_per_english} "
                "Chinese ones; raise it"
            )
        for name in self.sets:
            yield from errors_of(load_set, "preferences", name)


@stage(version=7, trains=True)
def dpo(
    run: StageRun,
    config: DpoConfig,
    *,
    policy: StageResult,
    data: Mapping[str, StageResult],
    benchmarks: Mapping[str, StageResult] | None = None,
) -> None:
    """Optimize the SFT model on the pairs; an interrupted run continues.

    Raises DataError when a set was not acquired, or when a language of the ratio has no pair.
    """
    write_candidates(run, config, data, benchmarks)
    job = DpoJob(
        settings=narrowed(config, DpoSettings),
        **job_folders(run, policy) | {"data": str(run.scratch / CANDIDATES_FILE)},
        chinese_per_english=config.chinese_per_english,
        limit=config.limit,
        reference=str(run.cache / REFERENCE_FOLDER),
    )
    train(run, job, "pairs", num_processes=config.ranks(), count=count_pairs)


def write_candidates(
    run: StageRun,
    config: DpoConfig,
    data: Mapping[str, StageResult],
    benchmarks: Mapping[str, StageResult] | None = None,
) -> int:
    """Write every usable pair of the sets into the scratch folder; returns their number.

    Raises DataError when there is none.
    """
    names = config.sets or sorted(data)
    files = mixture_files(
        run,
        names,
        config.contamination,
        data=data,
        benchmarks=benchmarks,
        on_bad_row=config.on_bad_row,
        remedy="add them to `preference_sets`",
    )
    files = replace(files, output=run.scratch / CANDIDATES_FILE)
    sets = gather_preferences(names, files, run.folder / MATCHES_FILE)
    table = [_row_of(of_set) for of_set in sets]
    run.table("preference pairs", table, "Usable pairs of each set, before any is drawn")
    run.note(mixture=table)
    candidates = sum(of_set.candidates for of_set in sets)
    run.count(
        candidates=candidates,
        bad_rows=sum(of_set.malformed for of_set in sets),
        **{f"skipped.{of_set.set}": sum(of_set.skipped.values()) for of_set in sets},
    )
    run.log.info(
        "%s: %d usable pairs: %s",
        run.stage,
        candidates,
        "; ".join(f"{row['set']} {row['usable']} ({row['skipped']} skipped)" for row in table),
    )
    report_contamination(run, {s.set: s.contaminated for s in sets}, files.contamination)
    if not candidates:
        raise DataError(
            f"{run.stage}: no set has usable pairs; quarantine/ says why rows were skipped"
        )
    return candidates


def _row_of(of_set: PreferenceSet) -> dict[str, Any]:
    """Row of the table of sets."""
    chinese, english = (of_set.languages.get(language, 0) for language in ("zh", "en"))
    return {
        "set": of_set.set,
        "usable": of_set.candidates,
        "Chinese": chinese,
        "English": english,
        "other language": of_set.candidates - chinese - english,
        "with benchmark questions": of_set.contaminated,
        "skipped": sum(of_set.skipped.values()),
        "bad rows": of_set.malformed,
        "reasons": by_reason(of_set.skipped),
    }


def count_pairs(run: StageRun, samples: str, prepared: Mapping[str, Any]) -> None:
    """Count the pairs that were trained on, and what became of the others, by set and reason."""
    sets: Mapping[str, Any] = prepared["sets"]
    languages = [of_set["languages"] for of_set in sets.values()]
    run.count(
        **{samples: prepared["trained_on"]},
        chinese=sum(of_set.get("zh", 0) for of_set in languages),
        english=sum(of_set.get("en", 0) for of_set in languages),
        left_out=prepared["left_out"],
        held_out=prepared["held_out"],
        not_drawn=prepared["not_drawn"],
        shortened_prompts=prepared["cut"],
        real_tokens=prepared["real_tokens"],
        **{f"trained_on.{name}": of_set["trained_on"] for name, of_set in sets.items()},
        **{f"left_out.{name}": sum(of_set["left_out"].values()) for name, of_set in sets.items()},
        **_lengths(prepared["lengths"]["train"]),
    )
    rows: Sequence[Mapping[str, Any]] = run.notes.get("mixture", [])
    table = [dict(row) | _outcome(sets.get(row["set"], {})) for row in rows]
    run.note(
        mixture=table,
        held_out={name: of_set["held_out"] for name, of_set in sets.items() if of_set["held_out"]},
        lengths=prepared["lengths"],
        packed=prepared["packed"],
    )
    run.table(f"trained on {run.stage}", table, "Pairs that were trained on, and the others")
    run.log.info(
        "%s: trained on %d of %d pairs, %d of them without their oldest turns; %d held out, %d not "
        "drawn, %s. In %.1f %% of those trained on the longer answer is the preferred one",
        run.stage,
        prepared["trained_on"],
        prepared["drawn"],
        prepared["cut"],
        prepared["held_out"],
        prepared["not_drawn"],
        left_out_by_set(sets),
        100 * prepared["lengths"]["train"]["length_accuracy"],
    )


def _outcome(of_set: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of the table that are known when the pairs are encoded."""
    return {
        "trained on": of_set.get("trained_on", 0),
        "held out": of_set.get("held_out", 0),
        "not drawn (ratio, limit)": of_set.get("not_drawn", 0),
        "left out": by_reason(of_set.get("left_out", {})),
        "without their oldest turns": of_set.get("cut", 0),
    }


def _lengths(of_pairs: Mapping[str, float]) -> dict[str, float]:
    names = ("chosen_tokens", "rejected_tokens", "length_accuracy")
    return {name: of_pairs[name] for name in names if name in of_pairs}
