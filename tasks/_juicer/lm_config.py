"""Settings of the perplexity filter's language model."""

from dataclasses import dataclass
from pathlib import Path

from model.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """The model that measures perplexity."""

    folder: str | None = None
    """A folder with `zh.sp.model` and `zh.arpa.bin` to use; None: train one from the corpus."""
    sources: tuple[str, ...] = ("wikipedia_cn", "baidu_baike")
    """Corpora to train on: the ones whose language is cleanest. Those that are not in the pipeline
    are left out; where none is, all text corpora serve."""
    vocabulary: int = 8000
    """Most pieces. Below 100 makes no sense."""
    order: int = 3
    """Longest n-gram: 2 or 3."""
    max_characters: int = 20_000_000
    """Characters to train on at most, from the front of the sources in turn."""

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        if self.order not in (2, 3):
            raise ConfigError(f"clean.language_model.order must be 2 or 3 (got {self.order})")
        if self.vocabulary < 100:
            raise ConfigError(
                f"clean.language_model.vocabulary must be at least 100 (got {self.vocabulary})"
            )
        if self.max_characters < 1:
            raise ConfigError(
                f"clean.language_model.max_characters must be positive (got {self.max_characters})"
            )


def find_language_model(folder: Path, language: str) -> tuple[Path, Path]:
    """The two files of a trained model. Raises DataError when one is missing."""
    files = folder / f"{language}.sp.model", folder / f"{language}.arpa.bin"
    for file in files:
        if not file.is_file():
            raise DataError(
                f"{file} does not exist: clean.language_model.folder must hold "
                f"{language}.sp.model and {language}.arpa.bin. Leave it out to train a model."
            )
    return files
