"""A DPO job of some pairs, and its trainer in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from model.train.distributed.context import DistributedContext
from model.train.distributed.signals import StopFlag
from model.train.finetune.build import build
from model.train.finetune.config import DpoJob, DpoSettings
from model.train.finetune.preferences.method import PairMethod, dpo_method
from model.train.run.program import train
from model.train.trainer import Trainer
from tests.tiny_chat import pairs, write_lines


def make_job(
    model: Path,
    output: Path,
    rows: list[dict[str, Any]] | None = None,
    *,
    chinese_per_english: int = 0,
    limit: int | None = None,
    reference: Path | None = None,
    **settings: Any,
) -> DpoJob:
    """A job of twelve pairs in steps of four, one epoch of three steps."""
    output.mkdir(parents=True, exist_ok=True)
    small = {
        "epochs": 1,
        "global_batch_size": 4,
        "micro_batch_size": 2,
        "max_length": 256,
        "learning_rate": 1e-3,
        "warmup_fraction": 0.0,
        "log_interval": 1,
    }
    lines = write_lines(output / "candidates.jsonl", pairs(12) if rows is None else rows)
    return DpoJob(
        settings=DpoSettings(**{**small, **settings}),
        model=str(model),
        data=str(lines),
        output=str(output),
        scratch=str(output / "scratch"),
        chinese_per_english=chinese_per_english,
        limit=limit,
        reference=str(reference or ""),
    )


def run(job: DpoJob, watch: Callable[[Trainer, PairMethod], None] = lambda t, m: None) -> int:
    """Run a job to its end; its exit code. watch: is given trainer and method before the steps."""

    def make(ranks: DistributedContext, stop: StopFlag, watchdog: Any) -> Trainer:
        made: list[PairMethod] = []

        def method(*given: Any) -> PairMethod:
            made.append(dpo_method(*given))
            return made[0]

        trainer = build(job, ranks, stop, watchdog, method)
        watch(trainer, made[0])
        return trainer

    model = Path(job.output) / "model"
    return train(make, status=Path(job.scratch), model=model, health=job.settings.health)
