"""Part that the stages `sft` and `dpo` share: training samples, the job, torchrun, counts.

data/<set>/… ──corpus.chats──▶ mixture.jsonl ──model.entry.<method>──▶ model/, metrics.jsonl
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.config import NOT_IN_KEY, StageConfig, errors_of
from common.errors import DataError, StageError, SteelError
from common.files import read_json_lines
from common.paths import display
from common.ranges import Processes
from corpus.bad_rows import OnBadRow
from corpus.chats import MATCHES_FILE, ContaminationFilter, MixtureFiles, MixtureRow
from corpus.decontaminate import ContaminationConfig, describe_bad_rows, describe_index
from model.train.checkpoint.folders import complete_checkpoints, read_marker
from model.train.distributed.gpus import check_one_each, num_gpus
from model.train.finetune.config import FinetuneJob, FinetuneSettings
from model.train.run.folder import (
    CHECKPOINTS_FOLDER,
    METRICS_FILE,
    MIXTURE_FILE,
    PREPARED_FILE,
    SESSIONS_FILE,
)
from model.train.run.metrics import read_metrics
from model.train.run.sessions import energy_counts
from tasks.core.stage import StageResult, StageRun
from tasks.core.torchrun import shares, torchrun

CPU_PROCESSES = 1
"""A second process on a small machine starts as long as it helps (docs/FOOTGUNS.md)."""
FIGURES = {
    "train_loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "epochs": "train/epoch",
    "tokens": "data/tokens",
    "targets": "data/targets",
    "reward_margin": "train/reward_margin",
    "preference_accuracy": "train/preference_accuracy",
}
"""Counts of a finished stage -> measurements of its last step."""
MAX_MATCHES_SHOWN = 200
"""Rows of the table of matches; the file has all."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(FinetuneSettings, StageConfig):
    """Settings that the stages `sft` and `dpo` have beside those of their trainings."""

    num_processes: Processes | Literal["auto"] = field(default="auto", metadata=NOT_IN_KEY)
    """Ranks on this machine; auto: one per GPU, or 1 without a GPU, but no more than split
    global_batch_size into whole micro-batches."""
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)
    """Samples that contain a benchmark question: search for them, and the action on them."""
    on_bad_row: OnBadRow = "skip"
    """Action on a row that is damaged or has no text where its format has one (null, NaN, a
    number). skip: left out, counted by reason, listed in quarantine/; fail: refused by name. Sound
    rows that can't be learned from (no answer, a tool call) are left out and counted either way."""

    def ranks(self) -> int:
        """Number of ranks of a run on this machine."""
        if self.num_processes != "auto":
            return self.num_processes
        return self.fitting_ranks(num_gpus() or CPU_PROCESSES)

    def check(self) -> Iterator[SteelError]:
        yield from super().check()
        yield from errors_of(self.check_ranks, self.ranks())
        yield from errors_of(check_one_each, self.ranks(), num_gpus())


def mixture_files(
    run: StageRun,
    sets: Sequence[str],
    contamination: ContaminationConfig,
    *,
    data: Mapping[str, StageResult],
    benchmarks: Mapping[str, StageResult] | None,
    remedy: str,
    on_bad_row: OnBadRow = "skip",
) -> MixtureFiles:
    """Places of a stage's training samples. Raises DataError when a set was not acquired."""
    missing = [name for name in sets if name not in data]
    if missing or not sets:
        raise DataError(f"{run.stage}: {', '.join(missing) or 'no set'} was not acquired: {remedy}")
    questions = run.linked("benchmarks", benchmarks) if benchmarks else None
    return MixtureFiles(
        data=run.linked("sets", data),
        output=run.folder / MIXTURE_FILE,
        quarantine=run.folder / "quarantine",
        scratch=run.scratch,
        contamination=ContaminationFilter.of(contamination, questions, run.cache),
        on_bad_row=on_bad_row,
        progress=run.progress,
    )


