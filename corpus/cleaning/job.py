"""The job of the process that cleans all sources."""

from dataclasses import dataclass, field
from typing import Any, Literal

from corpus.recipes import Family


@dataclass(frozen=True, kw_only=True)
class FamilyJob:
    """The sources of one family."""

    recipe: str
    """Name of the cleaning recipe."""
    inputs: dict[str, str]
    """Source -> its normalised file."""


@dataclass(frozen=True, kw_only=True)
class CleanJob:
    """Sources to clean, and everything that decides how."""

    families: dict[Family, FamilyJob]
    """Families that have sources, each with its recipe."""
    output: str
    """Folder for `<source>/<number>.jsonl` and `documents/`."""
    ledger: str
    """File for the ledger, written last."""
    scratch: str
    """Folder for partitions that are under way; kept until the ledger is written."""
    models: str
    """Folder of language models and tokenizers."""
    language_model: dict[str, Any]
    """A LanguageModelConfig."""
    tokenizer: str
    """Source of the tokenizer (corpus/tokenizer.py)."""
    examples: int
    """Examples per operator and source."""
    partition_bytes: int
    """Size of a partition of a source, in bytes of normalised text."""
    workers: int
    """Worker processes."""
    contamination: str
    """Index of evaluation questions; empty: none is looked for."""
    contamination_action: str
    """`drop` or `flag`."""
    executor: Literal["local", "ray"]
    """Engine that runs the operators."""
    ray: dict[str, Any]
    """A RayConfig (corpus/cleaning/ray/plan.py)."""

    quality: dict[str, Any] = field(default_factory=dict)
    """A QualityConfig."""
    cache: str = ""
    """Folder of what is made once for the same content; empty: nothing is kept."""

    @property
    def inputs(self) -> dict[str, str]:
        """Source -> its normalised file, of all families, in the order of their names."""
        return dict(sorted(pair for one in self.families.values() for pair in one.inputs.items()))

    @property
    def family_of(self) -> dict[str, Family]:
        """Source -> its family."""
        return {source: name for name, one in self.families.items() for source in one.inputs}
