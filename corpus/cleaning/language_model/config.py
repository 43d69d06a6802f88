"""Settings of the perplexity filter's language model."""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from common.config import Config
from common.errors import ConfigError, DataError, SteelError
from common.files import glob_files
from common.names import Name
from common.paths import display, resolve
from common.ranges import Ge, Limit, PositiveInt


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig(Config):
    """The model that measures perplexity: trained here (the default), from a folder or the hub."""

    folder: str | None = None
    """A folder with `zh.sp.model` (sentencepiece) and `zh.arpa.bin` (KenLM, binary or text)."""
    hub: str | None = None
    """A model repository on the hub that has these two files, in whatever folder."""
    revision: str = "main"
    """Branch, tag or commit of `hub`."""
    texts: str | None = None
    """A clean corpus of one's own to train on: a file or glob of .jsonl ({"text"}) or .txt (a
    document a line), also .gz. Absent: `sources`."""
    sources: tuple[Name, ...] = ("wikipedia_cn", "baidu_baike")
    """Corpora to train on: the ones whose language is cleanest. Those that are not in the pipeline
    are left out; where none is, all text corpora serve."""
    vocabulary: Annotated[int, Ge(100), Limit(10**6)] = 8000
    """Largest number of pieces; 100 or more."""
    order: Literal[2, 3] = 3
    """Longest n-gram: 2 or 3."""
    max_characters: PositiveInt = 20_000_000
    """Characters to train on at most, in equal shares from the front of the sources."""

    @property
    def given(self) -> bool:
        """True if a trained model is named, and none is to be trained here."""
        return self.folder is not None or self.hub is not None

    def check(self) -> Iterator[SteelError]:
        if sum(given is not None for given in (self.folder, self.hub, self.texts)) > 1:
            yield ConfigError("give one of `folder`, `hub` and `texts`, not several")
        if self.texts is not None and not self.text_files():
            yield DataError(
                f"texts = {self.texts} matches no file. Give .jsonl or .txt files, or leave it "
                "out to train on corpora of the pipeline."
            )

    def text_files(self) -> list[Path]:
        """The files behind `texts`, sorted."""
        assert self.texts is not None
        path = resolve(self.texts)
        found = glob_files(path)[1] if glob.has_magic(str(path)) else [path]
        return [path for path in found if path.is_file()]


def find_language_model(config: LanguageModelConfig, language: str) -> tuple[Path, Path]:
    """The two files of a trained model, fetched from the hub where it comes from there.

    Raises DataError when one is missing; the message says how to get it.
    """
    names = f"{language}.sp.model", f"{language}.arpa.bin"
    if config.hub is not None:
        return _from_hub(config.hub, config.revision, names)
    assert config.folder is not None
    folder = resolve(config.folder)
    for name in names:
        if not (folder / name).is_file():
            raise DataError(
                f"{display(folder / name)} does not exist: clean.language_model.folder must hold "
                f"{names[0]} and {names[1]}. Copy them there (a finished clean stage keeps what it "
                "trained in language_model), name a repository that has them as "
                "clean.language_model.hub, or leave both out to train a model."
            )
    return folder / names[0], folder / names[1]


def _from_hub(repository: str, revision: str, names: tuple[str, str]) -> tuple[Path, Path]:
    patterns = [pattern for name in names for pattern in (name, f"*/{name}")]
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repository,
                revision=revision,
                allow_patterns=patterns,
                # An endpoint given in the environment after the library was imported counts too.
                endpoint=os.environ.get("HF_ENDPOINT"),
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise DataError(
            f"The language model {repository} (clean.language_model.hub) could not be fetched: "
            f"{type(error).__name__}. Run `hf download {repository} --include '*{names[0]}' "
            f"'*{names[1]}'` where there is a network, or leave it out to train a model."
        ) from error
    found = [sorted(folder.rglob(name)) for name in names]
    for name, paths in zip(names, found, strict=True):
        if len(paths) != 1:
            raise DataError(
                f"{repository}@{revision} has {len(paths)} files named {name}; one is needed. Copy "
                "the right pair into a folder and give it as clean.language_model.folder."
            )
    return found[0][0], found[1][0]
