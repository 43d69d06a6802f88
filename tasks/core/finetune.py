"""Part that the stages `sft` and `dpo` share: training samples, the job, torchrun, counts.

data/<set>/… ──corpus.chats──▶ mixture.jsonl ──model.entry.<method>──▶ model/, metrics.jsonl
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from common.config import StageConfig, errors_of
from common.errors import DataError, SteelError
from common.files import read_json_lines
from common.paths import display
from common.ranges import Processes
from corpus.bad_rows import OnBadRow
from corpus.chats import MATCHES_FILE, ContaminationFilter, MixtureFiles, MixtureRow
from corpus.decontaminate import ContaminationConfig, describe_index
from model.train.distributed.gpus import num_gpus
from model.train.finetune.config import FinetuneJob, FinetuneSettings
from model.train.run.folder import CHECKPOINTS_FOLDER, METRICS_FILE, MODEL_FOLDER
from model.train.run.metrics import last_value, read_metrics
from tasks.core.stage import StageResult, StageRun
from tasks.core.torchrun import torchrun

DATA_FILE = "mixture.jsonl"
CPU_PROCESSES = 1
"""A second process on a small machine starts as long as it helps (docs/FOOTGUNS.md)."""
MAX_MATCHES_SHOWN = 200
"""Rows of the table of matches; the file has all."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(FinetuneSettings, StageConfig):
    """Settings that the stages `sft` and `dpo` have beside those of their trainings."""

    num_processes: Processes | Literal["auto"] = "auto"
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


def mixture_files(
    run: StageRun,
    sets: Sequence[str],
    contamination: ContaminationConfig,
    *,
    data: StageResult,
    benchmarks: StageResult | None,
    remedy: str,
    on_bad_row: OnBadRow = "skip",
) -> MixtureFiles:
    """Places of a stage's training samples. Raises DataError when a set was not acquired."""
    missing = [name for name in sets if not (data.folder / name).is_dir()]
    if missing or not sets:
        raise DataError(
            f"{run.stage}: {display(data.folder)} does not hold {', '.join(missing) or 'any set'}: "
            f"{remedy}"
        )
    return MixtureFiles(
        data=data.folder,
        output=run.folder / DATA_FILE,
        quarantine=run.folder / "quarantine",
        scratch=run.scratch,
        contamination=ContaminationFilter.of(
            contamination, benchmarks.folder if benchmarks else None
        ),
        on_bad_row=on_bad_row,
        progress=run.progress,
    )


def report_mixture(
    run: StageRun, title: str, samples: str, rows: Sequence[MixtureRow], files: MixtureFiles
) -> int:
    """Record the sets of a mixture and the benchmark questions in them.

    title: of the table; samples: `conversations` or `pairs`.
    Returns the number of samples. Raises DataError when there is none.
    """
    skipped = {row.set: sum(row.skipped.values()) for row in rows}
    table = [
        {
            "set": row.set,
            "usable": row.usable,
            "taken": row.taken,
            "Chinese": row.chinese,
            "English": row.taken - row.chinese,
            "other language or style": row.other,
            "with benchmark questions": row.contaminated,
            "skipped": skipped[row.set],
            "reasons": ", ".join(f"{reason}: {n}" for reason, n in row.skipped.items()),
        }
        for row in rows
    ]
    run.table(title, table, f"{samples.capitalize()} of each set")
    run.note(mixture=table)
    taken = sum(row.taken for row in rows)
    chinese = sum(row.chinese for row in rows)
    run.count(**{f"taken.{row.set}": row.taken for row in rows})
    run.count(**{f"skipped.{name}": count for name, count in skipped.items()})
    run.count(**{samples: taken}, chinese=chinese, english=taken - chinese)
    run.log.info(
        "%s: %d %s, %d Chinese, %d English, %d rows skipped",
        run.stage,
        taken,
        samples,
        chinese,
        taken - chinese,
        sum(skipped.values()),
    )
    _report_contamination(run, rows, files.contamination)
    if not taken:
        raise DataError(
            f"{run.stage}: no set has usable {samples}; quarantine/ says why rows were skipped"
        )
    return taken


def _report_contamination(
    run: StageRun, rows: Sequence[MixtureRow], contamination: ContaminationFilter | None
) -> None:
    if contamination is None:
        run.note(contamination={"action": "off"})
        return
    index = contamination.index
    contaminated = {row.set: row.contaminated for row in rows}
    total = sum(contaminated.values())
    action = "dropped" if contamination.drops else "flagged"
    run.count(contaminated=total, **{f"contaminated.{name}": n for name, n in contaminated.items()})
    run.note(
        contamination={
            "action": index.config.action,
            "rows": contaminated,
            "index": describe_index(index),
        }
    )
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


def job_folders(run: StageRun, model: StageResult) -> dict[str, str]:
    """Folders of a stage's job, which starts from the model of another stage."""
    return {
        "model": str(model.folder / MODEL_FOLDER),
        "data": str(run.folder / DATA_FILE),
        "output": str(run.folder),
        "scratch": str(run.scratch / CHECKPOINTS_FOLDER),
    }


def train(run: StageRun, job: FinetuneJob, *, num_processes: int, total_steps: int | None) -> None:
    """Run a job under torchrun to its end, and count what its metrics say."""
    torchrun(
        run, f"model.entry.{job.method}", job, num_processes=num_processes, total_steps=total_steps
    )
    metrics = run.folder / METRICS_FILE
    lines = list(read_metrics(metrics))
    run.count(
        steps=max(line["step"] for line in lines), first_loss=lines[0]["metrics"]["train/loss"]
    )
    for count, metric in (
        ("train_loss", "train/loss"),
        ("reward_margin", "train/reward_margin"),
        ("preference_accuracy", "train/preference_accuracy"),
    ):
        value = last_value(metrics, metric)
        if value is not None:
            run.count(**{count: value})
    run.note(num_processes=num_processes)
