"""Everything that can be refused before work starts, in one pass over the configuration."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from flows.config import PipelineConfig
from tasks._disk import require_free_space
from tasks.acquire import AcquireKind

KINDS: tuple[AcquireKind, ...] = ("corpora", "sft", "preferences", "evals")

STORE_BYTES = 512 * 1024**2
"""What the smallest pipeline writes besides its corpora: environments, checkpoints, caches."""


def preflight(config: PipelineConfig, store: Path) -> None:
    """Check every stage's config, the raw data, the tokenizer and the disk.

    Raises ConfigError or DataError with one message that says what is wrong, where, and what to do.
    """
    require_free_space(store, STORE_BYTES, f"pipeline {config.name!r}")
    for kind in KINDS:
        stage("acquire").check(config.acquire(kind))
    for name in ("normalize", "clean", "pretrain", "evaluate", "report"):
        _check(name, getattr(config, name))
    for mixture in config.mixtures:
        _check("sft", config.sft_of(mixture))
    _check("dpo", config.dpo)
    # Last, because reading a tokenizer takes seconds.
    _check("pack", config.pack)


def stage(name: str) -> ModuleType:
    """The module of a stage (its function has the same name and would hide it)."""
    return importlib.import_module(f"tasks.{name}")


def _check(name: str, config: Any) -> None:
    if config is not None:
        stage(name).check(config)
