"""The job of the process that cleans the sources of one kind."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class CleanJob:
    """Sources to clean, and everything that decides how."""

    kind: str
    """`text` or `code`."""
    recipe: str
    """Name of the cleaning recipe."""
    inputs: dict[str, str]
    """Source -> its normalised file."""
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
