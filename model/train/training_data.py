"""A run's samples on this rank, as the trainer sees them."""

from collections.abc import Callable
from dataclasses import dataclass

from model.data import PackedDataset, StepLoader


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Samples to train on and to validate with; another one after data were appended."""

    loader: StepLoader
    validation: PackedDataset
    num_validation: int
    """Held-out samples used per validation; 0 = none."""
    sources: tuple[str, ...]
    state: Callable[[int], str]
    """The data position's JSON after so many samples."""
    check_state: Callable[[str], int]
    """Samples consumed, from that JSON; raises DataError when it belongs to other data."""

    def position(self, samples: int, batch: int) -> dict[str, float]:
        """Measurements of how far the data were read: `samples` of the order, `batch` batches."""
        order = self.loader.dataset.order
        epochs = order.expected_epochs(samples)
        return {
            "data/samples": float(samples),
            "data/tokens": float(samples * order.sequence_length),
            "data/batch": float(batch),
            **{f"data/epochs_{name}": value for name, value in epochs.items()},
        }
