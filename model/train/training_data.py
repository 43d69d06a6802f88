"""A run's samples on this rank, as the trainer sees them: `StepData`, and pretraining's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from common.errors import ConfigError
from model.data import DataState, MicroBatch, PackedDataset, SampleOrder, StepLoader


class StepData(Protocol):
    """Batches by number, and the position in them; what follows from a number alone."""

    @property
    def sources(self) -> Sequence[str]:
        """Names whose losses are told apart; a micro-batch's `source` counts in them."""
        ...

    @property
    def num_batches(self) -> int:
        """Batches there are."""
        ...

    def step(self, batch: int) -> list[MicroBatch]:
        """This rank's micro-batches of a batch, equally many on each rank, one at least."""
        ...

    def num_tokens(self, batch: int) -> int | None:
        """Divisor of a rank's sum of losses of a batch; None: the tokens it was given."""
        ...

    def num_consumed(self, batch: int) -> int:
        """Samples of all batches before this one."""
        ...

    def position(self, batch: int) -> dict[str, float]:
        """Measurements of how far the data were read: all batches before this one."""
        ...

    def state(self, batch: int) -> str:
        """The same for a checkpoint, as JSON."""
        ...

    def check_state(self, state: str, batch: int) -> None:
        """Raise DataError or ConfigError for the state of other data or another position."""
        ...

    def close(self) -> None:
        """Release threads and files; stays usable."""
        ...


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

    @property
    def sources(self) -> Sequence[str]:
        """Sources of the packed data."""
        return self.order.sources

    @property
    def num_batches(self) -> int:
        """Full steps in the data."""
        return self.loader.num_steps

    def step(self, batch: int) -> list[MicroBatch]:
        """See `StepData`; samples [b G, (b + 1) G) split over ranks."""
        return self.loader.step(batch)

    def num_tokens(self, batch: int) -> int | None:
        """Every rank has as many."""
        return None

    def num_consumed(self, batch: int) -> int:
        """Samples of all batches before this one."""
        return batch * self.loader.global_batch_size

    def state(self, batch: int) -> str:
        """Position in the order of the samples."""
        return DataState.of(self.order, self.num_consumed(batch)).to_json()

    def check_state(self, state: str, batch: int) -> None:
        """Raise DataError or ConfigError for another order, or another batch size."""
        saved = DataState.from_json(state)
        saved.check_order(self.order)
        if saved.samples_consumed != self.num_consumed(batch):
            raise ConfigError(
                f"pretrain: the checkpoint consumed {saved.samples_consumed} samples in {batch} "
                f"batches, which global_batch_size = {self.loader.global_batch_size} does not "
                "give; use the global_batch_size it was trained with"
            )

    def close(self) -> None:
        """End the thread that reads ahead."""
        self.loader.close()

    def position(self, batch: int) -> dict[str, float]:
        """Measurements of how far the data were read."""
        samples = self.num_consumed(batch)
        epochs = self.order.expected_epochs(samples)
        return {
            "data/samples": float(samples),
            "data/tokens": float(samples * self.order.sequence_length),
            "data/batch": float(batch),
            **{f"data/epochs_{name}": value for name, value in epochs.items()},
        }
