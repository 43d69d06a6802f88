"""Settings of the model that judges web pages."""

import glob
import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from common.config import Config, errors_of
from common.errors import ConfigError, DataError, SteelError
from common.files import glob_files
from common.names import is_name
from common.paths import display, resolve
from common.ranges import Ge, Le, Limit
from corpus.cleaning.quality.labels import fewer_than, read_labels

KINDS = (".npz", ".bin")

FASTTEXT = "fasttext"
"""Package that reads a .bin. Optional: it is built from source."""


def fasttext_missing() -> Iterator[ConfigError]:
    """Yield an error where a .bin cannot be read."""
    if importlib.util.find_spec(FASTTEXT) is None:
        yield ConfigError(
            "a fastText .bin needs the package fasttext, an optional part: "
            ".venv/bin/python -m pip install -c requirements.lock -e '.[fasttext]'"
        )


FEWEST = 20
"""Pages of each kind that a model is trained on, at least."""


@dataclass(frozen=True, kw_only=True)
class QualityConfig(Config):
    """The model that scores web pages, and the share of each source that goes.

    Absent: the model that Steel ships. A recipe without quality_filter needs none of this.
    """

    model: str | None = None
    """A model: an .npz that Steel trained, or a fastText .bin of two labels. fastText's own code
    reads a .bin and trusts it: name one whose origin you know."""
    hub: str | None = None
    """A repository on the hub with a fastText model, as openbmb/Ultra-FineWeb-classifier."""
    hub_file: str = ""
    """The file in it, as classifiers/ultra_fineweb_zh.bin."""
    revision: str = "main"
    """Branch, tag or commit of `hub`."""
    good_label: str = "__label__pos"
    """Label of good pages in a fastText model."""
    positives: tuple[str, ...] = ()
    """Good pages to train on: sources of the pipeline, or files and globs of .jsonl ({"text"}) or
    .txt (a page a line), also .gz."""
    negatives: tuple[str, ...] = ()
    """Bad ones, the same way."""
    labels: tuple[str, ...] = ()
    """Files of verdicts on single pages to train on, of a review or one's own: .jsonl with
    `sha256` and `verdict`. They serve beside positives and negatives, or alone."""
    max_pages: Annotated[int, Ge(20), Limit(10**6)] = 20_000
    """Pages of each kind to train on at most, in equal shares of all that is named: drawn by
    hash from a .jsonl, from the front of other files; 20 or more."""
    drop_shares: dict[str, Annotated[float, Ge(0), Le(1)]] = field(default_factory=dict)
    """Share of a source's pages to drop, the lowest scores first, as in {skypile: 0.2}; the bound
    is taken from `sample` of its pages. Sources not named: the recipe's `min_score`."""
    sample: Annotated[int, Ge(100), Limit(10**6)] = 2000
    """Pages of a source that its bound is taken from; 100 or more."""

    @property
    def trains(self) -> bool:
        """True if a model is to be trained here."""
        return bool(self.positives or self.negatives or self.labels)

    def check(self) -> Iterator[SteelError]:
        if sum((self.model is not None, self.hub is not None, self.trains)) > 1:
            yield ConfigError(
                "give one of `model`, `hub`, and what to train on (`labels`, or `positives` with "
                "`negatives`)"
            )
        if bool(self.positives) != bool(self.negatives):
            yield ConfigError("`positives` and `negatives` come together: a model needs both")
        if self.model is not None and Path(self.model).suffix not in KINDS:
            yield ConfigError(f"model = {self.model} is neither an .npz nor a fastText .bin")
        if (self.hub is None) != (not self.hub_file):
            yield ConfigError("`hub` and `hub_file` come together")
        elif self.hub is not None and Path(self.hub_file).suffix != ".bin":
            yield ConfigError(f"hub_file = {self.hub_file} is no fastText .bin")
        if ".bin" in (Path(self.model or "").suffix, Path(self.hub_file).suffix):
            yield from fasttext_missing()
        for entry in (*self.positives, *self.negatives):
            if not is_name(entry) and not page_files(entry):
                yield DataError(
                    f"{entry} is no source and matches no file. Name a source of the pipeline, or "
                    "files (.jsonl, .txt)."
                )

        if self.labels:
            yield from errors_of(self._check_labels)

    def _check_labels(self) -> None:
        found = read_labels(self.label_files())
        if not self.positives and (few := fewer_than(found, FEWEST)):
            raise DataError(
                f"{', '.join(self.labels)}: {' and '.join(few)} pages of {FEWEST} that a model "
                "needs. Judge more, or name `positives` and `negatives` too."
            )

    def label_files(self) -> list[Path]:
        """The files of verdicts."""
        return [resolve(entry) for entry in self.labels]

    def given_files(self) -> list[Path]:
        """Files of its own that decide about the result, sorted."""
        listed = [file for e in (*self.positives, *self.negatives) for file in page_files(e)]
        listed += self.label_files()
        if self.model is not None:
            listed.append(resolve(self.model))
        return sorted({file for file in listed if file.is_file()})


def page_files(entry: str) -> Sequence[Path]:
    """The files behind an entry of `positives` or `negatives`; none for the name of a source."""
    path = resolve(entry)
    found = glob_files(path)[1] if glob.has_magic(str(path)) else [path]
    return [path for path in found if path.is_file()]


def find_quality_model(config: QualityConfig) -> Path | None:
    """The file of a given model, fetched from the hub where it comes from there; None without one.

    Raises DataError when it is missing; the message says how to get it.
    """
    if config.model is not None:
        path = resolve(config.model)
        if not path.is_file():
            raise DataError(
                f"{display(path)} does not exist (clean.quality.model). Copy it there (a finished "
                "clean stage keeps what it trained in quality_model), or leave it out for the "
                "model that Steel ships."
            )
        return path
    if config.hub is None:
        return None
    try:
        return Path(
            huggingface_hub.hf_hub_download(
                config.hub,
                config.hub_file,
                revision=config.revision,
                # An endpoint given in the environment after the library was imported counts too.
                endpoint=os.environ.get("HF_ENDPOINT"),
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise DataError(
            f"The quality model {config.hub}/{config.hub_file} (clean.quality.hub) could not be "
            f"fetched: {type(error).__name__}. Run `hf download {config.hub} {config.hub_file}` "
            "where there is a network, or leave it out for the model that Steel ships."
        ) from error
