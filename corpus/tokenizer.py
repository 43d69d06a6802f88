"""The configured tokenizer, obtained once per machine and kept."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from common.paths import ROOT, resolve
from model.tokenizer.qwen import obtain_tokenizer

CACHE = ROOT / ".steel" / "tokenizers"
"""Rebuilding a tokenizer from a package's rank file takes seconds; the result is kept here."""


def configured_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Qwen1.5's tokenizer from a configured source, its ids verified.

    Args:
        source: "auto", "package", a folder (relative ones start at the project's root), or a hub
            id.

    Raises:
        DataError: nothing is there, or it is another tokenizer; the message names what was tried.
    """
    folder = resolve(source)
    return obtain_tokenizer(str(folder) if folder.is_dir() else source, cache=_cache())


def _cache() -> Path | None:
    """Folder to keep it in; None if the project's folder may not be written to."""
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return CACHE
