"""Sizes of data sets that are not here yet, as data_recipes/paper/sizes.yaml states them."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from common.recipes import load_recipe


@dataclass(frozen=True, kw_only=True)
class CorpusSize:
    """Stated size of a corpus."""

    gigabytes: float = 0.0
    """10^9 bytes; 0 where documents are stated instead."""
    documents: int = 0
    """Documents; 0 where bytes are stated instead."""
    stated: str
    """Place of the statement."""


@dataclass(frozen=True, kw_only=True)
class FamilyRatios:
    """Ratios that samples of a family of corpora gave."""

    text: float
    """Bytes of text for each stored byte."""
    kept: float
    """Share of the text that cleaning keeps."""
    tokens: float
    """Tokens of a kept byte."""
    document: float
    """Stored bytes of a document."""


@dataclass(frozen=True, kw_only=True)
class SetSize:
    """Stated size of an SFT or preference set."""

    rows: int
    """Conversations or pairs."""
    chinese: float | None = None
    """Share of Chinese ones; None: as the recipe's language says."""
    stated: str
    """Place of the statement."""


@dataclass(frozen=True, kw_only=True)
class KnownSizes:
    """The whole file."""

    title: str
    """Its title."""
    source: str
    """Places of the statements."""
    corpora: Mapping[str, CorpusSize] = field(default_factory=dict)
    """By corpus."""
    families: Mapping[str, FamilyRatios] = field(default_factory=dict)
    """By family of corpora."""
    rows: Mapping[str, SetSize] = field(default_factory=dict)
    """By set."""


@functools.cache
def known_sizes() -> KnownSizes:
    """The file. Raises ConfigError."""
    return load_recipe(KnownSizes, "paper", "sizes")