def report_mixture(
    run: StageRun,
    title: str,
    samples: str,
    rows: Sequence[MixtureRow],
    contamination: ContaminationFilter | None,
) -> int:
    """Record the sets of a mixture and the benchmark questions in them.

    title: of the table; samples: `conversations` or `pairs`; contamination: what looked for them.
    Returns the number of samples. Raises DataError when there is none.
    """
    skipped = {row.set: sum(row.skipped.values()) for row in rows}
    table = [
        {
            "set": row.set,
            "usable": row.usable,
            "taken": row.taken,
            "Chinese": row.chinese,
            "English": row.taken - row.chinese - row.neither,
            "neither": row.neither,
            "other language or style": row.other,
            "with benchmark questions": row.contaminated,
            "skipped": skipped[row.set],
            "left out": sum(row.left_out.values()),
            "cut": row.cut,
            "bad rows": row.malformed,
            "reasons": by_reason({**row.skipped, **row.left_out}),
        }
        for row in rows
    ]
    run.table(title, table, f"{samples.capitalize()} of each set")
    run.note(mixture=table)
    taken = sum(row.taken for row in rows)
    chinese = sum(row.chinese for row in rows)
    english = taken - chinese - sum(row.neither for row in rows)
    run.count(**{f"taken.{row.set}": row.taken for row in rows})
    run.count(**{f"skipped.{name}": count for name, count in skipped.items()})
    bad_rows, num_skipped = sum(row.malformed for row in rows), sum(skipped.values())
    run.count(**{samples: taken}, chinese=chinese, english=english, bad_rows=bad_rows)
    run.log.info(
        "%s: %s %s, %s Chinese, %s English; %s",
        run.stage,
        f"{taken:,}",
        samples,
        f"{chinese:,}",
        f"{english:,}",
        f"{num_skipped:,} rows skipped, {bad_rows:,} of them bad"
        if num_skipped
        else "none skipped",
    )
    report_contamination(run, {row.set: row.contaminated for row in rows}, contamination)
    if not taken:
        raise DataError(
            f"{run.stage}: no set has usable {samples}; quarantine/ says why rows were skipped"
        )
    return taken


def report_contamination(
    run: StageRun, contaminated: Mapping[str, int], contamination: ContaminationFilter | None
) -> None:
    """Record the benchmark questions that were found: {set: samples with one}."""
    if contamination is None:
        run.note(contamination={"action": "off"})
        return
    index = contamination.index
    total = sum(contaminated.values())
    action = "dropped" if contamination.drops else "flagged"
    run.count(contaminated=total, **{f"contaminated.{name}": n for name, n in contaminated.items()})
    run.note(
        contamination={
            "action": contamination.action,
            "rows": contaminated,
            "index": describe_index(index),
        }
    )
    if bad_rows := describe_bad_rows(index):
        run.log.warning("%s", bad_rows)
    if total:
        matches = read_json_lines(run.folder / MATCHES_FILE)
        table = [
            {
                "row": match["id"],
                "question": f"{match['benchmark']}/{match['question_id']}",
                "overlap": match["overlap"],
                "text": match["question"],
                "found": match["excerpt"],
            }
            for match in sorted(matches, key=lambda match: -match["overlap"])[:MAX_MATCHES_SHOWN]
        ]
        title = f"contamination {run.stage}"
        run.table(title, table, f"Rows {action}: benchmark questions in them")
    run.log.info(
        "%s: %d rows contain a benchmark question, %s; %d of %d questions can be checked",
        run.stage,
        total,
        action,
        index.num_checkable,
        len(index.questions),
    )


def job_folders(run: StageRun, model: StageResult) -> dict[str, Any]:
    """Folders of a stage's job, which starts from the model of another stage."""
    return {
        "model": str(model.model_folder),
        "data": str(run.folder / MIXTURE_FILE),
        "output": str(run.folder),
        "scratch": str(run.scratch / CHECKPOINTS_FOLDER),
    }


def train(
    run: StageRun,
    job: FinetuneJob,
    samples: str,
    *,
    num_processes: int,
    count: Callable[[StageRun, str, Mapping[str, Any]], None] | None = None,
) -> None:
    """Run a job under torchrun to its end, and count what it was trained on and its last step.

    samples: `conversations` or `pairs`. count: counts them from prepared.json; default: as
    conversations are.
    """
    torchrun(
        run,
        f"model.entry.{job.method}",
        job,
        num_processes=num_processes,
        checkpoints=Path(job.scratch),
        # Known when the rows are encoded: some are left out, some share a packed row.
        total_steps=lambda: _prepared(run).get("steps", 0),
    )
    (count or _count_rows)(run, samples, _prepared(run))
    run.count(**final_figures(run.folder / METRICS_FILE, _steps_made(Path(job.scratch))))
    run.count(**energy_counts(run.folder / SESSIONS_FILE))
    run.note(num_processes=num_processes)
    sets: Mapping[str, Any] = _prepared(run)["sets"]
    # Of pairs only the number is known by set.
    sizes = {name: of_set.get("tokens", of_set["trained_on"]) for name, of_set in sets.items()}
    run.settle(share=shares(sizes), tokens=round(run.counts.get("tokens", 0)))


