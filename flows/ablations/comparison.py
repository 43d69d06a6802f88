"""Parts that all comparisons of trainings share: the check of what is asked for, the open run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.redaction import hidden_in_errors, redacted
from flows.config import PipelineConfig
from flows.runs.session import tracked
from tasks.core.stage import Context, plain


def each_once(name: str, what: str, values: Sequence[object], *, least: int = 1) -> None:
    """Refuse values that a comparison names twice, or fewer than it needs.

    name: of the comparison; what: the values' plural, as in `seeds`.

    Raises ConfigError.
    """
    if len(set(values)) < len(values) or len(values) < least:
        wanted = f"one or more {what}" if least else what
        raise ConfigError(f"{name}: name {wanted}, each once: {list(values)}")


@contextmanager
def compared(
    name: str, config: PipelineConfig, store: Path, asked: Mapping[str, Any]
) -> Iterator[Context]:
    """The MLflow run of a comparison, open for the length of the block.

    Args:
        name: of the comparison.
        config: whose trainings are compared; it says, too, what to do while others have the GPUs.
        store: folder of all results.
        asked: what the comparison was called with; recorded with the configuration.
    """
    with hidden_in_errors():
        recorded = redacted({**plain(dict(asked)), **plain(config)})
    with tracked(f"{name} {config.name}", store, recorded) as context:
        yield replace(context, when_busy=config.devices.when_busy)
