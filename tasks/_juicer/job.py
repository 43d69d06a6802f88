"""What tasks/clean.py tells the process that cleans the sources of one kind."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process has to do."""

    kind: str
    """`text` or `code`."""
    recipe: str
    """Name of the cleaning recipe."""
    inputs: dict[str, str]
    """Source -> its normalised file."""
    output: str
    """Folder for `<source>.jsonl`."""
    ledger: str
    """File for the ledger, written last."""
    spool: str
    """Folder for spooled texts."""
    models: str
    """Folder of language models and tokenizers."""
    language_model: dict[str, Any]
    """A LanguageModelConfig."""
    tokenizer: str
    """Where the tokenizer comes from; see tasks/_tokenizer.py."""
    examples: int
    """Examples per operator and source."""


def write_job(job: Job, path: Path) -> None:
    """Write a job for `main` to read."""
    path.write_text(json.dumps(asdict(job), ensure_ascii=False), encoding="utf-8")
