"""A run's samples on this rank, as the trainer sees them."""

from dataclasses import dataclass

from model.data import PackedDataset, SampleOrder, StepLoader


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Samples to train on and to validate with; another one after data were appended."""

    loader: StepLoader
    validation: PackedDataset
    num_validation: int
    """Held-out samples used per validation; 0 = none."""

    @property
    def order(self) -> SampleOrder:
        """The order of all data."""
        return self.loader.dataset.order

    def position(self, samples: int, batch: int) -> dict[str, float]:
        """Measurements of how far the data were read: `samples` of the order, `batch` batches."""
        epochs = self.order.expected_epochs(samples)
        return {
            "data/samples": float(samples),
            "data/tokens": float(samples * self.order.sequence_length),
            "data/batch": float(batch),
            **{f"data/epochs_{name}": value for name, value in epochs.items()},
        }
