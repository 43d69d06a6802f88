"""Stage `sft`: a base model and a mixture ──torchrun, TRL──▶ model/, mixture.jsonl, metrics.jsonl.

data/<set>/… ──formats, seeded draw──▶ mixture.jsonl ──model.entry.sft──▶ model/
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch

from common.errors import ConfigError
from corpus.chats import build_mixture, load_mixture, load_set
from corpus.decontaminate import ContaminationConfig
from model.train.finetune.config import SftJob, SftSettings
from tasks.core.finetune import CPU_PROCESSES, job_folders, mixture_files, report_mixture, train
from tasks.core.stage import StageResult, StageRun, plain, stage


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
    files = mixture_files(
        run,
        needed_sets(config),
        config.contamination,
        data=data,
        benchmarks=benchmarks,
        remedy=f"add them to `sft_sets`, or choose another mixture than {config.mixture!r}",
    )
    rows = build_mixture(load_mixture(config.mixture), files, seed=config.seed)
    title = f"mixture {config.mixture}"
    num_samples = report_mixture(run, title, "conversations", rows, files)
    ranks = num_processes(config)
    settings = SftSettings(**{f.name: getattr(config, f.name) for f in fields(SftSettings)})
    train(
        run,
        SftJob(settings=settings, **job_folders(run, base)),
        num_processes=ranks,
        # Packing decides the number of rows only when the tokens are known.
        total_steps=None if config.packing else config.num_steps(num_samples, ranks),
    )
