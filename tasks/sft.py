"""Stage `sft`: a base model and a mixture ──torchrun──▶ model/, mixture.jsonl, metrics.jsonl.

data/<set>/… ──encoded once──▶ rows ──seeded draw──▶ mixture.jsonl ──model.entry.sft──▶ model/
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.config import NOT_IN_KEY, errors_of, narrowed
from common.errors import ConfigError, DataError, SteelError
from corpus.chats import ContaminationFilter, Identity, load_mixture, load_set
from corpus.decontaminate import ContaminationConfig
from model.train.finetune.config import SftJob, SftSettings
from model.train.run.folder import MIXTURE_FILE
from tasks.core.finetune import FinetuneConfig, job_folders, report_mixture, train
from tasks.core.stage import StageResult, StageRun, plain, stage

if TYPE_CHECKING:
    from corpus.chats.encoded_sets import ReadSet


@dataclass(frozen=True, kw_only=True)
class SftConfig(SftSettings, FinetuneConfig):
    """Mixture to fine-tune on, and settings of the training (section 6, Table 3)."""

    base_model: str = field(default="", metadata=NOT_IN_KEY)
    """Model to start from: a Transformers folder with a tokenizer, or a stage's folder in a store
    (relative ones start at the project's root). Its content is in the key. Empty: the model that
    this configuration pretrains."""
    mixture: str = ""
    """Recipe in data_recipes/mixtures; a pipeline sets it to each of its `mixtures`."""
    identity: Identity = field(default_factory=Identity, metadata=NOT_IN_KEY)
    """Name and author that the model says it has, in sets that say so (`fingerprint` has it)."""

    def fingerprint(self) -> dict[str, Any]:
        """The recipes this run depends on."""
        mixture = load_mixture(self.mixture)
        sets = {name: plain(load_set("sft", name), key=True) for name in mixture.sets}
        found = {"mixture": plain(mixture, key=True), "sets": sets}
        if any(load_set("sft", name).identity is not None for name in mixture.sets):
            found["identity"] = plain(self.identity)
        return found

    def check(self) -> Iterator[SteelError]:
        yield from super().check()
        yield from errors_of(needed_sets, self)


def needed_sets(config: SftConfig) -> list[str]:
    """Sets (data_recipes/sft) that the mixture draws from. Raises ConfigError."""
    if not config.mixture:
        raise ConfigError("sft: mixture is empty; name a recipe in data_recipes/mixtures")
    return [name for name, share in load_mixture(config.mixture).sets.items() if share.fraction]


@stage(version=8, trains=True)
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
    from corpus.chats.sft_mixture import build_mixture

    folders = job_folders(run, base)
    sets, contamination = read_sets(
        run,
        needed_sets(config),
        model=Path(folders["model"]),
        data=data,
        benchmarks=benchmarks,
        contamination=config.contamination,
        identity=config.identity,
        remedy=f"add them to `sft_sets`, or choose another mixture than {config.mixture!r}",
    )
    rows = build_mixture(
        load_mixture(config.mixture),
        sets,
        run.folder / MIXTURE_FILE,
        seed=config.seed,
        max_length=config.max_length,
        drop_contaminated=config.contamination.action == "drop",
        on_bad_row=config.on_bad_row,
    )
    report_mixture(run, f"mixture {config.mixture}", "conversations", rows, contamination)
    encoded = {name: str(one.folder) for name, one in sets.items()}
    job = SftJob(settings=narrowed(config, SftSettings), sets=encoded, **folders)
    train(run, job, "conversations", num_processes=config.ranks())


def read_sets(
    run: StageRun,
    names: Sequence[str],
    *,
    model: Path,
    data: Mapping[str, StageResult],
    benchmarks: Mapping[str, StageResult] | None,
    contamination: ContaminationConfig,
    identity: Identity,
    remedy: str,
) -> tuple["dict[str, ReadSet]", ContaminationFilter | None]:
    """The sets of a mixture, and the filter that looked for benchmark questions in them.

    Args:
        model: folder of the model to start from, whose tokenizer encodes.
        data: sets that were acquired, by name.
        benchmarks: benchmarks whose questions are looked for; None looks for none.
        contamination: what counts as contained.
        identity: name and author of the model.
        remedy: what to do when a set was not acquired.

    Raises DataError when a set was not acquired, cannot be read, or the model has no chat template.
    """
    # Transformers and what encodes take a second to import, which a check needs not wait for.
    from corpus.chats.encoded_sets import SetWork, encoded_set
    from model.tokenizer.folder import load_folder_tokenizer
    from model.train.finetune.templates import training_template

    missing = [name for name in names if name not in data]
    if missing or not names:
        raise DataError(f"{run.stage}: {', '.join(missing) or 'no set'} was not acquired: {remedy}")
    tokenizer = load_folder_tokenizer(model)
    if not tokenizer.chat_template:
        raise DataError(
            f"the tokenizer in {model} has no chat template: export the model with Steel, which "
            "puts model/tokenizer/chat_template.jinja beside it"
        )
    questions = run.linked("benchmarks", benchmarks) if benchmarks else None
    finder = ContaminationFilter.of(contamination, questions, run.cache)
    template = training_template(tokenizer)
    sets: dict[str, ReadSet] = {}

    def report(what: str) -> None:
        run.progress(len(sets), len(names), what)

    for name in names:
        sets[name] = encoded_set(
            SetWork(
                name=name,
                folder=data[name].folder / name,
                tokenizer=tokenizer,
                chat_template=template,
                identity=identity,
                contamination=finder,
            ),
            run.cache / "sft",
            report,
        )
        run.log.info("%s: %s has %d conversations", run.stage, name, len(sets[name].encoded))
    run.progress(len(names), len(names), "drawing the mixture")
    return sets, finder
