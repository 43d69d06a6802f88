"""The configured tokenizer, obtained once per machine and kept."""

from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigError
from common.files import digest_of
from common.paths import ROOT, resolve
from model.tokenizer.identity import SEAL, VOCABULARY_MD5, files_are_qwen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CACHE = ROOT / ".steel" / "tokenizers"
"""Rebuilding a tokenizer from a package's rank file takes seconds; the result is kept here."""


def configured_tokenizer(source: str) -> "PreTrainedTokenizerBase":
    """Qwen1.5's tokenizer from a configured source, its ids verified; or a model's own.

    Args:
        source: "auto", "package", a folder (relative ones start at the project's root), or a hub
            id. The folder of a model, or of a tokenizer that Steel wrote, may hold another one.

    Raises:
        DataError: nothing is there, or it is another tokenizer; the message names what was tried.
    """
    from model.tokenizer.folder import load_folder_tokenizer
    from model.tokenizer.qwen import get_tokenizer

    place = _place(source)
    if _holds_own(place):
        own = load_folder_tokenizer(Path(place))
        if digest_of(own.get_vocab()) != VOCABULARY_MD5:
            return own
    return get_tokenizer(place, cache=_cache())


def check_tokenizer(source: str) -> None:
    """Verify the ids of a configured tokenizer. Raises DataError as `configured_tokenizer`."""
    if not files_are_qwen(_place(source)):
        configured_tokenizer(source)


def check_prunable(source: str) -> None:
    """Refuse to prune another vocabulary than Qwen1.5's. Raises ConfigError."""
    place = _place(source)
    if _holds_own(place) and not files_are_qwen(place):
        raise ConfigError(
            f"pack.prune cuts Qwen1.5's vocabulary, but {source} holds a model's own, which must "
            "stay as the model knows it: set pack.prune: false"
        )


def _holds_own(place: str) -> bool:
    """True for a folder whose tokenizer belongs to something: a model, or packed data."""
    return any((Path(place) / name).is_file() for name in ("config.json", SEAL))


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