def _steps_made(checkpoints: Path) -> int:
    """Steps of the newest complete checkpoint. Raises StageError where there is none."""
    complete = complete_checkpoints(checkpoints)
    if not complete:
        raise StageError(
            f"{display(checkpoints)} holds no complete checkpoint, though the model is there: "
            "remove the folder of the stage to train again"
        )
    return int(read_marker(complete[-1])["step"])


def final_figures(metrics: Path, steps: int) -> dict[str, float]:
    """Steps that were made, the first loss, and the measurements of the last step.

    Raises StageError when the metrics file has no line of that step.
    """
    lines = [line for line in read_metrics(metrics) if "train/loss" in line["metrics"]]
    if not lines or lines[-1]["step"] != steps:
        found = lines[-1]["step"] if lines else 0
        raise StageError(
            f"{display(metrics)} ends with step {found} of {steps} that were made: lines are "
            "missing. The trained model is beside it; remove the folder to train again"
        )
    last = lines[-1]["metrics"]
    figures = {name: last[metric] for name, metric in FIGURES.items() if metric in last}
    return {"steps": steps, "first_loss": lines[0]["metrics"]["train/loss"], **figures}


def _prepared(run: StageRun) -> dict[str, Any]:
    """Counts of the rows that the entry encoded; empty before that."""
    path = run.folder / PREPARED_FILE
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def _count_rows(run: StageRun, samples: str, prepared: Mapping[str, Any]) -> None:
    """Count the samples that were trained on, and those that were left out, by set and reason."""
    sets: Mapping[str, Any] = prepared["sets"]
    languages = Counter[str]()
    for of_set in sets.values():
        languages.update(of_set["languages"])
    run.count(
        **{samples: prepared["trained_on"]},
        chinese=languages["zh"],
        english=languages["en"],
        left_out=prepared["left_out"],
        cut=prepared["cut"],
        **{f"trained_on.{name}": of_set["trained_on"] for name, of_set in sets.items()},
        **{f"left_out.{name}": sum(of_set["left_out"].values()) for name, of_set in sets.items()},
    )
    run.count(**{name: prepared[name] for name in ("held_out", "target_tokens", "real_tokens")})
    held_out = {name: of_set["held_out"] for name, of_set in sets.items() if of_set["held_out"]}
    run.note(held_out=held_out, packed=prepared["packed"])
    table = [
        {
            **row,
            "trained on": sets.get(row["set"], {}).get("trained_on", 0),
            "held out": held_out.get(row["set"], 0),
            "left out": by_reason(sets.get(row["set"], {}).get("left_out", {})),
            "cut at max_length": sets.get(row["set"], {}).get("cut", 0),
        }
        for row in run.notes.get("mixture", [])
    ]
    run.note(mixture=table)
    run.log.info(
        "%s: trained on %s of %s %s, %s of them cut at max_length; %s held out, %s",
        run.stage,
        f"{prepared['trained_on']:,}",
        f"{prepared['drawn']:,}",
        samples,
        f"{prepared['cut']:,}",
        f"{prepared['held_out']:,}",
        left_out_by_set(sets),
    )
    title = f"{samples.capitalize()} that were trained on, and the others"
    run.table(f"trained on {run.stage}", table, title)


def left_out_by_set(sets: Mapping[str, Mapping[str, Any]]) -> str:
    """Say how many samples are left out: of each set, by reason."""
    reasons = {name: by_reason(of_set["left_out"]) for name, of_set in sets.items()}
    number = sum(sum(of_set["left_out"].values()) for of_set in sets.values())
    listed = "; ".join(f"{name}: {said}" for name, said in reasons.items() if said)
    return f"{number:,} left out ({listed})" if number else "none left out"


def by_reason(counts: Mapping[str, int]) -> str:
    """Write counts by reason into a line."""
    return ", ".join(f"{reason}: {number}" for reason, number in counts.items())
