"""Checks of a configuration before any work starts; all problems are reported at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from common.config import errors_of, problems, raise_all
from common.disk import require_free_space
from common.errors import ConfigError, SteelError
from common.paths import display, resolve
from common.recipes import recipe_path
from corpus.chats import check_set
from corpus.sources.datasets import check_outside, local_dataset
from corpus.tokenizer import configured_tokenizer
from flows.checks.before_training import before_training, bytes_after_pretraining, weights_of
from flows.checks.contradictions import sets_of
from flows.config import KINDS, PipelineConfig, parse_pipeline
from tasks.core.store import check_store
from tasks.evaluate import benchmark_problems
from tasks.pack import PackConfig
from tasks.pretrain import PretrainConfig
from tasks.pretrain.appends import check_data

COPIES = 7
"""Copies of a corpus in the store at the most: raw, normalized, four in cleaning, shards."""

OTHER_BYTES = 256 * 1024**2
"""Databases, logs, answers, chat models of the smallest pipeline."""

QWEN_VOCABULARY = 151_936
"""Rows of a whole Qwen1.5 embedding; a pruned one is not known before the corpus is cleaned."""


def preflight(path: str | Path, overrides: Sequence[str], store: Path) -> PipelineConfig:
    """Read a configuration and check it whole: keys, ranges, contradictions, data, disk.

    Raises ConfigError or DataError that lists everything that is wrong, where, and what to do.
    """
    where = display(resolve(path))
    parsed = parse_pipeline(path, overrides)
    config = parsed.value
    if config is None:
        raise_all(parsed.problems, where)
    assert config is not None
    found = [*parsed.problems, *problems(config, known_wrong=parsed.wrong), *check_store(store)]
    if not any(wrong.startswith("pretrain") for wrong in parsed.wrong):
        found += _other_problems(config, store)
    found += benchmark_problems(config.evaluate, _local_benchmarks(config.benchmarks))
    others = {n: at for n, at in config.removed.items() if config.benchmarks.get(n) != at}
    found += benchmark_problems(config.evaluate, _local_benchmarks(others), scored=False)
    found += _set_problems(config)
    found += before_training(config)
    found += _store_in_data(config, store)
    raise_all(found, where)
    return config


_checked: dict[tuple[str, tuple[str, ...], Path], PipelineConfig] = {}


def preflight_ahead(path: str | Path, overrides: Sequence[str], store: Path) -> None:
    """`preflight` for a run that this process starts next, which then is not checked again.

    Raises like `preflight`.
    """
    _checked[str(path), tuple(overrides), store] = preflight(path, overrides, store)


def preflight_once(path: str | Path, overrides: Sequence[str], store: Path) -> PipelineConfig:
    """The finding of `preflight_ahead`, which counts for one run; or that of `preflight`."""
    found = _checked.pop((str(path), tuple(overrides), store), None)
    return preflight(path, overrides, store) if found is None else found


def _store_in_data(config: PipelineConfig, store: Path) -> Iterator[SteelError]:
    """Yield an error for each data set that would take the store's own files for its own."""
    for key in (*KINDS.values(), "decontaminate"):
        for name, location in (getattr(config, key) or {}).items():
            yield from errors_of(check_outside, f"{key}.{name}", location, store)


def _local_benchmarks(benchmarks: Mapping[str, str]) -> dict[str, list[tuple[Path, str]]]:
    """Files of the benchmarks that are on this machine; the others are looked at once they are."""
    known = {n: at for n, at in benchmarks.items() if recipe_path("evals", n).is_file()}
    found = {name: local_dataset(location) for name, location in known.items()}
    return {name: files for name, files in found.items() if files}


def _set_problems(config: PipelineConfig) -> Iterator[SteelError]:
    """Yield an error for each small set on this machine with rows that are refused, or no row."""
    if config.sft is not None:
        used = {name for mixture in config.mixtures for name in sets_of(config.sft_of(mixture))}
        for name in sorted(used & config.sft_sets.keys()):
            stored = local_dataset(config.sft_sets[name])
            yield from errors_of(check_set, "sft", name, stored, config.sft.on_bad_row)
    if config.dpo is not None:
        for name in config.dpo.sets or config.preference_sets:
            if name not in config.preference_sets:
                continue  # reported with `dpo.sets`
            stored = local_dataset(config.preference_sets[name])
            yield from errors_of(check_set, "preferences", name, stored, config.dpo.on_bad_row)


def bytes_needed(config: PipelineConfig) -> int:
    """Disk that the whole pipeline takes, as far as it can be known before it runs."""
    data = {kind: config.acquire(kind).bytes_needed() for kind in KINDS}
    pretrain = config.pretrain
    weights, trained = weights_of(config), 0
    if pretrain is not None and config.pretrains:
        if isinstance(pretrain.model, dict) and not config.pack.prune:
            model = {"vocab_size": QWEN_VOCABULARY, **pretrain.model}
            pretrain = replace(pretrain, model=model)
        trained = pretrain.bytes_needed()
        weights = max(weights, pretrain.weights_bytes())
    later = bytes_after_pretraining(config, weights)
    return COPIES * data["corpora"] + sum(data.values()) + trained + later + OTHER_BYTES


def _other_problems(config: PipelineConfig, store: Path) -> Iterator[SteelError]:
    """Yield an error for appended data that are not there, and for too small a disk."""
    if config.pretrain is not None:
        yield from errors_of(check_data, config.pretrain.append, store)
        yield from errors_of(_check_tokenizers, config.pretrain, config.pack)
    try:
        needed = bytes_needed(config)
    except SteelError:
        return  # of data or a model that is wrong, and reported
    yield from errors_of(require_free_space, store, needed, f"pipeline {config.name!r}")


def _check_tokenizers(pretrain: PretrainConfig, pack: PackConfig) -> None:
    """Refuse to pack for a model that has another tokenizer. Raises ConfigError or DataError.

    A pruned vocabulary is not known before the corpus is cleaned: one that pruning might give is
    compared by the run.
    """
    if not isinstance(pretrain.settings.model, str):
        return
    from model.tokenizer.folder import load_folder_tokenizer
    from model.tokenizer.pruning import is_pruned_from
    from model.train.tokenizers import check_start

    model, source = Path(pretrain.settings.model), pack.tokenizer
    try:
        packed = configured_tokenizer(source)
    except SteelError:
        return  # reported with the settings of `pack`
    if not pack.prune:
        check_start(model, packed, f"pack.tokenizer = {source}")
        return
    own = load_folder_tokenizer(model)
    if len(own) >= len(packed) or not is_pruned_from(own, packed):
        raise ConfigError(
            f"pack.prune: no pruning of the vocabulary of {source} gives that of the model {model} "
            f"that the pretraining starts from, which has {len(own):,} tokens of its own: set "
            f"pack.prune: false and pack.tokenizer: {model}"
        )
