"""The configured tokenizer, obtained once per machine and kept."""

from pathlib import Path
from typing import TYPE_CHECKING

from common.paths import ROOT, resolve
from model.tokenizer.identity import files_are_qwen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CACHE = ROOT / ".steel" / "tokenizers"
"""Rebuilding a tokenizer from a package's rank file takes seconds; the result is kept here."""


def configured_tokenizer(source: str) -> "PreTrainedTokenizerBase":
    """Qwen1.5's tokenizer from a configured source, its ids verified.

    Args:
        source: "auto", "package", a folder (relative ones start at the project's root), or a hub
            id.

    Raises:
        DataError: nothing is there, or it is another tokenizer; the message names what was tried.
    """
    from model.tokenizer.qwen import get_tokenizer

    return get_tokenizer(_place(source), cache=_cache())


def check_tokenizer(source: str) -> None:
    """Verify the ids of a configured tokenizer. Raises DataError as `configured_tokenizer`."""
    if not files_are_qwen(_place(source)):
        configured_tokenizer(source)


def _place(source: str) -> str:
    folder = resolve(source)
    return str(folder) if folder.is_dir() else source


def _cache() -> Path | None:
    """Folder to keep it in; None if the project's folder may not be written to."""
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return CACHE
