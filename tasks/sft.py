"""Stage `sft`: a base model and a mixture ──torchrun, TRL──▶ model/, mixture.jsonl, metrics.jsonl.

data/<set>/… ──formats, seeded draw──▶ mixture.jsonl ──model.entry.sft──▶ model/
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch

from common.errors import ConfigError, DataError
from common.paths import display
from corpus.chats import MixtureRow, build_mixture, load_mixture, load_set
from corpus.chats.screening import Screen, report_found
from corpus.decontaminate import ContaminationConfig
from model.train.finetune.config import SftJob, SftSettings
from model.train.run.folder import CHECKPOINTS_FOLDER, METRICS_FILE, MODEL_FOLDER
from model.train.run.metrics import last_value, read_metrics
from tasks.core.stage import StageResult, StageRun, plain, stage
from tasks.core.torchrun import torchrun

CPU_PROCESSES = 1
"""A second process on a small machine starts as long as it helps (docs/FOOTGUNS.md)."""


@dataclass(frozen=True, kw_only=True)
class SftConfig(SftSettings):
    """Which mixture to fine-tune on, and how (section 6, Table 3)."""

    mixture: str = ""
    """Recipe in data_recipes/mixtures; a pipeline sets it to each of its `mixtures`."""
    num_processes: int | Literal["auto"] = "auto"
    """Ranks on this machine; auto: one per GPU, or 1 without a GPU, but no more than split
    global_batch_size into whole micro-batches."""
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)
    """Conversations that contain an evaluation question: what counts as one, and what happens to
    them."""

    def fingerprint(self) -> dict[str, Any]:
        """The recipes this run depends on."""
        mixture = load_mixture(self.mixture)
        sets = {name: plain(load_set("sft", name)) for name in mixture.sets}
        return {"mixture": plain(mixture), "sets": sets}


def check(config: SftConfig) -> None:
    """Refuse unknown recipes and contradictory settings. Raises ConfigError."""
    config.check("sft")
    config.check_ranks("sft", num_processes(config))
    config.contamination.check("sft")
    needed_sets(config)


def needed_sets(config: SftConfig) -> list[str]:
    """Sets (data_recipes/sft) that the mixture draws from. Raises ConfigError."""
    if not config.mixture:
        raise ConfigError("sft: mixture is empty; name a recipe in data_recipes/mixtures")
    return [name for name, share in load_mixture(config.mixture).sets.items() if share.fraction]


def num_processes(config: SftConfig) -> int:
    """Ranks that a run on this machine has."""
    if config.num_processes != "auto":
        return config.num_processes
    return config.fitting_ranks(torch.cuda.device_count() or CPU_PROCESSES)


@stage(version=2, trains=True)
def sft(
    run: StageRun,
    config: SftConfig,
    *,
    base: StageResult,
    data: StageResult,
    benchmarks: StageResult | None = None,
) -> None:
    """Fine-tune the base model on the mixture; an interrupted run continues.

    Raises DataError when a set of the mixture was not acquired, or gives no conversation at all.
    """
    missing = [name for name in needed_sets(config) if not (data.folder / name).is_dir()]
    if missing:
        raise DataError(
            f"sft: the mixture {config.mixture!r} draws from {', '.join(missing)}, which "
            f"{display(data.folder)} does not hold: add them to `sft_sets`, or choose another "
            "mixture"
        )
    screen = Screen.of(config.contamination, benchmarks.folder if benchmarks else None)
    rows = build_mixture(
        load_mixture(config.mixture),
        data.folder,
        output=run.folder / "mixture.jsonl",
        quarantine=run.folder / "quarantine",
        scratch=run.scratch,
        seed=config.seed,
        progress=run.progress,
        screen=screen,
    )
    title = f"{run.stage} {config.mixture}"
    report_found(run, screen, title, {row.set: row.contaminated for row in rows})
    num_samples = report_mixture(run, config, rows)
    ranks = num_processes(config)
    job = SftJob(
        settings=SftSettings(**{f.name: getattr(config, f.name) for f in fields(SftSettings)}),
        model=str(base.folder / MODEL_FOLDER),
        data=str(run.folder / "mixture.jsonl"),
        output=str(run.folder),
        scratch=str(run.scratch / CHECKPOINTS_FOLDER),
    )
    torchrun(
        run,
        "model.entry.sft",
        job.plain(),
        num_processes=ranks,
        # Packing decides the number of rows only when the tokens are known.
        total_steps=None if config.packing else config.num_steps(num_samples, ranks),
    )
    metrics = run.folder / METRICS_FILE
    losses = [line["metrics"]["train/loss"] for line in read_metrics(metrics)]
    run.count(
        steps=max(line["step"] for line in read_metrics(metrics)),
        first_loss=losses[0],
        train_loss=last_value(metrics, "train/loss") or 0.0,
    )
    run.note(num_processes=ranks)


def report_mixture(run: StageRun, config: SftConfig, rows: list[MixtureRow]) -> int:
    """Record what the mixture is made of; returns its number of conversations."""
    taken = sum(row.taken for row in rows)
    chinese = sum(row.chinese for row in rows)
    table = [
        {
            "set": row.set,
            "usable": row.usable,
            "taken": row.taken,
            "Chinese": row.chinese,
            "English": row.taken - row.chinese,
            "other language or style": row.other,
            "with benchmark questions": row.contaminated,
            "set aside": sum(row.set_aside.values()),
            "why": ", ".join(f"{reason}: {n}" for reason, n in row.set_aside.items()),
        }
        for row in rows
    ]
    run.table(f"mixture {config.mixture}", table, "Conversations of each set")
    for row in rows:
        run.count(
            **{f"taken.{row.set}": row.taken, f"set_aside.{row.set}": sum(row.set_aside.values())}
        )
    run.count(conversations=taken, chinese=chinese, english=taken - chinese)
    run.note(mixture=table)
    run.log.info(
        "%s: %d conversations, %d Chinese, %d English, %d rows set aside",
        run.stage,
        taken,
        chinese,
        taken - chinese,
        sum(sum(row.set_aside.values()) for row in rows),
    )
    if not taken:
        raise DataError(
            f"sft: the mixture {config.mixture!r} has no conversation; quarantine/ says why rows "
            "were set aside"
        )
    return taken
