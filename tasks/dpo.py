"""Stage `dpo`: an SFT model and preference pairs ──torchrun, TRL──▶ model/, metrics.jsonl.

data/<set>/… ──formats, Chinese:English 4:1──▶ mixture.jsonl ──model.entry.dpo──▶ model/
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch

from common.errors import ConfigError
from common.paths import RECIPES
from corpus.chats import build_preferences, load_set
from corpus.decontaminate import ContaminationConfig
from model.train.finetune.config import DpoJob, DpoSettings
from tasks.core.finetune import CPU_PROCESSES, job_folders, mixture_files, report_mixture, train
from tasks.core.stage import StageResult, StageRun, plain, stage


@dataclass(frozen=True, kw_only=True)
class DpoConfig(DpoSettings):
    """Which preference pairs, and how to learn them (section 6)."""

    sets: tuple[str, ...] = ()
    """Recipes in data_recipes/preferences; empty: every set that was acquired."""
    chinese_per_english: int = 4
    """Chinese pairs for each English one, exactly; section 6: 4. 0 takes all there are."""
    limit: int | None = None
    """At most so many pairs."""
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)
    """Pairs that contain an evaluation question: what counts as one, and what happens to them."""
    num_processes: int | Literal["auto"] = "auto"
    """Ranks on this machine; auto: one per GPU, or 1 without a GPU, but no more than split
    global_batch_size into whole micro-batches."""

    def fingerprint(self) -> dict[str, Any]:
        """The recipes this run may depend on."""
        known = sorted(path.stem for path in (RECIPES / "preferences").glob("*.yaml"))
        return {name: plain(load_set("preferences", name)) for name in self.sets or known}


def check(config: DpoConfig) -> None:
    """Refuse unknown sets and contradictory settings. Raises ConfigError."""
    config.check("dpo")
    config.check_ranks("dpo", num_processes(config))
    config.contamination.check("dpo")
    if config.chinese_per_english < 0:
        raise ConfigError(
            f"dpo: chinese_per_english = {config.chinese_per_english}; give 0 or more"
        )
    if config.limit is not None and config.limit <= config.chinese_per_english:
        raise ConfigError(
            f"dpo: limit = {config.limit} leaves no English pair beside "
            f"{config.chinese_per_english} Chinese ones; raise it"
        )
    for name in config.sets:
        load_set("preferences", name)


def num_processes(config: DpoConfig) -> int:
    """Ranks that a run on this machine has."""
    if config.num_processes != "auto":
        return config.num_processes
    return config.fitting_ranks(torch.cuda.device_count() or CPU_PROCESSES)


@stage(version=2, trains=True)
def dpo(
    run: StageRun,
    config: DpoConfig,
    *,
    policy: StageResult,
    data: StageResult,
    benchmarks: StageResult | None = None,
) -> None:
    """Optimize the SFT model on the pairs; an interrupted run continues.

    Raises DataError when a set was not acquired, or when a language of the ratio has no pair.
    """
    num_samples = write_pairs(run, config, data, benchmarks)
    ranks = num_processes(config)
    settings = DpoSettings(**{f.name: getattr(config, f.name) for f in fields(DpoSettings)})
    train(
        run,
        DpoJob(settings=settings, **job_folders(run, policy)),
        num_processes=ranks,
        total_steps=config.num_steps(num_samples, ranks),
    )


def write_pairs(
    run: StageRun, config: DpoConfig, data: StageResult, benchmarks: StageResult | None = None
) -> int:
    """Write mixture.jsonl with the pairs at the configured ratio; returns their number."""
    acquired = sorted(path.name for path in data.folder.iterdir() if path.is_dir())
    names = config.sets or acquired
    files = mixture_files(
        run,
        names,
        config.contamination,
        data=data,
        benchmarks=benchmarks,
        remedy="add them to `preference_sets`",
    )
    rows = build_preferences(
        names,
        files,
        chinese_per_english=config.chinese_per_english,
        limit=config.limit,
        seed=config.seed,
    )
    return report_mixture(run, "preference pairs", "pairs", rows, files)
