"""Stage `dpo`: an SFT model and preference pairs ──torchrun, TRL──▶ model/, metrics.jsonl.

data/<set>/… ──formats, Chinese:English 4:1──▶ mixture.jsonl ──model.entry.dpo──▶ model/
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from common.config import NOT_IN_KEY, errors_of, narrowed
from common.errors import ConfigError, SteelError
from common.names import Name
from common.ranges import Ge, Limit, PositiveInt
from corpus.chats import build_preferences, load_set
from model.train.finetune.config import DpoJob, DpoSettings
from tasks.core.finetune import FinetuneConfig, job_folders, mixture_files, report_mixture, train
from tasks.core.stage import StageResult, StageRun, plain, stage


@dataclass(frozen=True, kw_only=True)
class DpoConfig(DpoSettings, FinetuneConfig):
    """Preference pairs, and settings of the training on them (section 6)."""

    policy_model: str = field(default="", metadata=NOT_IN_KEY)
    """Model to start from, as `sft.base_model`. Empty: the SFT model of `dpo_policy`."""
    sets: tuple[Name, ...] = ()
    """Recipes in data_recipes/preferences, all of them in `preference_sets`; empty: every set
    there."""
    chinese_per_english: Annotated[int, Ge(0), Limit(10**6)] = 4
    """Chinese pairs for each English one, exactly; section 6: 4. 0 takes all there are."""
    limit: PositiveInt | None = None
    """At most so many pairs."""

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


@stage(version=3, trains=True)
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
    write_pairs(run, config, data, benchmarks)
    job = DpoJob(settings=narrowed(config, DpoSettings), **job_folders(run, policy))
    train(run, job, "pairs", num_processes=config.ranks())


def write_pairs(
    run: StageRun,
    config: DpoConfig,
    data: Mapping[str, StageResult],
    benchmarks: Mapping[str, StageResult] | None = None,
) -> int:
    """Write mixture.jsonl with the pairs at the configured ratio; returns their number."""
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
    rows = build_preferences(
        names,
        files,
        chinese_per_english=config.chinese_per_english,
        limit=config.limit,
        seed=config.seed,
    )
    return report_mixture(run, "preference pairs", "pairs", rows, files.contamination)
