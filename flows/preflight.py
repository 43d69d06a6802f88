"""Everything that can be refused before work starts, in one pass over the configuration."""

import importlib
from pathlib import Path
from typing import Any

from common.disk import require_free_space
from corpus.sample_data import DatasetKind
from flows.config import PipelineConfig
from tasks import acquire, pretrain
from tasks.pretrain.appends import check_data

KINDS: tuple[DatasetKind, ...] = ("corpora", "sft", "preferences", "evals")

COPIES = 7
"""How often a corpus lies in the store at the most: raw, normalized, while it is cleaned (four
times), as shards."""

OTHER_BYTES = 256 * 1024**2
"""Databases, logs, answers, chat models of the smallest pipeline."""

QWEN_VOCABULARY = 151_936
"""Rows of a whole Qwen1.5 embedding; a pruned one is not known before the corpus is cleaned."""


def preflight(config: PipelineConfig, store: Path) -> None:
    """Check every stage's config, the raw data, the tokenizer and the disk.

    Raises ConfigError or DataError with one message that says what is wrong, where, and what to do.
    """
    for kind in KINDS:
        acquire.check(config.acquire(kind))
    for name in ("normalize", "clean", "pretrain", "evaluate", "report"):
        _check(name, getattr(config, name))
    for mixture in config.mixtures:
        _check("sft", config.sft_of(mixture))
    _check("dpo", config.dpo)
    check_data(config.pretrain.append, store)
    require_free_space(store, bytes_needed(config), f"pipeline {config.name!r}")
    # Last, because reading a tokenizer takes seconds.
    _check("pack", config.pack)


def bytes_needed(config: PipelineConfig) -> int:
    """Disk that the whole pipeline takes, as far as it can be known before it runs."""
    data = {kind: acquire.bytes_needed(config.acquire(kind)) for kind in KINDS}
    vocabulary = 1 if config.pack.prune else QWEN_VOCABULARY
    checkpoints = pretrain.bytes_needed(config.pretrain, vocab_size=vocabulary)
    return COPIES * data["corpora"] + sum(data.values()) + checkpoints + OTHER_BYTES


def _check(name: str, config: Any) -> None:
    """Call a stage module's own `check`, where the pipeline has such a stage."""
    if config is not None:
        importlib.import_module(f"tasks.{name}").check(config)
