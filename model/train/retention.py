"""When checkpoints are written, and which of them are kept: the settings' group `checkpoints`."""

from dataclasses import dataclass

from model.train.config_fields import require


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """How often state is saved, and for how long."""

    every: int = 1000
    """Steps between checkpoints; one is also written at the end and on SIGTERM."""
    keep_last: int = 3
    """Newest complete checkpoints that are kept."""

    def check(self) -> None:
        """Refuse values that make no sense. Raises ConfigError."""
        for name in ("every", "keep_last"):
            require(self, "pretrain: checkpoints.", name, getattr(self, name) >= 1, "at least 1")
