"""Stage `sft`: a base model and a mixture ──torchrun──▶ model/, mixture.jsonl, metrics.jsonl.

data/<set>/… ──formats, seeded draw──▶ mixture.jsonl ──model.entry.sft──▶ model/
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.config import NOT_IN_KEY, errors_of, narrowed
from common.errors import ConfigError, SteelError
from corpus.chats import build_mixture, load_mixture, load_set
from model.train.finetune.config import SftJob, SftSettings
from tasks.core.finetune import FinetuneConfig, job_folders, mixture_files, report_mixture, train
from tasks.core.stage import StageResult, StageRun, plain, stage


@dataclass(frozen=True, kw_only=True)
class SftConfig(SftSettings, FinetuneConfig):
    """Mixture to fine-tune on, and settings of the training (section 6, Table 3)."""

    base_model: str = field(default="", metadata=NOT_IN_KEY)
    """Model to start from: a Transformers folder with a tokenizer, or a stage's folder in a store
    (relative ones start at the project's root). Its content is in the key. Empty: the model that
    this configuration pretrains."""
    mixture: str = ""
    """Recipe in data_recipes/mixtures; a pipeline sets it to each of its `mixtures`."""

    def fingerprint(self) -> dict[str, Any]:
        """The recipes this run depends on."""
        mixture = load_mixture(self.mixture)
        sets = {name: plain(load_set("sft", name), key=True) for name in mixture.sets}
        return {"mixture": plain(mixture, key=True), "sets": sets}

    def check(self) -> Iterator[SteelError]:
        yield from super().check()
        yield from errors_of(needed_sets, self)


def needed_sets(config: SftConfig) -> list[str]:
    """Sets (data_recipes/sft) that the mixture draws from. Raises ConfigError."""
    if not config.mixture:
        raise ConfigError("sft: mixture is empty; name a recipe in data_recipes/mixtures")
    return [name for name, share in load_mixture(config.mixture).sets.items() if share.fraction]


@stage(version=4, trains=True)
def sft(
    run: StageRun,
    config: SftConfig,
    *,
    base: StageResult,
    data: Mapping[str, StageResult],
    benchmarks: Mapping[str, StageResult] | None = None,
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
        on_bad_row=config.on_bad_row,
        remedy=f"add them to `sft_sets`, or choose another mixture than {config.mixture!r}",
    )
    rows = build_mixture(load_mixture(config.mixture), files, seed=config.seed)
    title = f"mixture {config.mixture}"
    report_mixture(run, title, "conversations", rows, files)
    job = SftJob(settings=narrowed(config, SftSettings), **job_folders(run, base))
    train(run, job, "conversations", num_processes=config.ranks())
