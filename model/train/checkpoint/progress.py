"""Position of a run, and its file in every checkpoint: trainer.json.

    batch   0   1   2   3   4   5         global batches consumed: the position in the data
    step    0   1   2   .   3   4         optimizer steps: the position in the schedule
                        └── skipped: its samples are consumed, no step is made of them

Samples [0, batch x global_batch_size) are consumed. Without a skipped batch the two are equal.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from common.errors import DataError, shown
from common.reading.files import parse_json
from model.train.run.folder import PROGRESS_FILE


@dataclass(kw_only=True)
class Progress:
    """The position of a run; equal on every rank, changed by the trainer alone."""

    step: int = 0
    """Completed optimizer steps."""
    batch: int = 0
    """Global batches consumed, skipped ones included; never less than `step`."""

    def to_json(self, **more: Any) -> str:
        """Return the file's text, with what else belongs to this position (JSON values)."""
        return json.dumps({**asdict(self), **more}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> tuple["Progress", dict[str, Any]]:
        """Read the position and everything else. Raises DataError for another file."""
        try:
            content = parse_json(text, f"a checkpoint's {PROGRESS_FILE}")
            own = {name: content.pop(name) for name in ("step", "batch")}
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"a checkpoint's {PROGRESS_FILE} cannot be read: {error!r}") from error
        except DataError as error:
            raise DataError(f"a checkpoint's {PROGRESS_FILE} cannot be read: {error}") from error
        if any(type(n) is not int for n in own.values()) or not 0 <= own["step"] <= own["batch"]:
            raise DataError(f"a checkpoint's {PROGRESS_FILE} cannot be read: {shown(own)}")
        return cls(**own), content
