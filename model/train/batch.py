"""Split of a step's samples over ranks and micro-batches; shared by all trainings."""

from collections.abc import Mapping
from typing import ClassVar

from common.config import Config
from common.errors import ConfigError
from common.ranges import Samples


class BatchSettings(Config):
    """Settings of a training whose step is split evenly over ranks and micro-batches."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "global_batch": "global_batch_size",
        "micro_batch": "micro_batch_size",
        "log_every": "log_interval",
    }

    global_batch_size: Samples
    micro_batch_size: Samples

    def check_ranks(self, num_processes: int) -> None:
        """Raise ConfigError for a batch that the ranks cannot split evenly."""
        together = self.micro_batch_size * num_processes
        if num_processes < 1 or self.global_batch_size % together:
            raise ConfigError(
                f"global_batch_size = {self.global_batch_size} is not a multiple of "
                f"micro_batch_size x processes = {self.micro_batch_size} x {num_processes} = "
                f"{together}; change one"
            )

    def fitting_ranks(self, available: int, num_nodes: int = 1) -> int:
        """Most of a machine's `available` ranks that split the batch evenly; 1 if none do."""
        together = self.micro_batch_size * num_nodes
        ranks = range(max(1, available), 0, -1)
        return next((n for n in ranks if self.global_batch_size % (together * n) == 0), 1)
